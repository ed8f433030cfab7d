"""What hierarchical BoF exits claim: exits that cost little, gain from those before them, and save much."""

from __future__ import annotations

from statistics import mean
from typing import cast

from eelit.methods.claims.alone import reached_alone
from eelit.methods.claims.comparisons import gains_by_exit
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.passalis2020hierarchical import HierarchicalBof, HierarchicalExits


def claims(method: HierarchicalBof, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Of all exits that they are small and save; of those that read earlier histograms, that these help."""
    found = [saves(curve), small(prepared)]
    return [*found, gains_from_earlier(method, prepared, bench)] if method.hierarchical else found


def saves(curve: Curve) -> Outcome:
    """What the one factor beta buys."""
    point = cheapest_within(curve.validation, curve.test, 0.01, of=curve.validation[-1].quality)
    loss, reason = curve.full_quality - point.quality, reached_alone(curve, "Exit", lost=0.02, speed_up=4 / 3)
    return Outcome(
        name="much cheaper at nearly the same accuracy",
        statement="The cheapest beta that loses at most one point on validation data saves a quarter of the MACs, and "
        "loses at most two points on test data.",
        holds=not reason and point.speed_up >= 4 / 3 and loss <= 0.02,
        measured=f"{1 - 1 / point.speed_up:.1%} of the MACs saved, accuracy {-loss:+.4f}, at beta = {point.knob:g}",
        not_comparable=reason,
    )


def small(prepared: Prepared) -> Outcome:
    """What the exits add to the network."""
    model = cast(HierarchicalExits, prepared.model)
    added = sum(p.numel() for p in model.added) / sum(p.numel() for p in model.plain_network().parameters())
    test = prepared.split("test")
    work = float(test.costs[-1].mean() / test.full_costs.mean()) - 1
    return Outcome(
        name="small exits",
        statement="All exits before the last together add at most 5 % to the network's MACs and at most 5 % to its "
        "parameters.",
        holds=work <= 0.05 and added <= 0.05,
        measured=f"{work:.1%} more MACs, {added:.1%} more parameters",
    )


def gains_from_earlier(method: HierarchicalBof, prepared: Prepared, bench: Bench) -> Outcome:
    """Compare exits 2 … m with such as read their own histogram alone."""
    gains = gains_by_exit(method, prepared, method.replace({"hierarchical": False}), bench)[1:-1]
    return Outcome(
        name="earlier histograms help",
        statement="Exits that average the histograms so far are, from the second on, half a point more accurate on "
        "average than exits trained alike that read their own alone.",
        holds=mean(gains) >= 0.005,
        measured="by exit " + ", ".join(f"{gain:+.4f}" for gain in gains),
    )
