"""What an exit reaches by itself: where one is as good as the whole network, a claim about savings shows nothing."""

from __future__ import annotations

from eelit.methods.engine.records import Curve


def reached_alone(
    curve: Curve, part: str, *, lost: float = 0.0, speed_up: float = 1.0, whole: float | None = None
) -> str:
    """Return why savings say nothing of a method, or nothing: the whole network must be better than each early exit.

    These are the exits of the baseline, and ``part`` is what they are called. A baseline of fixed exits is needed.
    Where a claim is to be ``speed_up`` times faster and may have ``lost`` some quality, it shows nothing if one exit
    for all inputs does just that, on test data. ``whole`` is the quality of the network that it is compared with, the
    curve's own unless given.
    """
    full = curve.full_quality if whole is None else whole
    *early, _ = next(baseline.test for baseline in curve.baselines if baseline.name == "static exit")
    good = (point for point in early if point.quality >= full - lost and point.speed_up >= speed_up)
    first = next(good, None)
    if first is None:
        return ""
    return (
        f"{part} {first.knob:g} by itself, for {1 / first.speed_up:.0%} of the cost, reaches {first.quality:.4f}, and "
        f"the whole network {full:.4f}: no rule is needed to save{' so much' if lost else ''}."
    )
