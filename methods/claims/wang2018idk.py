"""What IDK cascades claim: computation saved at no loss of accuracy, by models that stay as they are."""

from __future__ import annotations

from eelit.methods.claims.comparisons import SLACK, better_than, gains_of_mixtures
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families.cascades import Prepared
from eelit.methods.papers.wang2018idk import IdkCascade

RIVALS: dict[str, dict[str, str | bool]] = {
    "cascade by entropy": {"augment": "entropy"},
    "cascade by probability": {"augment": "probability"},
    "cost-oblivious gates": {"aware": False},
}
"""The paper's other ways to build a cascade, by their settings."""


def claims(method: IdkCascade, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Savings and the constraint; what learning about costs brings, beside all other ways."""
    found = [saved_at_no_loss(curve), faster_at_comparable_accuracy(curve), constraint_kept(curve)]
    if method.augment != "neural" or not method.aware:
        return found
    ours = swept(method, prepared, bench)
    for name, settings in RIVALS.items():
        rival = method.replace(settings)
        found.append(beside(name, ours, swept(rival, rival.prepare(bench), bench)))
    return found


def saved_at_no_loss(curve: Curve) -> Outcome:
    """The figure of the later abstract."""
    point = cheapest_within(curve.validation, curve.test, 0.0)
    loss, saved = curve.full_quality - point.quality, 1 - 1 / point.speed_up
    return Outcome(
        name="37 % saved at no loss",
        statement="The cheapest eps that loses nothing on validation images saves at least 37 % of the computation, "
        "as in the paper, and loses at most half a point on test images.",
        holds=saved >= 0.37 and loss <= 0.005,
        measured=f"accuracy loss {point.knob:g}: {saved:.1%} saved, accuracy {-loss:+.4f}",
    )


def faster_at_comparable_accuracy(curve: Curve) -> Outcome:
    """The least figure of the first abstract."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    loss = curve.full_quality - point.quality
    return Outcome(
        name="1.7 times faster at comparable accuracy",
        statement="The cheapest eps that loses at most one point on validation images needs at most 1 / 1.7 of the "
        "computation (the paper: 1.7 to 10.5 times faster), and loses at most one point and a half on test images.",
        holds=point.speed_up >= 1.7 and loss <= 0.015,
        measured=f"accuracy loss {point.knob:g}: {point.speed_up:.2f} times less, accuracy {-loss:+.4f}",
    )


def constraint_kept(curve: Curve) -> Outcome:
    """Whether what held on calibration images holds on others."""
    tried = [point for point in curve.test if 0 <= point.knob < 1]
    over = [(1 - point.knob) * curve.full_quality - point.quality for point in tried]
    worst = max(range(len(tried)), key=over.__getitem__)
    return Outcome(
        name="the accuracy constraint is kept",
        statement="For each eps from 0 to below 1 the accuracy on test images is at most "
        f"{SLACK:g} below (1 - eps) times that of the last model.",
        holds=over[worst] <= SLACK,
        measured=f"least kept at {tried[worst].knob:g}: {-over[worst]:+.4f}",
    )


def swept(method: IdkCascade, prepared: Prepared, bench: Bench) -> Baseline:
    """Return all settings of a way to build the cascade but the ends, which are the same in all."""
    held, test = (method.sweep(prepared, bench, split, method.knobs[1:-1]) for split in ("validation", "test"))
    return Baseline(name=method.augment, validation=held, test=test)


def beside(name: str, ours: Baseline, theirs: Baseline) -> Outcome:
    """Gates that learned what further models cost, against another way to build a cascade of the same models."""
    return better_than(name, gains_of_mixtures(ours, theirs), "With gates that learned about costs")
