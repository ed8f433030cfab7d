"""What PABEE claims: early exit that is faster and better than the full model, which overthinks."""

from __future__ import annotations

from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.zhou2020pabee import Pabee


def claims(method: Pabee, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Stopping early saves cost and gains quality (overthinking); patience chosen on validation."""
    saving = [i for i, point in enumerate(curve.validation) if point.speed_up >= 1.5]
    best = curve.test[max(saving, key=lambda i: curve.validation[i].quality)]
    gain = best.quality - curve.full_quality
    return [
        Outcome(
            name="better than the full model",
            statement="At the patience that is best on validation data among those that save a third of the cost "
            "there (the paper's speed-up is 1.57×), quality on test data is 0.005 above the full model's.",
            holds=gain >= 0.005,
            measured=f"{gain:+.4f} {curve.quality} at patience {best.knob:g}, speed-up {best.speed_up:.2f}×",
        )
    ]
