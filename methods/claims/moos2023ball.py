"""What the ball detector claims: the exit rejects most patches cheaply, adds no false alarm, and few balls are lost.

Thresholds below 0.01 were added once a first run had been seen: at the released 0.5 the exit, trained on a tenth of
balls, rejects about half of them, and none of the thresholds tried first kept all but a point of F1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.moos2023ball import BallDetector


def claims(method: BallDetector, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try all of them at the cheapest rho that loses at most a point of F1 on validation patches."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    seen = prepared.split("test")
    exits = replay(method.rule(point.knob, prepared), seen.outputs)
    saved = 1 - 1 / point.speed_up
    ours, full = seen.at(exits)[:, 0] >= method.tau, seen.answers[-1][:, 0] >= method.tau
    return [
        rejected(ours, full, seen.targets, saved, point.knob),
        precise(ours, seen.targets),
        placed(seen.at(exits), seen.targets, ours),
    ]


def rejected(ours: Tensor, full: Tensor, targets: Tensor, saved: float, knob: float) -> Outcome:
    """Compare detections with and without the exit."""
    true = targets[:, 0] > 0
    added, lost = int((ours & ~full).sum()), float((full & ~ours & true).sum() / true.sum())
    return Outcome(
        name="a quarter saved and no false alarm added",
        statement="The cheapest rho that loses at most a point of F1 on validation patches saves a quarter of the "
        "computation, adds no detection, and loses at most two in a hundred balls.",
        holds=saved >= 0.25 and added == 0 and lost <= 0.02,
        measured=f"{saved:.1%} of the MACs saved, {added} detections added, {lost:.1%} of the balls lost, "
        f"at rho = {knob:g}",
    )


def precise(ours: Tensor, targets: Tensor) -> Outcome:
    """Tell precision and recall."""
    true = targets[:, 0] > 0
    precision = float((ours & true).sum() / ours.sum().clamp_min(1))
    recall = float((ours & true).sum() / true.sum())
    return Outcome(
        name="precise without losing the balls",
        statement="At that rho 95 of 100 detections are balls, and 80 of 100 balls are found (the paper: 100 and 87).",
        holds=precision >= 0.95 and recall >= 0.8,
        measured=f"precision {precision:.1%}, recall {recall:.1%}",
    )


def placed(spots: Tensor, targets: Tensor, ours: Tensor) -> Outcome:
    """Tell how far off the places of detected balls are, and how far the middle of the patch would be."""
    found = ours & (targets[:, 0] > 0)
    off = (spots[found, 1:] - targets[found, 1:]).norm(dim=1)
    middle = (targets[found, 1:] - 0.5).norm(dim=1)
    ours_off, theirs = (float(each.median()) if len(each) else torch.inf for each in (off, middle))
    return Outcome(
        name="the place is found",
        statement="The place of a detected ball is off by at most half of what the middle of the patch is, on median.",
        holds=ours_off <= theirs / 2 < torch.inf,
        measured=f"{32 * ours_off:.1f} pixels, the middle {32 * theirs:.1f}",
    )
