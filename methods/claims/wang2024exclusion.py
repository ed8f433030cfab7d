"""What EECE claims: much less computation at little loss, classes struck out early, better than stopping when sure."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.claims.comparisons import gains_of_mixtures, on_average, without_ends
from eelit.methods.claims.paired import GAINS, mean_gain
from eelit.methods.claims.paired import gains_of_mixtures as paired_gains
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, at_exit
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.wang2024exclusion import ClassExclusionExits, head_weights
from eelit.methods.policies.base import Policy
from eelit.methods.recipes.joint import train_joint

TOLERANCE = 0.001
"""The paper's, at which exclusion is judged beside another rule."""
LOSS = 0.01
"""Accuracy that may be lost on validation data."""


class Confident(ClassExclusionExits):
    """The paper's rival: the same heads with the same weights in the loss, but trained to answer, and softmax."""

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Minimise ``CE(z, y) + sum_l 1 / (N - l + 1) CE(u_l, y)``."""
        train_joint(model, data, bench, weights=[*head_weights(model.exits - 1), 1.0], **self.options)


def claims(method: ClassExclusionExits, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """A tolerance chosen on validation data saves much; few classes are left; sure exits do worse."""
    best = cheapest_within(curve.validation, curve.test, LOSS)
    saved, lost = 1 - 1 / best.speed_up, curve.full_quality - best.quality
    less = Outcome(
        name="much less computation at little loss",
        statement="The cheapest tolerance that loses a point at most on validation data saves a quarter of the "
        "multiply-accumulates on test data, and loses a point at most there.",
        holds=saved >= 0.25 and lost <= LOSS,
        measured=f"{saved:.1%} saved at tolerance {best.knob:g}, accuracy {-lost:+.4f}",
    )
    ours = Baseline(name=method.key, validation=curve.validation, test=curve.test)
    return [less, few_are_left(method, prepared, best.knob), surer(method, bench, ours)]


def few_are_left(method: ClassExclusionExits, prepared: Prepared, tolerance: float) -> Outcome:
    """Look at the classes that remain: how many, layer by layer, and whether exclusion cost the last layer's answer.

    Of an image that has left, what it left with remains.
    """
    seen, policy = prepared.split("test"), method.rule(tolerance, prepared)
    exits = torch.as_tensor(replay(policy, seen.outputs))
    everybody, last = torch.arange(len(exits)), exits == len(seen.outputs) - 1
    remaining = torch.stack(remaining_classes(policy, seen.outputs))
    sizes = remaining.sum(dim=-1).double()
    by_layer = [float(sizes[exits.clamp(max=i), everybody].mean()) for i in range(len(seen.outputs) - 1)]
    left = float(sizes[-1, last].mean()) if last.any() else 0.0
    known = seen.answers[-1].argmax(dim=-1) == seen.targets
    kept = float(remaining[exits, everybody, seen.targets][known].double().mean()) if known.any() else 1.0
    told = ", ".join(f"{size:.2f}" for size in by_layer)
    return Outcome(
        name="the last layer chooses among few classes",
        statement="At the same tolerance, test images that reach the last layer have at most half of the classes left "
        "on average; and of all test images that the last layer by itself, without exclusion, has right, 98 % still "
        "have the true class where they leave.",
        holds=left <= remaining.shape[-1] / 2 and kept >= 0.98,
        measured=f"{left:.2f} of {remaining.shape[-1]} left for the {int(last.sum())} images that reach the last "
        f"layer, the true one for {kept:.1%} of the {int(known.sum())} that it has right; left after each head: {told}",
    )


def remaining_classes(policy: Policy, outputs: Tensor) -> list[Tensor]:
    """Return which classes remain ``[n, C]`` after each exit, for logits ``[E, n, C]``, if nobody stopped."""
    state, found = policy.start(), []
    for i in range(len(outputs)):
        state, _ = policy.step(state, at_exit(outputs, i))
        found.append(state[0])
    return found


def surer(method: ClassExclusionExits, bench: Bench, ours: Baseline) -> Outcome:
    """Compare with the rival, which stops when the largest probability is high enough, at the cost of one tolerance.

    What the other tolerances gain, all but the ends, at which all rules are the same, is told beside.
    """
    rival = Confident(**{field.name: getattr(method, field.name) for field in fields(method)})
    surest = next(b for b in rival.baselines(rival.prepare(bench), bench) if b.name == "max-confidence")
    found = at_the_cost_of(at_knob(ours, TOLERANCE), surest)
    gain = mean_gain(found)
    told = str(gain) if found else "no threshold is as cheap"
    curve = on_average(gains_of_mixtures(without_ends(ours), without_ends(surest)))
    return Outcome(
        name="better than stopping when sure",
        statement=f"At the paper's tolerance, {TOLERANCE:g}, accuracy on test data is half a point higher, {GAINS}, "
        "than that of the same heads trained to answer and stopped by a threshold on the largest probability, at the "
        "same cost: there the rival takes the mixture of two thresholds that is best on validation data.",
        holds=gain.gains(0.005),
        measured=f"{told} at {TOLERANCE:g}; over the whole curve, whose other tolerances are ours, {curve}",
    )


def at_knob(points: Baseline, knob: float) -> Baseline:
    """Return one setting alone."""
    held, test = ([point for point in side if point.knob == knob] for side in (points.validation, points.test))
    return points.model_copy(update={"validation": held, "test": test})


def at_the_cost_of(ours: Baseline, theirs: Baseline) -> list[NDArray[np.float64]]:
    """Return what each test sample ``[N]`` is worth more than with their best mixture within the cost of our setting.

    Both networks cost the same in full. Nothing is returned if nothing of theirs is as cheap.
    """
    return paired_gains(ours, theirs, [1 / point.speed_up for point in ours.validation])
