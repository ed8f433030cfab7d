"""What conditional deep learning claims: nearly half of the operations saved, and a gain of accuracy besides."""

from __future__ import annotations

from eelit.methods.claims.alone import reached_alone
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.panda2016cdl import ConditionalDeepLearning


def claims(method: ConditionalDeepLearning, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Two figures of the abstract, each at a level of its own, chosen on validation images."""
    return [operations(curve), accuracy(curve)]


def operations(curve: Curve) -> Outcome:
    """How much less is computed where nothing is lost."""
    point = cheapest_within(curve.validation, curve.test, 0.0)
    loss, reason = curve.full_quality - point.quality, reached_alone(curve, "Linear classifier")
    return Outcome(
        name="a third fewer operations at no loss",
        statement="The cheapest level that loses nothing on validation images needs at most two thirds of the "
        "operations (the paper: 1.91 times fewer), and loses at most half a point on test images.",
        holds=not reason and point.speed_up >= 1.5 and loss <= 0.005,
        measured=f"level {point.knob:g}: {point.speed_up:.2f} times fewer operations, accuracy {-loss:+.4f}",
        not_comparable=reason,
    )


def accuracy(curve: Curve) -> Outcome:
    """Whether the cascade is more accurate than the network by itself."""
    best = max(range(len(curve.validation)), key=lambda i: (curve.validation[i].quality, -curve.validation[i].cost))
    point = curve.test[best]
    gain, reason = point.quality - curve.full_quality, reached_alone(curve, "Linear classifier")
    return Outcome(
        name="more accurate than the network alone",
        statement="At the level that is best on validation images the cascade is at least half a point more accurate "
        "on test images than the network without it (the paper: 98.9 instead of 97.5 percent).",
        holds=not reason and gain >= 0.005,
        measured=f"level {point.knob:g}: accuracy {gain:+.4f}",
        not_comparable=reason,
    )
