"""Which setting of a knob to take: chosen on validation data, told on test data. No torch here.

Cost shares are of the full model's. Between two knobs a method can stand at any cost: a share of the samples, drawn at
random, is treated with the one, the rest with the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eelit.methods.engine.records import Curve, OperatingPoint


@dataclass(frozen=True)
class Mixture:
    """A share of the samples is treated with one knob, the rest with another, by their places in a sweep."""

    cheap: int
    dear: int
    weight: float  # share of the costlier one

    def of(self, values: Any) -> Any:
        """Return what the mixture makes of one value (or row of them) for each knob: the mean by shares."""
        return values[self.cheap] + self.weight * (values[self.dear] - values[self.cheap])


@dataclass(frozen=True)
class At:
    """What is reached on test data within a share of the full model's cost."""

    quality: float
    share: float  # of the full model's cost, really spent on test data


def mixture(validation: Sequence[OperatingPoint], share: float) -> Mixture | None:
    """Return the mixture of two knobs that is best on validation data within a share of cost; None if none fits."""
    best: tuple[float, float, int, int, float] | None = None
    for i, cheap in enumerate(validation):
        low = 1 / cheap.speed_up
        if low > share + 1e-9:
            continue
        for j, dear in enumerate(validation):
            high = 1 / dear.speed_up
            weight = min(1.0, (share - low) / (high - low)) if high > low else 0.0  # of the costlier knob
            quality = cheap.quality + weight * (dear.quality - cheap.quality)
            cost = low + weight * (high - low)
            if best is None or (quality, -cost) > best[:2]:
                best = quality, -cost, i, j, weight
    return None if best is None else Mixture(*best[2:])


def at(validation: Sequence[OperatingPoint], test: Sequence[OperatingPoint], share: float) -> At | None:
    """Return what the mixture of two knobs that is best on validation data reaches on test data; None if none fits."""
    mixed = mixture(validation, share)
    if mixed is None:
        return None
    return At(
        quality=mixed.of([point.quality for point in test]),
        share=mixed.of([1 / point.speed_up for point in test]),
    )


def within_budget(curve: Curve, budget: float) -> OperatingPoint | None:
    """Return the test point whose knob is best on validation among those costing at most ``budget`` × the full model.

    None if no knob is that cheap on validation data.
    """
    cheap = [i for i, p in enumerate(curve.validation) if p.cost <= budget * curve.full_cost]
    if not cheap:
        return None
    return curve.test[max(cheap, key=lambda i: (curve.validation[i].quality, -curve.validation[i].cost))]


def cheapest_within(
    validation: Sequence[OperatingPoint], test: Sequence[OperatingPoint], loss: float, *, of: float | None = None
) -> OperatingPoint:
    """Return the test point of the setting that is cheapest on validation data while losing at most ``loss`` there.

    What is lost is quality, against ``of``: the full model's on validation data, which is the last setting's unless
    given. Of settings that cost the same the one of better quality is taken; where all lose more, the best is.
    """
    least = (validation[-1].quality if of is None else of) - loss - 1e-9
    good = [i for i, point in enumerate(validation) if point.quality >= least]
    if not good:
        good = [max(range(len(validation)), key=lambda i: (validation[i].quality, -validation[i].cost))]
    return test[min(good, key=lambda i: (validation[i].cost, -validation[i].quality))]
