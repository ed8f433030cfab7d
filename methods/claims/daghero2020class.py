"""What class-dependent thresholds claim: less energy than single ones, since classes differ; and what must hold.

Multiply-accumulates stand for energy here, a comparison in the forest being one of them: nothing is said of joules.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import Mixture
from eelit.methods.engine.records import Baseline, Curve, OperatingPoint, Outcome
from eelit.methods.families.cascades import Prepared
from eelit.methods.papers.daghero2020class import ClassDependent, Search, Seen

LOSS = 0.01
"""Of accuracy, on validation images, within which both rules are set."""


def claims(method: ClassDependent, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Work against single thresholds, on other images and on those of the search; and whether classes differ."""
    rivals = [each for each in curve.baselines if each.name in ("one threshold for each model", "max-confidence")]
    search = prepared.fitted
    return [saving(curve, rivals), contained(search, curve), different(method.seen(prepared.split("test")), search)]


def reaching(validation: Sequence[OperatingPoint], least: float) -> Mixture:
    """Return the mixture of two settings that reaches an accuracy on validation data by the least work.

    The last setting must reach it.
    """
    found = []
    for i, cheap in enumerate(validation):
        for j, dear in enumerate(validation):
            if dear.quality >= least:
                below = cheap.quality < least
                weight = (least - cheap.quality) / (dear.quality - cheap.quality) if below else 0.0
                found.append((cheap.cost + weight * (dear.cost - cheap.cost), i, j, weight))
    return Mixture(*min(found)[1:])


def saving(curve: Curve, rivals: Sequence[Baseline]) -> Outcome:
    """Both rules where each loses as much on images of which neither knows; of rivals the one that works less there."""
    least = curve.validation[-1].quality - LOSS

    def held(rival: Baseline) -> float:
        return reaching(rival.validation, least).of([point.cost for point in rival.validation])

    rival = min(rivals, key=held)
    (ours, cost), (theirs, work) = (
        [reaching(side.validation, least).of(values) for values in seen]
        for side in (curve, rival)
        for seen in [([point.quality for point in side.test], [point.cost for point in side.test])]
    )
    less, gain = 1 - cost / work, ours - theirs
    return Outcome(
        name="class thresholds save work",
        statement="Where one point is lost on validation images, thresholds by class take at least 5 % fewer "
        "multiply-accumulates on test images than one for each model, or than one for all models if that takes fewer "
        "on validation images, and are at most half a point less accurate. Either side takes the mixture of two of its "
        "settings that needs the least work there: some images, at random, are treated with the one, the rest with "
        "the other.",
        holds=less >= 0.05 and gain >= -0.005,
        measured=f"{less:+.1%} of multiply-accumulates saved ({cost / 1e6:.3g} instead of {work / 1e6:.3g} million by "
        f"{rival.name}), "
        f"accuracy {gain:+.4f}",
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
