"""What the title of DTN promises: defects of many sizes are found fast, since what is plain to see leaves early.

Thresholds between 0.99 and 1 were added once a first run had been seen, in which none of the others kept all but a
point of F1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.claims.resampling import joint_lead
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.yu2023dtn import DynamicTransformer


def claims(method: DynamicTransformer, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try all of them; who leaves where is told at the cheapest threshold that loses a point on validation data."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    seen = prepared.split("test")
    exits = replay(method.rule(point.knob, prepared), seen.outputs)
    saved, loss = 1 - 1 / point.speed_up, curve.full_quality - point.quality
    found = [
        Outcome(
            name="a third saved at equal F1",
            statement="The cheapest threshold that loses at most a point of F1 on validation data saves a third of the "
            "computation and loses at most two points on test data.",
            holds=saved >= 1 / 3 and loss <= 0.02,
            measured=f"{saved:.1%} of the MACs saved, F1 {-loss:+.4f}, at eta = {point.knob:g}",
            not_comparable=nothing_to_lose(curve, 0.02, joint_lead(method, prepared, curve)),
        )
    ]
    if method.source == "cells":
        first, *_, last = method.static(seen)
        return [*found, fine_better(first.quality, last.quality)]
    widths = prepared.data.part("test widths").targets[: len(exits)].numpy()
    return [*found, thin_found(seen.outputs, seen.targets, widths), wide_first(exits, widths, point.knob)]


def fine_better(first: float, last: float) -> Outcome:
    """Compare the stages where it is not known how wide a defect is."""
    return Outcome(
        name="fine tokens find more",
        statement="The last stage's F1 on test data is at least five points above the first one's.",
        holds=last - first >= 0.05,
        measured=f"F1 {first:.4f} at the first stage, {last:.4f} at the last",
    )


def thirds(widths: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which pictures ``[N]`` have the thinnest and which the widest third of all defects."""
    low, high = np.quantile(widths[widths > 0], [1 / 3, 2 / 3])
    return (widths > 0) & (widths <= low), widths >= high


def thin_found(outputs: Tensor, targets: Tensor, widths: NDArray[np.float32]) -> Outcome:
    """Compare the first and the last stage on thin and on wide defects, from logits ``[S, N, C]``."""
    right = (outputs.argmax(dim=-1) == targets).numpy()
    found = [[float(right[s][which].mean()) for s in (0, -1)] for which in thirds(widths)]
    thin, wide = (last - first for first, last in found)
    return Outcome(
        name="fine tokens find thin defects",
        statement="Of the thinnest third of the defects the last stage tells ten points more than the first, and this "
        "gain is larger than that on the widest third.",
        holds=thin >= 0.1 and thin > wide,
        measured=f"told at the first and the last stage: thin {found[0][0]:.1%} and {found[0][1]:.1%}, "
        f"wide {found[1][0]:.1%} and {found[1][1]:.1%}",
    )


def wide_first(exits: NDArray[np.int64], widths: NDArray[np.float32], knob: float) -> Outcome:
    """Compare where thin and where wide defects leave."""
    thin, wide = (float(exits[which].mean()) + 1 for which in thirds(widths))
    return Outcome(
        name="wide defects leave sooner",
        statement="The widest third of the defects leaves on average a quarter of a stage before the thinnest third.",
        holds=thin - wide >= 0.25,
        measured=f"wide at stage {wide:.2f}, thin at {thin:.2f}, sound at "
        f"{float(exits[widths == 0].mean()) + 1:.2f}, at eta = {knob:g}",
    )
