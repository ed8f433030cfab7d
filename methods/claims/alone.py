"""What an exit reaches by itself: where one is as good as the whole network, a claim about savings shows nothing."""

from __future__ import annotations

from eelit.methods.engine.records import Curve


def reached_alone(curve: Curve, part: str) -> str:
    """Return why savings say nothing of a method, or nothing: the whole network must be better than each early exit.

    These are the exits of the baseline, and ``part`` is what they are called. A baseline of fixed exits is needed.
    """
    *early, _ = next(baseline.test for baseline in curve.baselines if baseline.name == "static exit")
    first = next((point for point in early if point.quality >= curve.full_quality), None)
    if first is None:
        return ""
    return (
        f"{part} {first.knob:g} by itself, for {1 / first.speed_up:.0%} of the cost, reaches {first.quality:.4f}, and "
        f"the whole network {curve.full_quality:.4f}: no rule is needed to save."
    )
