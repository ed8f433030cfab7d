"""What cascaded inference claims: MACs saved for a point of accuracy, by a tolerance that is kept."""

from __future__ import annotations

from eelit.methods.claims.alone import reached_alone
from eelit.methods.claims.comparisons import SLACK, better_than, gains_at_equal_cost
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.berestizshevsky2019cascade import CascadedInference
from eelit.methods.policies.max_confidence import MaxConfidence

SHARED = (*(i / 100 for i in range(15, 100, 5)), 0.97, 0.99, 0.995, 0.999)
"""Thresholds that all classifiers have in common: what own thresholds are compared with."""


def claims(method: CascadedInference, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Savings at about a point, tolerances that are kept, and thresholds of one's own."""
    return [saving(curve), kept(curve), own_thresholds(method, prepared)]


def saving(curve: Curve) -> Outcome:
    """What is saved for a point of accuracy: the paper's least figure is the bar."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    loss, saved, reason = curve.full_quality - point.quality, 1 - 1 / point.speed_up, reached_alone(curve, "Classifier")
    return Outcome(
        name="15 % saved for about a point",
        statement="The cheapest tolerance that loses at most one point on validation images saves at least 15 % of the "
        "MACs (the paper: 15 to 50 %), and loses at most one point and a half on test images.",
        holds=not reason and saved >= 0.15 and loss <= 0.015,
        measured=f"tolerance {point.knob:g}: {saved:.1%} saved, accuracy {-loss:+.4f}",
        not_comparable=reason,
    )


def kept(curve: Curve) -> Outcome:
    """Whether each tolerance from 0 to 0.1 bounds what is lost against the whole network."""
    tried = [point for point in curve.test if 0 <= point.knob <= 0.1]
    over = [curve.full_quality - point.quality - point.knob for point in tried]
    worst, reason = max(range(len(tried)), key=over.__getitem__), reached_alone(curve, "Classifier")
    return Outcome(
        name="the tolerance is kept",
        statement="For each tolerance from 0 to 0.1 the accuracy on test images is at most so much below the full "
        f"network's, and {SLACK:g} more.",
        holds=not reason and over[worst] <= SLACK,
        measured=f"least kept at tolerance {tried[worst].knob:g}: accuracy {-over[worst] - tried[worst].knob:+.4f}",
        not_comparable=reason,
    )


def own_thresholds(method: CascadedInference, prepared: Prepared) -> Outcome:
    """Thresholds from a tolerance against one threshold for all classifiers, on the same network."""
    ours = (method.rule(knob, prepared) for knob in method.knobs[1:-1])
    found = gains_at_equal_cost(method, prepared, ours, map(MaxConfidence, SHARED))
    return better_than("one threshold for all", found, "With a threshold for each classifier")
