"""What CoAxNN claims: exits and pruning set together save more than either, and much at a trivial loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from eelit.methods.claims.alone import reached_alone
from eelit.methods.claims.comparisons import beside_random_search, worth
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.engine.search import Judged
from eelit.methods.families.designs import Design, Prepared
from eelit.methods.papers.li2023coaxnn import CoAxNN
from eelit.methods.recipes.plain import train_plain

LOSS = 0.01
"""Accuracy that may be lost on validation images; the paper's designs lose 0.6 to 1.4 points."""


@dataclass(frozen=True)
class Alone(CoAxNN):
    """Networks of all pruning rates whose last stage alone learns: that without pruning by ordinary training."""

    lam: float = 0.0

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the network that is not pruned."""
        train_plain(model, data, bench, **self.options)


def alone(method: CoAxNN) -> Alone:
    """Return pruning without exits, with the other settings of the method."""
    return Alone(**{field.name: getattr(method, field.name) for field in fields(method) if field.name != "lam"})


def claims(method: CoAxNN, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """What is saved; both strategies beside each of the two; and the search beside all designs, and a random one."""
    pruning, best = alone(method), method.best_of_all(prepared.for_choosing, "fitting")
    pruned = pruning.prepare(bench)
    return [
        saves(curve, pruning.full_model(pruned, bench)[0]),
        together(method, prepared, pruning, pruned, bench),
        near_the_best(method, prepared, best),
        beside_random_search(method, prepared, best),
    ]


def saves(curve: Curve, plain: float) -> Outcome:
    """What a small loss buys; ``plain`` is the accuracy of the network that learned without exits."""
    point = cheapest_within(curve.validation, curve.test, LOSS)
    loss, reason = curve.full_quality - point.quality, reached_alone(curve, "Exit")
    return Outcome(
        name="a quarter saved at a trivial loss",
        statement="The least budget that loses at most one point on validation images saves a quarter of the MACs "
        "(the paper: 26 to 62 percent of the FLOPs on CIFAR-10), and loses at most two points on test images. What is "
        "lost is against the last stage of the network that learned with all exits and is not pruned.",
        holds=not reason and point.speed_up >= 4 / 3 and loss <= 0.02,
        measured=f"{1 - 1 / point.speed_up:.1%} saved, accuracy {-loss:+.4f} to {point.quality:.4f}, at budget "
        f"{point.knob:g}; the same network that learned without exits: {plain:.4f}",
        not_comparable=reason,
    )


def together(method: CoAxNN, prepared: Prepared, pruning: Alone, pruned: Prepared, bench: Bench) -> Outcome:
    """Compare with a search, as long, for exits on the network that is not pruned, and with pruning alone."""
    exits = method.replace({"rates": method.rates[:1]})
    unpruned, none = exits.prepare(bench), (False,) * (prepared.model.exits - 1)
    thinned = [Design(none, (method.never,) * len(none), network) for network in range(len(method.rates))]
    full = method.operating_point(method.chosen(1.0, prepared), prepared, "validation").quality
    both, staged, thin = (
        cheapest(one, ready, designs, full)
        for one, ready, designs in (
            (method, prepared, on_front(method, prepared)),
            (exits, unpruned, on_front(exits, unpruned)),
            (pruning, pruned, thinned),
        )
    )
    costs = {"together": 1 / both.speed_up, "exits alone": 1 / staged.speed_up, "pruning alone": 1 / thin.speed_up}
    return Outcome(
        name="together better than either alone",
        statement="Of the designs that on validation images are at most one point less accurate than the last stage of "
        "the network that learned with all exits and is not pruned, the cheapest with both costs at least a tenth less "
        "on test images than the cheapest with exits alone, and than the cheapest with pruning alone, on networks that "
        "learned as long without exits (the paper: 0.64 of the full cost instead of 0.89 and 0.89), and is at most "
        "half a point less accurate.",
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


def cheapest(method: CoAxNN, prepared: Prepared, designs: Sequence[Design], full: float) -> OperatingPoint:
    """Return what the design that is cheapest on validation images, at most `LOSS` below full, does on test images."""
    held, test = ([method.operating_point(each, prepared, part) for each in designs] for part in ("validation", "test"))
    return cheapest_within(held, test, LOSS, of=full)


def near_the_best(method: CoAxNN, prepared: Prepared, best: Judged) -> Outcome:
    """Compare the front that the search found with that of all designs."""
    ours = prepared.for_choosing.fitted
    missing, held = best.hypervolume - ours.hypervolume, worth(method, prepared, ours) - worth(method, prepared, best)
    return Outcome(
        name="close to the best of all designs",
        statement="On the validation images of the search, the best design within a budget is, over all budgets up to "
        "the full model's cost, on average at most a quarter of a point less accurate than the best of all designs, "
        "every one of which was judged on the same images.",
        holds=missing <= 0.0025,
        measured=f"{-missing:+.4f} on the images of the search, {held:+.4f} on test images; {len(ours.designs)} of "
        f"{method.different(prepared.model.exits):,.0f} designs judged",
    )
