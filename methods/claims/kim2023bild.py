"""What BiLD claims: much faster at hardly any loss, by taking back what the large model would not have said."""

from __future__ import annotations

import math
from statistics import mean

import numpy as np

from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.passes import PassCosts
from eelit.methods.papers.kim2023bild import Bild, PreparedPair, Written


def claims(method: Bild, prepared: PreparedPair, bench: Bench, curve: Curve) -> list[Outcome]:
    """Speed and rollback; where the small model is aligned, against one that is not."""
    found = [faster(curve), rollback(method, prepared, bench, curve)]
    return [*found, alignment(method, bench, curve)] if method.aligned else found


def faster(curve: Curve) -> Outcome:
    """The cheapest setting that hardly changes the text."""
    point = cheapest_within(curve.validation, curve.test, 0.01, of=1.0)
    return Outcome(
        name="faster with nearly the same text",
        statement="The cheapest setting that loses at most 0.01 ROUGE-L on validation texts reads 1.56 times fewer "
        "weights on test texts, half of the paper's best gain, and keeps 0.98 of the text.",
        holds=point.speed_up >= 1.56 and point.quality >= 0.98,
        measured=f"{point.speed_up:.2f}× fewer, ROUGE-L {point.quality:.3f}, at {curve.knob} {point.knob:g}",
    )


def rollback(method: Bild, prepared: PreparedPair, bench: Bench, curve: Curve) -> Outcome:
    """The same models and fallback without rollback, at equal cost."""
    alone = method.replace({"rollback": math.inf})
    gains = gained(curve, alone.sweep(prepared, bench, "test", method.knobs))
    (kept,) = method.texts(prepared, "test", [method.knobs[len(method.knobs) // 2]])
    assert isinstance(kept, Written)
    large = float(kept.passes[:, 1].double().mean()) / prepared.length
    return Outcome(
        name="rollback keeps more of the text at equal cost",
        statement="On the mean over fallback thresholds, 0.01 more ROUGE-L is kept than without rollback where as many "
        "weights are read.",
        holds=mean(gains) >= 0.01,
        measured=f"{mean(gains):+.4f} on the mean, from {min(gains):+.3f} to {max(gains):+.3f}; in the middle "
        f"{float(kept.rolled.double().mean()):.2f} rollbacks a text and {large:.2f} passes of the large model a token",
    )


def alignment(method: Bild, bench: Bench, curve: Curve) -> Outcome:
    """A small model that was not aligned, at equal cost."""
    other = method.replace({"aligned": False})
    prepared = other.prepare(bench)
    gains = gained(curve, other.sweep(prepared, bench, "test", method.knobs))
    return Outcome(
        name="alignment keeps more of the text at equal cost",
        statement="On the mean over fallback thresholds, 0.005 more ROUGE-L is kept than with a small model that has "
        "not seen the large one's texts, where as many weights are read.",
        holds=mean(gains) >= 0.005,
        measured=f"{mean(gains):+.4f} on the mean, from {min(gains):+.3f} to {max(gains):+.3f}; the small model has "
        f"{PassCosts.of(prepared.small).full / PassCosts.of(prepared.model).full:.1%} of the large one's weights",
    )


def gained(curve: Curve, rivals: list[OperatingPoint]) -> list[float]:
    """Return the quality of each test point less that of rivals at its cost, interpolated between theirs."""
    best = sorted(rivals, key=lambda point: (point.cost, point.quality))
    costs, quality = [point.cost for point in best], [point.quality for point in best]
    return [point.quality - float(np.interp(point.cost, costs, quality)) for point in curve.test]
