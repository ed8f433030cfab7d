"""What EPNet claims: learned exits beat rules made by hand, at any budget, and many light branches beat a few."""

from __future__ import annotations

from collections.abc import Sequence

from eelit.methods.claims.alone import reached_alone
from eelit.methods.claims.comparisons import better_than, gains_of_mixtures, points_of, tried
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, OperatingPoint, Outcome
from eelit.methods.engine.stored_outputs import confidences
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.dai2020epnet import EpNet
from eelit.methods.policies.base import Policy
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.max_confidence import MaxConfidence

ENTROPIES = (1.5, 1.2, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
"""Thresholds in nats."""


def claims(method: EpNet, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Our points are the finite prices of one training; the rivals' are thresholds on the same branches."""
    classes = prepared.data.classes or 1
    ours = tried(method, prepared, [method.rule(price, prepared) for price in method.knobs[1:-1]])

    def beside(name: str, rival: Baseline, where: str) -> Outcome:
        return better_than(name, gains_of_mixtures(ours, rival), where)

    by_hand: dict[str, list[Policy]] = {
        "thresholds on confidence": [MaxConfidence(threshold) for threshold in confidences(classes)[1:-1]],
        "thresholds on entropy": [Entropy(threshold) for threshold in ENTROPIES],
    }
    few = method.replace({"shares": method.shares[1::2]})
    return [
        *(beside(name, tried(method, prepared, rules), "On the same branches") for name, rules in by_hand.items()),
        beside("few branches", points_of(few, few.prepare(bench), bench), "Beside every second branch, trained alike"),
        saves(curve),
        governed(curve.test),
    ]


def saves(curve: Curve) -> Outcome:
    """Take the cheapest price that is nearly as good as the whole network on validation data; see test data."""
    point = cheapest_within(curve.validation, curve.test, 0.005)
    loss, saved = curve.full_quality - point.quality, 1 - 1 / point.speed_up
    reason = reached_alone(curve, "Exit", lost=0.01, speed_up=1 / 0.7)
    return Outcome(
        name="less computation at equal accuracy",
        statement="The cheapest price that loses at most half a point on validation data saves 30 % of the MACs and "
        "loses at most one point on test data.",
        holds=not reason and saved >= 0.3 and loss <= 0.01,
        measured=f"{saved:.1%} of the MACs saved, accuracy {-loss:+.4f}, at price {point.knob:g}",
        not_comparable=reason,
    )


def governed(test: Sequence[OperatingPoint]) -> Outcome:
    """Compare what images cost at falling prices of one training."""
    spent = [1 / point.speed_up for point in test[1:-1]]
    return Outcome(
        name="the price governs the cost",
        statement="At the lowest finite price test images take 30 % of the plain network's MACs more than at the "
        "highest. (That no price leads to less computation than a higher one is so by construction.)",
        holds=spent[-1] - spent[0] >= 0.3,
        measured=", ".join(f"{share:.0%} at {point.knob:g}" for share, point in zip(spent, test[1:-1], strict=True)),
    )
