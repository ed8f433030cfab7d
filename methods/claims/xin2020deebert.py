"""What DeeBERT claims: much saved at almost no loss, since layers of BERT are redundant."""

from __future__ import annotations

from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.xin2020deebert import DeeBert


def claims(method: DeeBert, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Two claims of the abstract: up to 40 % saved at almost no loss, and layers that are redundant."""
    full = method.static(prepared.split("validation"))[-1].quality
    close = [i for i, point in enumerate(curve.validation) if point.quality >= full - 0.01]
    point = curve.test[min(close, key=lambda i: curve.validation[i].cost, default=-1)]
    loss, saved = curve.full_quality - point.quality, 1 - 1 / point.speed_up
    by_layer = [point.quality for point in method.static(prepared.split("test"))]
    return [
        Outcome(
            name="40 % saved at almost no loss",
            statement="The fastest threshold that loses at most one point on validation data loses at most one "
            "point on test data too, and saves 40 % of the computation.",
            holds=saved >= 0.4 and loss <= 0.01,
            measured=f"{saved:.1%} of the MACs saved, accuracy {-loss:+.4f}, at S = {point.knob:g}",
        ),
        Outcome(
            name="redundant layers",
            statement="Some off-ramp before the last layer is within one point of the full model.",
            holds=max(by_layer[:-1]) >= by_layer[-1] - 0.01,
            measured="accuracy by layer " + ", ".join(f"{quality:.3f}" for quality in by_layer),
        ),
    ]
