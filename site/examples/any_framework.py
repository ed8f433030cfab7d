"""Outputs of any framework, here of trees: a rule with a proof is chosen for them, and deployed in a loop of numpy."""

from itertools import pairwise

import numpy as np
from lightgbm import LGBMClassifier
from sklearn.datasets import load_digits

from eelit.methods import calibrate, load_rule, read

ROUNDS = [4, 8, 16, 32, 64]  # of boosting, after which the model may answer
x, y = load_digits(return_X_y=True)
train, held_out, new = np.split(np.random.default_rng(0).permutation(len(y)), [700, 1500])
model = LGBMClassifier(n_estimators=ROUNDS[-1], num_leaves=8, n_jobs=1, verbose=-1).fit(x[train], y[train])

z = [model.predict(x[held_out], raw_score=True, num_iteration=rounds) for rounds in ROUNDS]
np.savez("logits.npz", logits=z, labels=y[held_out], costs=ROUNDS, unit="rounds")
logits = read("logits.npz")
calibrate(logits, "max-confidence", risk=0.02, delta=0.05).save("rule.json")

rule = load_rule("rule.json")  # from here on: what is deployed
rest, memory, z, answers, spent = np.arange(len(new)), rule.start(), 0.0, np.zeros(len(new), int), 0
for number, (done, rounds) in enumerate(pairwise([0, *ROUNDS])):
    z = z + model.predict(x[new[rest]], raw_score=True, start_iteration=done, num_iteration=rounds - done)
    stop, spent = np.full(len(rest), rounds == ROUNDS[-1]), spent + len(rest) * (rounds - done)
    if number in rule.enabled[:-1]:
        memory, stop = rule.step(memory, z)
    answers[rest[stop]] = z[stop].argmax(axis=1)
    rest, z, memory = rest[~stop], z[~stop], tuple(part[~stop] for part in memory)
    if not len(rest):
        break
right, share = (answers == y[new]).mean(), spent / (len(new) * ROUNDS[-1])
print(f"{right:.1%} of {len(new)} digits right, with {share:.1%} of all trees")
