"""What the IoVT agent claims: it trades latency for accuracy better than what knows only one side of the link.

Network and cell were chosen together, on tables from validation pictures and in slots of seeds 1000 and 1001, in which
no test picture is: by what a search in every slot gains over decisions that never change, and by how often it cuts in
between. Settings of learning were chosen before, for a network of another shape, by how near the agent comes to that
search.

That search tries all decisions of a slot, but does not look ahead to the queues that they leave behind. What looking
ahead gains is tried in a small cell, of two devices and three slots that are shorter than the whole network takes:
there the best of all joint sequences of decisions can be found, and an agent that learns in that cell stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean
from typing import NamedTuple, TypeAlias

import numpy as np

from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Learning, Lost, OperatingPoint, Outcome
from eelit.methods.families.tiers import Prepared
from eelit.methods.papers.xu2024iovt import (
    LATE,
    MOMENTS,
    Agent,
    Always,
    Array,
    Cell,
    Controller,
    Decision,
    Fitted,
    IovtDdpg,
    Known,
    Seen,
    longest,
    mean_ipla,
    rewarded,
    seconds,
    shared,
)

TRIED = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Trade-offs at which IPLA is compared."""
PICTURES = 600
"""Most pictures of a comparison."""
RUNS, AHEAD, FEW = 20, 3, 2
"""Times that all sequences of decisions are tried at each trade-off, the slots of one, and the devices."""
SHORT = 0.35
"""Their slots, in shares of the time of the whole network."""
SPLITS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""What the first device may have of the server where both send, besides the share that is best for the slot alone."""


def claims(method: IovtDdpg, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them on the slots of the test pictures."""
    found, few = compared(method, prepared), sequences(method, prepared, bench)
    ends = {base.name: base.test[0].cost for base in curve.baselines if base.name.startswith("all on")}
    return [
        beats_one_side(found),
        near_the_best(found),
        little_ahead(few),
        near_the_optimum(few),
        beats_chance(found),
        sooner(curve, ends),
    ]


Pair: TypeAlias = tuple[int, int]
"""Exit and cut of a device."""


def all_pairs(known: Known) -> list[Pair]:
    """Return all that a device can do."""
    return [(e, s) for e in range(len(known.stages)) for s in range(e + 2)]


@dataclass(frozen=True)
class Exhaustive:
    """Tries all exits and cuts of all devices in a slot, with the shares that are best for them.

    sum_n work_n / phi_n is least for phi_n as the square root of work_n. It does not look ahead to the queues.
    """

    known: Known
    cell: Cell

    def decide(self, seen: Seen) -> Decision:
        """Return what has the largest IPLA in this slot."""
        pairs = all_pairs(self.known)
        worth, roots = zip(*(self._alone(n, pairs, seen) for n in range(len(seen.rates))), strict=True)
        scale = (1 - seen.w) / longest(self.known, self.cell) / (seen.free * self.cell.server)
        total = sum(np.ix_(*worth), np.zeros(())) - scale * sum(np.ix_(*roots), np.zeros(())) ** 2
        best = np.unravel_index(int(total.argmax()), total.shape)
        e, s = (np.array([pairs[i][k] for i in best]) for k in (0, 1))
        phi = np.array([row[i] for row, i in zip(roots, best, strict=True)])
        return Decision(e, s, phi / max(float(phi.sum()), 1e-300))

    def _alone(self, n: int, pairs: Sequence[tuple[int, int]], seen: Seen) -> tuple[Array, Array]:
        """Return what each pair is worth to a device before the server's time, and the root of its work there."""
        before = np.concatenate([[0.0], np.cumsum(self.known.stages)])
        worth, roots = [], []
        for e, s in pairs:
            head, sends = self.known.heads[e], s <= e
            time = seen.waiting[n] + (before[s] + head * (not sends)) / self.cell.speeds[n]
            time += self.known.bits[s] / seen.rates[n] if sends else 0.0
            worth.append(seen.w * self.known.accuracy[s, e] - (1 - seen.w) * time / longest(self.known, self.cell))
            roots.append(np.sqrt(before[e + 1] - before[s] + head) if sends else 0.0)
        return np.array(worth), np.array(roots)


@dataclass(frozen=True)
class Drawn:
    """Draws an exit for each device by chance, and a cut up to it; those that send have equal shares."""

    exits: int
    random: np.random.Generator

    def decide(self, seen: Seen) -> Decision:
        """Return what was drawn."""
        e = self.random.integers(self.exits, size=len(seen.rates))
        s = self.random.integers(e + 2)
        return Decision(e, s, shared(np.ones(len(e)), s <= e))


def constant(known: Known, pairs: Sequence[Pair]) -> Always:
    """Return what does the same in each slot, with the shares of the server that are best for it (see `Exhaustive`)."""
    exits, cuts = zip(*pairs, strict=True)
    return Always(exits, cuts, wanted(known, pairs))


def wanted(known: Known, pairs: Sequence[Pair]) -> tuple[float, ...]:
    """Return what each device wants of the server, so that all are served soonest on average."""
    before = np.concatenate([[0.0], np.cumsum(known.stages)])
    return tuple(math.sqrt((before[e + 1] - before[s] + known.heads[e]) * (s <= e)) for e, s in pairs)


def searched(choices: Sequence[Pair], devices: int, worth: Callable[[tuple[Pair, ...]], float]) -> tuple[Pair, ...]:
    """Return the best pair for each device: first one for all, then device by device until none gains any more."""
    known: dict[tuple[Pair, ...], float] = {}

    def value(pairs: tuple[Pair, ...]) -> float:
        if pairs not in known:
            known[pairs] = worth(pairs)
        return known[pairs]

    best = max(((pair,) * devices for pair in choices), key=value)
    while True:
        before = best
        for n in range(devices):
            best = max((best, *((*best[:n], pair, *best[n + 1 :]) for pair in choices)), key=value)
        if best == before:
            return best


class Reached(NamedTuple):
    """IPLA of one trade-off."""

    agent: float
    one_side: float  # the better of all local and all offloaded, with the best exit for each device
    constant: float  # the best exit and cut of each device that never change
    best: float  # of a search in each slot
    chance: float  # of exits and cuts drawn by chance


def compared(method: IovtDdpg, prepared: Prepared) -> list[Reached]:
    """Return what all reach at each trade-off in the slots of test pictures, by the pictures' own answers."""
    fitted: Fitted = prepared.fitted
    known, cell, seed, found = fitted.known, method.cell, prepared.bench.seed, []
    for w in TRIED:

        def reached(controller: Controller, split: Split = "test", w: float = w) -> float:
            seen = prepared.split(split)
            count = min(PICTURES, len(seen.examples))
            journeys = method.slots_of(split, seed, count, controller, w).run(seen, count)
            right = seen.told(journeys).argmax(dim=-1) == seen.targets[:count]
            return mean_ipla(longest(known, cell), w, journeys, right.tolist())

        def held(controller: Controller, reached: Callable[..., float] = reached) -> float:
            return reached(controller, "validation")

        side, never = constants(known, cell, held)
        every = (Agent(fitted.actor, cell, known), side, never, Exhaustive(known, cell), drawn(known, seed))
        found.append(Reached(*(reached(each) for each in every)))
    return found


def constants(known: Known, cell: Cell, worth: Callable[[Controller], float]) -> tuple[Always, Always]:
    """Return what is worth most of all that never changes: on the better side alone, and with any cuts."""
    exits, devices = range(len(known.stages)), len(cell.speeds)

    def value(pairs: tuple[Pair, ...]) -> float:
        return worth(constant(known, pairs))

    sides = ([(e, 0) for e in exits], [(e, e + 1) for e in exits])
    side: tuple[Pair, ...] = max((searched(each, devices, value) for each in sides), key=value)
    never = searched(all_pairs(known), devices, value)
    return constant(known, side), constant(known, never)


def drawn(known: Known, seed: int) -> Drawn:
    """Return what decides by chance, begun anew."""
    return Drawn(len(known.stages), np.random.default_rng([seed, 4]))


def utility(known: Known, cell: Cell, w: float, controller: Controller, slots: tuple[Array, Array]) -> float:
    """Return the mean reward of a controller, as the agent is rewarded, in slots (`Cell.conditions`) from no queue."""
    found, waiting = list[float](), np.zeros(len(cell.speeds))
    for rates, free in zip(*slots, strict=True):
        seen = Seen(rates, waiting, float(free), w)
        r, waiting = rewarded(known, cell, seen, controller.decide(seen))
        found.append(r)
    return mean(found)


def possible(known: Known, devices: int) -> Decision:
    """Return all joint decisions of a slot, each ``[decisions, N]``: exits, cuts, and shares where two send."""
    found = []
    for pairs in product(all_pairs(known), repeat=devices):
        e, s = np.array(pairs).T
        both = devices == FEW and bool((s <= e).all())
        shares = [wanted(known, pairs), *((part, 1 - part) for part in SPLITS if both)]
        found += [(e, s, shared(np.array(each), s <= e)) for each in shares]
    return Decision(*(np.array(part) for part in zip(*found, strict=True)))


def not_worse(rows: Array) -> list[int]:
    """Return the numbers of rows such that no other is at least as high everywhere; of equal rows one is kept."""
    kept: list[int] = []
    for i in np.argsort(-rows.sum(axis=1), kind="stable").tolist():  # a row is dominated by higher sums alone
        if not (rows[kept] >= rows[i]).all(axis=1).any():
            kept.append(i)
    return kept


def worthwhile(known: Known, cell: Cell, slots: tuple[Array, Array]) -> list[tuple[Array, Array]]:
    """Return of each slot the joint decisions that may be best: how right they are, and T_n ``[decisions, N]``.

    Left out is a decision in place of which another is as right on average and takes no device longer: whatever comes
    before and after, that one does as well.
    """
    every, found = possible(known, len(cell.speeds)), []
    right = known.accuracy[every.cuts, every.exits].mean(axis=1)
    for rates, free in zip(*slots, strict=True):
        taken = seconds(known, cell, Seen(rates, np.zeros(len(rates)), float(free), 0.0), every)
        kept = not_worse(np.column_stack([right, -taken]))
        found.append((right[kept], taken[kept]))
    return found


def best_sequence(known: Known, cell: Cell, w: float, choices: Sequence[tuple[Array, Array]]) -> float:
    """Return the most mean reward that all devices can have in slots, from no queue: all sequences are tried."""
    devices, most = len(cell.speeds), longest(known, cell)
    worth, waiting = np.zeros(1), np.zeros((1, devices))  # of each sequence so far
    for right, taken in choices:
        latency = np.minimum(waiting[:, None] + taken, LATE * most)
        worth = (worth[:, None] + w * right - (1 - w) * latency.mean(axis=2) / most).ravel()
        waiting = np.maximum(0.0, latency - cell.slot).reshape(-1, devices)
    return float(worth.max()) / len(choices)


def short(known: Known, cell: Cell) -> Cell:
    """Return a cell of the first devices, in which the whole network takes longer than a slot."""
    few = replace(cell, speeds=cell.speeds[:FEW], signal=cell.signal[:FEW])
    return replace(few, slot=SHORT * longest(known, few))


class Few(NamedTuple):
    """Mean rewards of a few slots at one trade-off."""

    w: float
    best: float  # of all sequences
    search: float  # in each slot, which does not look ahead
    agent: float  # that has learnt in this cell
    constant: float  # the best exits and cuts that never change, chosen on other slots


def sequences(method: IovtDdpg, prepared: Prepared, bench: Bench) -> list[Few]:
    """Return what all reach in a small cell with short slots, run by run, for each trade-off."""
    known: Known = prepared.fitted.known
    cell = short(known, method.cell)
    agent, _ = method.learnt(known, cell, bench)
    held, tried = ([cell.conditions(AHEAD, [bench.seed, 5, part, run]) for run in range(RUNS)] for part in (0, 1))
    choices, found = [worthwhile(known, cell, slots) for slots in tried], list[Few]()
    for w in TRIED:

        def worth(controller: Controller, w: float = w) -> float:
            return mean(utility(known, cell, w, controller, slots) for slots in held)

        _, never = constants(known, cell, worth)
        rivals: tuple[Controller, ...] = (Exhaustive(known, cell), Agent(agent, cell, known), never)
        for slots, choice in zip(tried, choices, strict=True):
            reached = (utility(known, cell, w, each, slots) for each in rivals)
            found.append(Few(w, best_sequence(known, cell, w, choice), *reached))
    return found


def learning(method: IovtDdpg, prepared: Prepared, bench: Bench, curve: Curve) -> list[Learning]:
    """Return what the agent loses by its slots of training, and beside the best of all sequences of decisions."""
    return [regret(method, prepared, bench), beside_all(sequences(method, prepared, bench))]


def beside_all(found: Sequence[Few]) -> Learning:
    """Return what is lost in a few slots against the best of all sequences, by trade-off."""
    rules = {"DDPG agent": 3, "search in every slot": 2, "exits, cuts and shares that never change": 4}

    def lost(w: float, i: int) -> float:
        return AHEAD * mean(each.best - each[i] for each in found if each.w == w)

    return Learning(
        title=f"Reward of {AHEAD} slots below that of the best of all joint sequences of decisions, {FEW} devices, a "
        f"slot of {SHORT:g} of the time that the whole network takes",
        time="w",
        unit="reward",
        lines=[Lost(rule=rule, times=[*TRIED], values=[lost(w, i) for w in TRIED]) for rule, i in rules.items()],
    )


def regret(method: IovtDdpg, prepared: Prepared, bench: Bench) -> Learning:
    """Return what the agent has lost in a slot of test pictures, at the middle trade-off, by its slots of training."""
    fitted: Fitted = prepared.fitted
    known, cell, w = fitted.known, method.cell, sorted(TRIED)[len(TRIED) // 2]

    def slots_of(split: Split) -> tuple[Array, Array]:
        pictures = min(PICTURES, len(prepared.split(split).examples))
        return cell.conditions(math.ceil(pictures / len(cell.speeds)), [bench.seed, split == "test"])

    held, test = slots_of("validation"), slots_of("test")
    side, never = constants(known, cell, lambda each: utility(known, cell, w, each, held))
    rivals: dict[str, Controller] = {
        "exits, cuts and shares that never change": never,
        "the better side alone": side,
        "exits and cuts by chance": drawn(known, bench.seed),
    }
    best = utility(known, cell, w, Exhaustive(known, cell), test)

    def lost(controller: Controller) -> float:
        return best - utility(known, cell, w, controller, test)

    learnt = [float(round(share * method.slots)) for share in (*MOMENTS, 1.0)]
    agents = [lost(Agent(actor, cell, known)) for actor in (*fitted.earlier, fitted.actor)]
    return Learning(
        title=f"Reward of a slot below that of a search in every slot, which does not look ahead, at w = {w:g}",
        time="slots of training",
        unit="reward",
        lines=[
            Lost(rule="DDPG agent", times=learnt, values=agents),
            *(
                Lost(rule=rule, times=[learnt[0], learnt[-1]], values=[lost(controller)] * 2)
                for rule, controller in rivals.items()
            ),
        ],
    )


def beats_one_side(found: Sequence[Reached]) -> Outcome:
    """The agent against all local and all offloaded."""
    gains = [each.agent - each.one_side for each in found]
    return Outcome(
        name="better than one side alone",
        statement="Over five trade-offs, IPLA in the slots of the test pictures, by their own answers, is on average "
        "at least 0.01 above the better of computing all on the devices and all on the server, with an exit for each "
        "device and shares of the server that never change and are chosen on other slots.",
        holds=mean(gains) >= 0.01,
        measured=f"{mean(gains):+.4f} on average, from {min(gains):+.4f} to {max(gains):+.4f}",
    )


def near_the_best(found: Sequence[Reached]) -> Outcome:
    """The agent between what never changes and a search in each slot."""
    ours, best = (mean(each[i] - each.constant for each in found) for i in (0, 3))
    return Outcome(
        name="near a search in every slot",
        statement="Of the IPLA that a search over all exits, cuts and shares in every slot gains over an exit, a cut "
        "and a share for each device that never change, chosen on other slots, the agent has on average at least a "
        "half. The search looks at one slot alone, not at the queues that its decisions leave behind.",
        holds=ours >= best / 2 and best > 0,
        measured=f"{ours:+.4f} of {best:+.4f}",
    )


def totals(found: Sequence[Few]) -> str:
    """Return the mean rewards of a few slots in words."""
    best, search, agent, constant = (AHEAD * mean(each[i] for each in found) for i in range(1, 5))
    return (
        f"over {AHEAD} slots the best of all sequences has {best:.4f}, the search {search:.4f}, the agent {agent:.4f}, "
        f"what never changes {constant:.4f}"
    )


CASE = (
    f"In a cell of {FEW} devices and {AHEAD} slots, each {SHORT:g} of the time that the whole network takes, so that "
    f"work is left for the next slot, {RUNS} runs at each of five trade-offs"
)


def little_ahead(found: Sequence[Few]) -> Outcome:
    """The search in every slot beside all sequences of decisions, where these can be tried."""
    gains = [each.best - each.search for each in found]
    return Outcome(
        name="looking ahead gains little over that search",
        statement=f"{CASE}: the best of all joint sequences of exits, cuts and shares, all tried, gains on average at "
        "most 0.005 of the reward of a slot over the search in every slot.",
        holds=mean(gains) <= 0.005,
        measured=f"{mean(gains):+.4f} on average, {max(gains):+.4f} at most, more than nothing in "
        f"{sum(gain > 1e-9 for gain in gains)} of {len(gains)} runs; {totals(found)}",
    )


def near_the_optimum(found: Sequence[Few]) -> Outcome:
    """The agent between what never changes and the best of all sequences."""
    ours, best = (mean(each[i] - each.constant for each in found) for i in (3, 1))
    return Outcome(
        name="near the best of all sequences",
        statement=f"{CASE}: of the reward that the best of all joint sequences gains over an exit, a cut and a share "
        "for each device that never change, chosen on other slots, an agent that has learnt in this cell has on "
        "average at least a half.",
        holds=ours >= best / 2 and best > 0,
        measured=f"{ours:+.4f} of {best:+.4f} in a slot",
    )


def beats_chance(found: Sequence[Reached]) -> Outcome:
    """The agent against exits and cuts by chance."""
    gains = [each.agent - each.chance for each in found]
    return Outcome(
        name="better than chance",
        statement="At each of five trade-offs, IPLA in the slots of the test pictures is higher than where the exit of "
        "each device and its cut are drawn at random.",
        holds=min(gains) > 0,
        measured=f"{mean(gains):+.4f} on average, from {min(gains):+.4f} to {max(gains):+.4f}",
    )


def sooner(curve: Curve, ends: Mapping[str, float]) -> Outcome:
    """The cheapest w that loses little, against the whole network on either side."""
    point: OperatingPoint = cheapest_within(curve.validation, curve.test, 0.01)
    least, loss = min(ends.values()), curve.full_quality - point.quality
    return Outcome(
        name="sooner at the accuracy of the last exit",
        statement="At the cheapest w that loses at most one point on validation data, the simulated time to an answer "
        "is at most 80 % of that of the whole network on the devices or on the server, whichever is sooner, and "
        "accuracy on test data is at most two points lower.",
        holds=point.cost <= 0.8 * least and loss <= 0.02,
        measured=f"{point.cost:.0f} instead of {least:.0f} simulated ms, accuracy {-loss:+.4f}, at w = {point.knob:g}",
    )
