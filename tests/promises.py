"""What calibrating promises, tried on real outputs: samples are drawn anew again and again, a rule is chosen for each.

What a rule loses in truth is its mean loss on all outputs, from which samples are drawn.
"""

import math

import numpy as np
from stored import COSTS, digits

from eelit.methods.harness.own_speed import Promise
from eelit.methods.own.calibrate import CannotPromise, calibrate
from eelit.methods.own.decide import decide
from eelit.methods.own.logits import Logits
from eelit.methods.own.scores import Scores

TIMES = 1000
DRAWN = 300
SETTINGS = 12
RISK, DELTA = 0.05, 0.1


def real():
    """Return real outputs: scikit-learn's digits, of which each exit sees more pixels."""
    z, y = digits()
    return Logits(z, y, COSTS, unit="pixels", name="digits")


def risk_on(data):
    """Return a function: rule → the mean loss on all outputs, from which samples are drawn."""
    scores = Scores(data, threads=1)

    def risk(rule):
        lost = scores.gain[-1] - decide(rule.parts[0][1], scores, rule.enabled).gain
        return float(np.maximum(lost, 0).mean())

    return risk


def resampled(data, n=DRAWN, times=TIMES):
    """Yield samples drawn from the outputs, each independent of the others, with the seed that halves them."""
    rng = np.random.default_rng(1)
    for seed in range(times):
        rows = rng.integers(0, data.samples, n)
        yield Scores(Logits(data.z[:, rows], data.labels[rows], COSTS, axes="enc", kind="logits"), threads=1), seed


def tried(data, times=TIMES, **goal):
    """Return the rules that are found for a goal, and what each loses in truth; the full model, if none, nothing."""
    rules, lost, risk = [], [], risk_on(data)
    for scores, seed in resampled(data, times=times):
        try:
            rules.append(calibrate(scores, "max-confidence", seed=seed, settings=SETTINGS, **goal))
            lost.append(risk(rules[-1]))
        except CannotPromise:
            lost.append(0.0)
    return rules, np.array(lost)


def learn_then_test(data, times=TIMES):
    """Return how often rules lose more than the risk that was proved with confidence, and the rules."""
    rules, lost = tried(data, times, risk=RISK, delta=DELTA)
    promise = Promise(
        method="Learn then Test", risk=RISK, delta=DELTA, draws=times, samples=DRAWN, found=float((lost > RISK).mean()),
        deviation=math.sqrt(DELTA * (1 - DELTA) / times), promised=len(rules),
    )  # fmt: skip
    return promise, rules


def conformal_risk_control(data, times=TIMES):
    """Return what rules lose on average whose mean loss is controlled, and what each loses."""
    rules, lost = tried(data, times, mean_risk=RISK)
    promise = Promise(
        method="conformal risk control", risk=RISK, delta=None, draws=times, samples=DRAWN, found=float(lost.mean()),
        deviation=float(lost.std() / math.sqrt(times)), promised=len(rules),
    )  # fmt: skip
    return promise, lost
