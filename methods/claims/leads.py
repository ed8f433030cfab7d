"""Whether a full model is better than the cheapest that a method can do: else savings can lose nothing.

A claim that hardly anything is lost can fail only where there is more to lose than it allows. Where there is not, it is
not comparable (`nothing_to_lose`). No torch here: the warning beside a curve is made of the same figures.
"""

from __future__ import annotations

import math

from eelit.methods.claims.paired import Difference, of_samples, over_samples
from eelit.methods.engine.records import Curve


def eager_quality(curve: Curve) -> float:
    """Return the least that a method can do: at its most eager setting, or by chance where that is better.

    A detector whose eager end rejects everything has an F1 of 0 there: to be better than that is no lead.
    """
    return max(curve.test[0].quality, floor(curve))


def floor(curve: Curve) -> float:
    """Return the quality of chance; nothing where nobody says what it is, or says it in another measure."""
    return curve.chance.quality if curve.chance is not None and curve.chance.reached is None else -math.inf


def lead(curve: Curve, joint: Difference | None = None) -> tuple[Difference, str]:
    """Return how much better the full model is than `eager_quality`, and how its error is known: empty if it is not.

    Where the quality of each sample is known, both are compared sample by sample. ``joint`` is that difference where
    quality is no mean over samples. Else the error is that of chance, as if the two were independent; 0 if that is not
    known either.
    """
    gap, chance = curve.full_quality - eager_quality(curve), curve.chance
    if curve.test[0].quality >= floor(curve):
        if joint is not None:
            return joint, "by resampling"
        first, last = curve.test[0].samples, curve.test[-1].samples
        ours, theirs = (each.quality if each else None for each in (last, first))
        is_full = abs(curve.test[-1].quality - curve.full_quality) < 1e-9
        if is_full and ours is not None and theirs is not None and ours.shape == theirs.shape and len(ours) > 1:
            found = over_samples(of_samples(curve.test[-1]), of_samples(curve.test[0]))
            return found, f"sample by sample over {len(ours)}"
    if chance is not None and chance.reached is None:
        return Difference(gap, math.sqrt(2) * chance.error), "as if both were measured independently"
    return Difference(gap, 0.0), ""


def nothing_to_lose(curve: Curve, most: float, joint: Difference | None = None) -> str:
    """Return why a claim that at most so much is lost says nothing, or nothing: there must be more to lose."""
    found, _ = lead(curve, joint)
    if found.gains() and found.mean > most:
        return ""
    return (
        f"The full model's {curve.quality} is only {found} above the most eager setting's, and {most:g} may be lost: "
        "savings can hardly fail."
    )
