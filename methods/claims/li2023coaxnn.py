"""What CoAxNN claims: exits and pruning set together save more than either, and much at a trivial loss."""

from __future__ import annotations

from collections.abc import Sequence

from eelit.methods.claims.comparisons import beside_random_search
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.designs import Design, Prepared
from eelit.methods.papers.li2023coaxnn import CoAxNN

LOSS = 0.01
"""Accuracy that may be lost on validation images; the paper's designs lose 0.6 to 1.4 points."""


def claims(method: CoAxNN, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """What is saved; both strategies beside each of the two; and the search beside a random one."""
    return [saves(curve), together(method, prepared, bench), beside_random_search(method, prepared)]


def saves(curve: Curve) -> Outcome:
    """What a small loss buys."""
    point = cheapest_within(curve.validation, curve.test, LOSS)
    loss = curve.full_quality - point.quality
    return Outcome(
        name="a quarter saved at a trivial loss",
        statement="The least budget that loses at most one point on validation images saves a quarter of the MACs "
        "(the paper: 26 to 62 percent of the FLOPs on CIFAR-10), and loses at most two points on test images.",
        holds=point.speed_up >= 4 / 3 and loss <= 0.02,
        measured=f"{1 - 1 / point.speed_up:.1%} saved, accuracy {-loss:+.4f}, at budget {point.knob:g}",
    )


def together(method: CoAxNN, prepared: Prepared, bench: Bench) -> Outcome:
    """Compare with a search, as long, for exits on the network that is not pruned, and with pruning alone."""
    exits = method.replace({"rates": method.rates[:1]})
    alone, none = exits.prepare(bench), (False,) * (prepared.model.exits - 1)
    pruned = [Design(none, (method.never,) * len(none), network) for network in range(len(method.rates))]
    both, staged, thin = (
        cheapest(one, ready, designs)
        for one, ready, designs in (
            (method, prepared, on_front(method, prepared)),
            (exits, alone, on_front(exits, alone)),
            (method, prepared, pruned),
        )
    )
    costs = {"together": 1 / both.speed_up, "exits alone": 1 / staged.speed_up, "pruning alone": 1 / thin.speed_up}
    return Outcome(
        name="together better than either alone",
        statement="Of the designs that lose at most one point on validation images, the cheapest with both costs at "
        "least a tenth less on test images than the cheapest with exits alone, and than the cheapest with pruning "
        "alone (the paper: 0.64 of the full cost instead of 0.89 and 0.89), and is at most half a point less accurate.",
        holds=1 / both.speed_up <= 0.9 * min(1 / staged.speed_up, 1 / thin.speed_up)
        and both.quality >= min(staged.quality, thin.quality) - 0.005,
        measured="; ".join(
            f"{name} {share:.3f} of the cost, accuracy {point.quality:.4f}"
            for (name, share), point in zip(costs.items(), (both, staged, thin), strict=True)
        ),
    )


def on_front(method: CoAxNN, prepared: Prepared) -> list[Design]:
    """Return the designs that a search found, and the full model."""
    found, exits = prepared.fitted, prepared.model.exits
    return [*(method.design(found.designs[i].tolist(), exits) for i in found.front), method.chosen(1.0, prepared)]


def cheapest(method: CoAxNN, prepared: Prepared, designs: Sequence[Design]) -> OperatingPoint:
    """Return what the design that is cheapest on validation images, losing at most `LOSS`, does on test images."""
    held, test = ([method.operating_point(each, prepared, part) for each in designs] for part in ("validation", "test"))
    full = method.operating_point(method.chosen(1.0, prepared), prepared, "validation").quality
    return cheapest_within(held, test, LOSS, of=full)
