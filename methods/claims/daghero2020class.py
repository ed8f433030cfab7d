"""What class-dependent thresholds claim: less energy than single ones, since classes differ; and what must hold.

Multiply-accumulates stand for energy here, a comparison in the forest being one of them: nothing is said of joules.
"""

from __future__ import annotations

import numpy as np

from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families.cascades import Prepared
from eelit.methods.papers.daghero2020class import ClassDependent, Search, Seen

LOSS = 0.01
"""Of accuracy, on validation images, within which both rules are set."""


def claims(method: ClassDependent, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Work against single thresholds, on other images and on those of the search; and whether classes differ."""
    rival = next(each for each in curve.baselines if each.name == "one threshold for each model")
    search = prepared.fitted
    return [saving(curve, rival), contained(search, curve), different(method.seen(prepared.split("test")), search)]


def saving(curve: Curve, rival: Baseline) -> Outcome:
    """Both rules at the allowed loss that serves each best on images of which neither knows."""
    full = curve.validation[-1].quality
    ours = cheapest_within(curve.validation, curve.test, LOSS, of=full)
    theirs = cheapest_within(rival.validation, rival.test, LOSS, of=full)
    less, gain = 1 - ours.cost / theirs.cost, ours.quality - theirs.quality
    return Outcome(
        name="class thresholds save work",
        statement="At the cheapest allowed loss that loses at most one point on validation images, thresholds by class "
        "take at least 5 % fewer multiply-accumulates on test images than one for each model, and are at most half a "
        "point less accurate.",
        holds=less >= 0.05 and gain >= -0.005,
        measured=f"{less:+.1%} of multiply-accumulates saved, accuracy {gain:+.4f}; allowed losses {ours.knob:g} and "
        f"{theirs.knob:g}",
    )


def contained(search: Search, curve: Curve) -> Outcome:
    """What the superset of rules promises, on the images of the search."""
    tried = [point.knob for point in curve.validation if 0 <= point.knob < 1]
    both = [[search.seen.under(search.thresholds(a, by_class=by)).energy for by in (True, False)] for a in tried]
    ratios = [ours / theirs for ours, theirs in both]
    return Outcome(
        name="class thresholds contain the single one",
        statement="On the images of the search, thresholds by class take no more multiply-accumulates at any allowed "
        "loss than the best of all single ones of the grid, and at one of them a tenth fewer.",
        holds=max(ratios) <= 1 + 1e-9 and min(ratios) <= 0.9,
        measured=f"from {1 - max(ratios):.1%} to {1 - min(ratios):.1%} fewer",
    )


def different(seen: Seen, search: Search) -> Outcome:
    """How well the first model knows the classes that it predicts, and what is asked of each."""
    c, right = seen.c[0], seen.right[0]
    shares = [float(right[c == k].mean()) for k in range(search.classes) if (c == k).any()]
    th = search.thresholds(LOSS)[0]
    apart = float(np.ptp(np.maximum(th, 0))) >= 0.2 - 1e-9  # 1 - 12 * 0.05 and 1 - 16 * 0.05 are 0.2 apart
    return Outcome(
        name="classes differ",
        statement="The first model's predictions of one class are right at least 20 points more often than those of "
        "another, and for a loss of a point the thresholds of two classes lie at least 0.2 apart.",
        holds=max(shares) - min(shares) >= 0.2 and apart,
        measured=f"right from {min(shares):.1%} to {max(shares):.1%}; thresholds from {th.min():g} to {th.max():g}",
    )
