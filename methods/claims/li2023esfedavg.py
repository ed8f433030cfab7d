"""What the title of ES-FedAvg promises, tried: depth for whom can afford it, personal heads, and less that is sent.

All but the last is tried in several federations, each with its own seed: who has which images, first weights, and the
order of training differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any, NamedTuple

from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.papers.li2023esfedavg import Clients, EsFedAvg

GAIN = 0.01
"""What a part of the method must bring on the clients' test images."""
SEEDS = (0, 101, 202)
"""What is added to the seed of the run: one for each federation, the first is that of the curve."""
CHANGED: Mapping[str, Mapping[str, Any]] = {
    "shallow": {"budgets": (1,)},
    "alone": {"shared": "nothing", "kept": 1.0},
    "common": {"shared": "all"},
    "dense": {"density": 1.0},
    "unpruned": {"kept": 1.0},
}
"""What is left out of the method. A client that learns alone has no use for sparse weights either, and keeps all."""


class Pair(NamedTuple):
    """Accuracy of last exits in a federation, and in the same without one part of the method."""

    ours: float
    theirs: float


class Federated(NamedTuple):
    """What one federation reaches, with and without each part, on the same clients and trained as long."""

    pairs: Mapping[str, Pair]  # a name of `CHANGED` → accuracies; of "shallow", those of the deepest clients alone
    sent: tuple[int, int]  # bytes of all messages of the training, to the clients and back
    whole: tuple[int, int]  # the same where clients send all weights


def claims(method: EsFedAvg, prepared: Clients, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the same federations without one part at a time."""
    benches = [replace(bench, seed=bench.seed + seed) for seed in SEEDS]
    found = [tried(method, method.prepare(own) if i else prepared, own) for i, own in enumerate(benches)]
    pairs = {name: [each.pairs[name] for each in found] for name in CHANGED}
    point = cheapest_within(curve.validation, curve.test, 0.01)
    return [
        better(
            "deep clients are better for their depth",
            "On the clients that can afford all blocks, the last exit is more accurate than in the same federation of "
            "the one-block network that all can afford",
            pairs["shallow"],
        ),
        better(
            "better than learning alone",
            "Over all clients, last exits are more accurate than those of clients that train as long by themselves, "
            "and keep all weights",
            pairs["alone"],
        ),
        better(
            "better with heads of their own",
            "Over all clients, last exits are more accurate than where heads are averaged too",
            pairs["common"],
        ),
        sparse(pairs["dense"], [each.sent for each in found], [each.whole for each in found]),
        pruned(pairs["unpruned"], method.kept),
        Outcome(
            name="exits spare computation",
            statement="The cheapest threshold that loses at most one point on validation images costs at least a fifth "
            "less than the clients' plain networks, and loses at most two points on test images.",
            holds=point.speed_up >= 1.25 and point.quality >= curve.full_quality - 0.02,
            measured=f"{point.speed_up:.2f}× at threshold {point.knob:g}, accuracy "
            f"{point.quality - curve.full_quality:+.4f}",
            not_comparable=nothing_to_lose(curve, 0.02),
        ),
    ]


def tried(method: EsFedAvg, prepared: Clients, bench: Bench) -> Federated:
    """Train the same federation without one part at a time."""
    others: dict[str, Clients] = {name: method.replace(dict(part)).prepare(bench) for name, part in CHANGED.items()}
    some = {"shallow": [k for k, one in enumerate(prepared.each) if one.model.exits == method.exits]}
    pairs = {
        name: Pair(*(accuracy(method, each, bench, some.get(name)) for each in (prepared, other)))
        for name, other in others.items()
    }
    return Federated(pairs, crossed(prepared), crossed(others["dense"]))


def accuracy(method: EsFedAvg, prepared: Clients, bench: Bench, some: list[int] | None = None) -> float:
    """Return the accuracy of last exits on the test images of all clients, or of some."""
    chosen = prepared.each if some is None else [prepared.each[k] for k in some]
    return method.full_model(replace(prepared, each=chosen), bench)[0]


def told(pairs: Sequence[Pair]) -> str:
    """Return accuracies in words: their means, and the difference in each federation."""
    each = ", ".join(f"{ours - theirs:+.4f}" for ours, theirs in pairs)
    return f"accuracy {mean(pair.ours for pair in pairs):.4f} and {mean(pair.theirs for pair in pairs):.4f} ({each})"


def better(name: str, statement: str, pairs: Sequence[Pair]) -> Outcome:
    """Return the outcome that we are better by so much."""
    gains = [ours - theirs for ours, theirs in pairs]
    return Outcome(
        name=name,
        statement=f"{statement}: by at least one point on average over three federations, and in each of them.",
        holds=mean(gains) >= GAIN and min(gains) > 0,
        measured=told(pairs),
    )


def little_lost(pairs: Sequence[Pair]) -> bool:
    """Return whether at most a point is lost on average, and nowhere more than two."""
    losses = [theirs - ours for ours, theirs in pairs]
    return mean(losses) <= GAIN and max(losses) <= 2 * GAIN


def crossed(prepared: Clients) -> tuple[int, int]:
    """Return the bytes of all messages of the training, to the clients and back."""
    assert prepared.federation is not None
    down, up = prepared.federation.traffic.tolist()
    return down, up


def sparse(pairs: Sequence[Pair], sent: Sequence[tuple[int, int]], whole: Sequence[tuple[int, int]]) -> Outcome:
    """What is saved by sending a share of the weights, and what that costs; what is pruned in the end is the same."""
    (down, up), (all_down, all_up) = (map(mean, zip(*each, strict=True)) for each in (sent, whole))
    return Outcome(
        name="little is lost by sending few weights",
        statement="Over all rounds, at most three quarters of the bytes cross, both ways together, that would if "
        "clients sent all weights; and last exits are at most one point less accurate on average over three "
        "federations, and in none more than two.",
        holds=down + up <= 0.75 * (all_down + all_up) and little_lost(pairs),
        measured=f"{up / 1000:.1f} of {all_up / 1000:.1f} kB to the server, {down / 1000:.1f} of {all_down / 1000:.1f} "
        f"kB from it, {(down + up) / (all_down + all_up):.1%} together; {told(pairs)}",
    )


def pruned(pairs: Sequence[Pair], kept: float) -> Outcome:
    """What it costs that clients keep a share of the weights in the end; what is sent before is the same."""
    return Outcome(
        name="little is lost by keeping few weights",
        statement="Last exits are at most one point less accurate than where clients keep all weights of their blocks, "
        "on average over three federations, and in none more than two.",
        holds=little_lost(pairs),
        measured=f"{kept:.0%} of the weights kept; {told(pairs)}",
    )
