"""What the title of ES-FedAvg promises, tried: depth for whom can afford it, personal heads, and less that is sent.

All but the last is tried in several federations, each with its own seed: who has which images, first weights, and the
order of training differ. Differences are paired: both sides of each have the same clients and the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any, NamedTuple

from scipy.special import stdtrit

from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.li2023esfedavg import BY, Clients, EsFedAvg, one_thread

GAIN = 0.01
"""What a part of the method must bring on the clients' test images."""
SEEDS = (0, 101, 202, 303, 404)
"""What is added to the seed of the run: one for each federation, the first is that of the curve."""
FEW = 3
"""How many of the federations are also tried with fewer images, and with milder mixtures of classes."""
CHANGED: Mapping[str, Mapping[str, Any]] = {
    "shallow": {"budgets": (1,)},
    "alone": {"shared": "nothing", "kept": 1.0, "by": BY[0]},
    "common": {"shared": "all"},
    "dense": {"density": 1.0, "by": BY[0]},
    "unpruned": {"kept": 1.0},
}
"""What is left out of the method. A client that learns alone has no use for sparse weights either, and keeps all.

Where no weight or every weight is sent, nothing is chosen by anything: both variants share one training.
"""

PLAIN: Mapping[str, Any] = {"shared": "all", "density": 1.0, "kept": 1.0, "by": BY[0]}
"""What makes it federated averaging as it was before: one network for all, of which all weights are sent and averaged.
"""


class Pair(NamedTuple):
    """Accuracy of last exits in a federation, and in the same without one part of the method."""

    ours: float
    theirs: float


class Federated(NamedTuple):
    """What one federation reaches, with and without each part, on the same clients and trained as long."""

    pairs: Mapping[str, Pair]  # a name of `CHANGED` → accuracies; of "shallow", those of the deepest clients alone
    sent: tuple[int, int]  # bytes of all messages of the training, to the clients and back
    whole: tuple[int, int]  # the same where clients send all weights


class Averaged(NamedTuple):
    """What plain federated averaging reaches in one federation, beside the method."""

    ours: float  # accuracy of last exits, and bytes of all messages
    ours_bytes: int
    affordable: float  # of one block, which all can afford, after as many rounds and steps
    affordable_bytes: int
    deep: float  # of all blocks, which not all can afford
    deep_bytes: int
    brief: float  # the same in as many bytes as the method has taken, or the fewest that a round takes
    rounds: int  # that fit into these


class Gain(NamedTuple):
    """The mean over federations of what one part brings, and its 95 % interval by Student's t."""

    mean: float
    low: float
    high: float


def claims(method: EsFedAvg, prepared: Clients, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the same federations without one part at a time."""
    benches = [replace(bench, seed=bench.seed + seed) for seed in SEEDS]
    with one_thread():
        ready = [method.prepare(own) if i else prepared for i, own in enumerate(benches)]
        both = list(zip(ready, benches, strict=True))
        found = [tried(method, each, own) for each, own in both]
        plain = [beside_plain(method, each, own) for each, own in both]
        pays = elsewhere(method, benches[:FEW])
    pairs = {name: [each.pairs[name] for each in found] for name in CHANGED}
    alone = better(
        "better than learning alone",
        "Over all clients, last exits are more accurate than those of clients that train as long by themselves, "
        "and keep all weights",
        pairs["alone"],
    )
    return [
        better(
            "deep clients are better for their depth",
            "On the clients that can afford all blocks, the last exit is more accurate than in the same federation of "
            "the one-block network that all can afford",
            pairs["shallow"],
        ),
        alone.model_copy(update={"measured": f"{alone.measured}; {pays}"}),
        better_than_plain(plain, method.rounds + 1),
        better(
            "better with heads of their own",
            "Over all clients, last exits are more accurate than where heads are averaged too",
            pairs["common"],
        ),
        sparse(pairs["dense"], [each.sent for each in found], [each.whole for each in found]),
        pruned(pairs["unpruned"], method.kept),
        spared(curve),
    ]


def spared(curve: Curve) -> Outcome:
    """What exits save by the cheapest threshold that loses little."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    return Outcome(
        name="exits spare computation",
        statement="The cheapest threshold that loses at most one point on validation images costs at least a fifth "
        "less than the clients' plain networks, and loses at most two points on test images.",
        holds=point.speed_up >= 1.25 and point.quality >= curve.full_quality - 0.02,
        measured=f"{point.speed_up:.2f}× at threshold {point.knob:g}, accuracy "
        f"{point.quality - curve.full_quality:+.4f}",
        not_comparable=nothing_to_lose(curve, 0.02),
    )


def tried(method: EsFedAvg, prepared: Clients, bench: Bench) -> Federated:
    """Train the same federation without one part at a time."""
    others = {name: without(method, name).prepare(bench) for name in CHANGED}
    some = {"shallow": [k for k, one in enumerate(prepared.each) if one.model.exits == method.exits]}
    pairs = {
        name: Pair(*(accuracy(method, each, bench, some.get(name)) for each in (prepared, other)))
        for name, other in others.items()
    }
    return Federated(pairs, crossed(prepared), crossed(others["dense"]))


def without(method: EsFedAvg, part: str) -> EsFedAvg:
    """Return the method without one part."""
    return method.replace(dict(CHANGED[part]))


def beside_plain(method: EsFedAvg, prepared: Clients, bench: Bench) -> Averaged:
    """Train plain federated averaging with the same clients: as many rounds, or as many bytes.

    Where the method's clients train once more for themselves, there is one more round of averaging.
    """

    def plain(budget: int, rounds: int) -> tuple[float, tuple[int, int]]:
        own = method.replace({**PLAIN, "budgets": (budget,), "rounds": rounds})
        ready = own.prepare(bench)
        return accuracy(own, of_the_server(ready), bench), crossed(ready)

    turns, taken = method.rounds + 1, sum(crossed(prepared))
    affordable, few = plain(1, turns)
    deep, (down, up) = plain(method.exits, turns)
    rounds = fitting(taken, down / (turns + 1), up / turns)
    brief, _ = plain(method.exits, rounds)
    return Averaged(accuracy(method, prepared, bench), taken, affordable, sum(few), deep, down + up, brief, rounds)


def fitting(taken: int, down: float, up: float) -> int:
    """Return how many rounds of so many bytes each way fit into some bytes, at least one, if the last average is told.

    So there is one message more to the clients than back.
    """
    return max(1, int((taken - down) / (down + up) + 1e-9))


def of_the_server(prepared: Clients) -> Clients:
    """Return the clients with the server's network, of which each has as many blocks as it affords, and the heads."""
    server = prepared.federation
    assert server is not None

    def given(one: Prepared) -> Prepared:
        exits = one.model.exits
        return Prepared(MultiExit(server.stages[:exits], server.heads[:exits]), one.data, one.bench, one.method)

    return replace(prepared, each=[given(one) for one in prepared.each])


def elsewhere(method: EsFedAvg, benches: Sequence[Bench]) -> str:
    """Tell what federation gains over learning alone with a quarter and half of the images, and milder mixtures."""
    images = method.train_size // method.clients
    others: dict[str, dict[str, Any]] = {
        f"{images // 4} images a client": {"train_size": method.train_size // 4},
        f"{images // 2}": {"train_size": method.train_size // 2},
        f"alpha = {3 * method.alpha:g}": {"alpha": 3 * method.alpha},
    }
    gains = []
    for said, changed in others.items():
        own = method.replace(changed)
        sides = ((each.prepare(bench) for each in (own, without(own, "alone"))) for bench in benches)
        pairs = [
            Pair(*(accuracy(own, side, bench) for side in both)) for both, bench in zip(sides, benches, strict=True)
        ]
        gains.append(f"{said}: {gain(pairs).mean:+.4f}")
    return (
        f"with {', '.join(gains)} (means of {len(benches)} federations; here {images} images, alpha = {method.alpha:g})"
    )


def accuracy(method: EsFedAvg, prepared: Clients, bench: Bench, some: list[int] | None = None) -> float:
    """Return the accuracy of last exits on the test images of all clients, or of some."""
    chosen = prepared.each if some is None else [prepared.each[k] for k in some]
    return method.full_model(replace(prepared, each=chosen), bench)[0]


def gain(pairs: Sequence[Pair]) -> Gain:
    """Return by how much the first of each pair is more accurate."""
    gains = [ours - theirs for ours, theirs in pairs]
    half = float(stdtrit(len(gains) - 1, 0.975)) * stdev(gains) / len(gains) ** 0.5
    return Gain(mean(gains), mean(gains) - half, mean(gains) + half)


def told(pairs: Sequence[Pair]) -> str:
    """Return accuracies in words: their means, the mean difference with its interval, and each federation's."""
    found = gain(pairs)
    each = ", ".join(f"{ours - theirs:+.4f}" for ours, theirs in pairs)
    return (
        f"accuracy {mean(pair.ours for pair in pairs):.4f} and {mean(pair.theirs for pair in pairs):.4f}, "
        f"{found.mean:+.4f} from {found.low:+.4f} to {found.high:+.4f} ({each})"
    )


def better(name: str, statement: str, pairs: Sequence[Pair]) -> Outcome:
    """Return the outcome that we are better by so much."""
    found = gain(pairs)
    return Outcome(
        name=name,
        statement=f"{statement}: by at least one point on average over {len(pairs)} federations, and the 95 % interval "
        "of the paired difference lies above 0.",
        holds=found.mean >= GAIN and found.low > 0,
        measured=told(pairs),
    )


def better_than_plain(found: Sequence[Averaged], turns: int) -> Outcome:
    """Return the outcome that we are better than one network for all, which all can afford; and what a deep one does.

    A deep one is beyond the budgets of some, so it is told and does not decide.
    """
    outcome = better(
        "better than plain federated averaging",
        f"Over all clients, last exits are more accurate than the one network of plain federated averaging after as "
        f"many rounds and steps, {turns} turns of each client: of one block, which all can afford, with all weights "
        "sent, the head averaged, and nothing learnt after the last average",
        [Pair(each.ours, each.affordable) for each in found],
    )
    ours, affordable, deep = (
        mean(getattr(each, f"{name}_bytes") for each in found) / 1000 for name in ("ours", "affordable", "deep")
    )
    rounds = sorted({each.rounds for each in found})
    return outcome.model_copy(
        update={
            "measured": f"{outcome.measured}; {ours:.1f} kB crossed, there {affordable:.1f}; one network of all "
            f"blocks, beyond the budgets of some, reaches {mean(each.deep for each in found):.4f} with {deep:.1f} kB, "
            f"and {mean(each.brief for each in found):.4f} in as many bytes as here, after "
            f"{' or '.join(map(str, rounds))} rounds"
        }
    )


def little_lost(pairs: Sequence[Pair]) -> bool:
    """Return whether at most a point is lost on average, and the interval reaches no further than two."""
    found = gain(pairs)
    return found.mean >= -GAIN and found.low >= -2 * GAIN


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
        statement="Over all rounds, clients send at most half of the bytes that they would send with all weights (what "
        "the server sends to them is whole, and the same); and last exits are at most one point less accurate on "
        f"average over {len(pairs)} federations, the 95 % interval reaching to a loss of at most two.",
        holds=up <= 0.5 * all_up and little_lost(pairs),
        measured=f"up to the server {up / 1000:.1f} of {all_up / 1000:.1f} kB ({up / all_up:.1%}), down to the clients "
        f"{down / 1000:.1f} of {all_down / 1000:.1f} kB, {(down + up) / (all_down + all_up):.1%} in sum; {told(pairs)}",
    )


def pruned(pairs: Sequence[Pair], kept: float) -> Outcome:
    """What it costs that clients keep a share of the weights in the end; what is sent before is the same."""
    return Outcome(
        name="little is lost by keeping few weights",
        statement="Last exits are at most one point less accurate than where clients keep all weights of their blocks, "
        f"on average over {len(pairs)} federations, the 95 % interval reaching to a loss of at most two.",
        holds=little_lost(pairs),
        measured=f"{kept:.0%} of the weights kept; {told(pairs)}",
    )
