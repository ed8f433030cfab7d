"""What the title of DTN promises: defects of many sizes are found fast, since what is plain to see leaves early.

Thresholds between 0.99 and 1 were added once a first run had been seen, in which none of the others kept all but a
point of F1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.claims.paired import GAINS, KEEPS, Difference, over_samples, resampled
from eelit.methods.claims.resampling import joint_lead
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.yu2023dtn import DynamicTransformer, macro_f1

APART = "by more than two standard errors of the difference"
"""Of two kinds of defects, which no picture has both of: their errors are independent."""


def claims(method: DynamicTransformer, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try all of them; who leaves where is told at the cheapest threshold that loses a point on validation data."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    seen = prepared.split("test")
    exits = replay(method.rule(point.knob, prepared), seen.outputs)
    early = seen.outputs[torch.as_tensor(exits), torch.arange(len(exits))]
    first, last = seen.outputs[0], seen.outputs[-1]
    lead = joint_lead(method, prepared, curve)
    found = [
        saved(curve, point, in_f1(early, last, seen.targets), lead),
        fine_better(in_f1(last, first, seen.targets), macro_f1(first.argmax(dim=-1), seen.targets)),
    ]
    if method.source == "cells":
        return found
    widths = prepared.data.part("test widths").targets[: len(exits)].numpy()
    return [*found, thin_found(seen.outputs, seen.targets, widths), wide_first(exits, widths, point.knob)]


def in_f1(ours: Tensor, theirs: Tensor, targets: Tensor) -> Difference:
    """Return the difference in F1 of logits ``[N, C]`` for the same pictures, on the same resamples of them."""
    answers = [each.argmax(dim=-1) for each in (ours, theirs)]

    def apart(times: NDArray[np.int64]) -> float:
        taken = torch.as_tensor(np.repeat(np.arange(len(times)), times))
        one, other = (macro_f1(each[taken], targets[taken]) for each in answers)
        return one - other

    return resampled(apart, len(targets))


def saved(curve: Curve, point: OperatingPoint, lost: Difference, lead: Difference | None) -> Outcome:
    """Ask for a third of the computation at two points of F1."""
    share = 1 - 1 / point.speed_up
    return Outcome(
        name="a third saved at equal F1",
        statement="The cheapest threshold that loses at most a point of F1 on validation data saves a third of the "
        f"computation and loses at most two points on test data, {KEEPS}.",
        holds=share >= 1 / 3 and lost.keeps(0.02),
        measured=f"{share:.1%} of the MACs saved, F1 {lost}, at eta = {point.knob:g}",
        not_comparable=nothing_to_lose(curve, 0.02, lead),
    )


def fine_better(gain: Difference, first: float) -> Outcome:
    """Compare the stages."""
    return Outcome(
        name="fine tokens find more",
        statement=f"The last stage's F1 on test data is at least five points above the first one's, {GAINS}.",
        holds=gain.gains(0.05),
        measured=f"F1 {first:.4f} at the first stage, {first + gain.mean:.4f} at the last ({gain})",
    )


def thirds(widths: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which pictures ``[N]`` have the thinnest and which the widest third of all defects."""
    low, high = np.quantile(widths[widths > 0], [1 / 3, 2 / 3])
    return (widths > 0) & (widths <= low), widths >= high


def between(ours: Difference, theirs: Difference) -> Difference:
    """Return how far two independent means are apart."""
    return Difference(ours.mean - theirs.mean, float(np.hypot(ours.error, theirs.error)))


def thin_found(outputs: Tensor, targets: Tensor, widths: NDArray[np.float32]) -> Outcome:
    """Compare the first and the last stage on thin and on wide defects, from logits ``[S, N, C]``."""
    first, last = ((outputs[s].argmax(dim=-1) == targets).numpy() for s in (0, -1))
    kinds = dict(zip(("thin", "wide"), thirds(widths), strict=True))
    gains = {name: over_samples(last[which], first[which]) for name, which in kinds.items()}
    more = between(gains["thin"], gains["wide"])
    told = [
        f"{name} {first[kinds[name]].mean():.1%} and {last[kinds[name]].mean():.1%} ({gains[name]})" for name in kinds
    ]
    return Outcome(
        name="fine tokens find thin defects",
        statement="Of the thinnest third of the defects the last stage tells ten points more than the first, "
        f"{GAINS}, and this gain is larger than that on the widest third, {APART}.",
        holds=gains["thin"].gains(0.1) and more.gains(),
        measured=f"told at the first and the last stage: {', '.join(told)}; gains apart by {more}",
    )


def wide_first(exits: NDArray[np.int64], widths: NDArray[np.float32], knob: float) -> Outcome:
    """Compare where thin and where wide defects leave."""
    thin, wide = (over_samples(exits[which] + 1) for which in thirds(widths))
    later = between(thin, wide)
    return Outcome(
        name="wide defects leave sooner",
        statement="The widest third of the defects leaves on average a quarter of a stage before the thinnest third, "
        f"and {APART}.",
        holds=later.gains(0.25),
        measured=f"wide at stage {wide.mean:.2f}, thin at {thin.mean:.2f} (apart by {later}), sound at "
        f"{float(exits[widths == 0].mean()) + 1:.2f}, at eta = {knob:g}",
    )
