"""What a method reaches within a share of the full model's cost, between its knobs too. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eelit.methods.engine.records import OperatingPoint


@dataclass(frozen=True)
class At:
    """What is reached on test data within a share of the full model's cost."""

    quality: float
    share: float  # of the full model's cost, really spent on test data


def at(validation: Sequence[OperatingPoint], test: Sequence[OperatingPoint], share: float) -> At | None:
    """Return what the mixture of two knobs that is best on validation data reaches on test data; None if none fits."""
    best: tuple[float, float, int, int, float] | None = None
    for i, cheap in enumerate(validation):
        low = 1 / cheap.speed_up
        if low > share + 1e-9:
            continue
        for j, dear in enumerate(validation):
            high = 1 / dear.speed_up
            weight = min(1.0, (share - low) / (high - low)) if high > low else 0.0  # of the dearer knob
            quality = cheap.quality + weight * (dear.quality - cheap.quality)
            cost = low + weight * (high - low)
            if best is None or (quality, -cost) > best[:2]:
                best = quality, -cost, i, j, weight
    if best is None:
        return None
    *_, i, j, weight = best
    return At(
        quality=test[i].quality + weight * (test[j].quality - test[i].quality),
        share=1 / test[i].speed_up + weight * (1 / test[j].speed_up - 1 / test[i].speed_up),
    )
