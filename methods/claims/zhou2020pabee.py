"""What PABEE claims: early exit that is faster and better than the full model, which overthinks."""

from __future__ import annotations

from statistics import mean

from eelit.methods.claims.comparisons import MIXED, gains_of_mixtures, on_average, points_of_curve, without_ends
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.zhou2020pabee import Pabee


def claims(method: Pabee, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Stopping early saves cost and gains quality (overthinking), more than by confidence; all chosen on validation."""
    saving = [i for i, point in enumerate(curve.validation) if point.speed_up >= 1.5]
    best = curve.test[max(saving, key=lambda i: curve.validation[i].quality)]
    gain = best.quality - curve.full_quality
    found = [
        Outcome(
            name="better than the full model",
            statement="At the patience that is best on validation data among those that save a third of the cost "
            "there (the paper's speed-up is 1.57×), quality on test data is 0.005 above the full model's.",
            holds=gain >= 0.005,
            measured=f"{gain:+.4f} {curve.quality} at patience {best.knob:g}, speed-up {best.speed_up:.2f}×",
        )
    ]
    confidence = next((rival for rival in curve.baselines if rival.name == "max-confidence"), None)
    if confidence:
        gains = gains_of_mixtures(points_of_curve(curve), without_ends(confidence))
        found.append(
            Outcome(
                name="better than max-confidence",
                statement="On the same trained network patience is on average half a point more accurate on test data "
                "at equal cost than thresholds on the largest probability (the rule of Shallow-Deep Networks; with two "
                f"classes entropy, BranchyNet's, ranks inputs alike). {MIXED}",
                holds=mean(gains or [0.0]) >= 0.005,
                measured=on_average(gains),
            )
        )
    return found
