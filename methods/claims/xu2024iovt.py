"""What the IoVT agent claims: it trades latency for accuracy better than what knows only one side of the link.

Cell and settings of learning were chosen on the tables of one network, in slots of seeds 1000 and 1001, in which no
test picture is: the cell by what a search in every slot gains over decisions that never change, the settings by how
near the agent comes to that search.

That search tries all decisions of a slot, but does not look ahead to the queues that they leave behind. What looking
ahead would gain is tried by all sequences of decisions in a few slots, for each device alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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

TRIED = (0.4, 0.5, 0.6, 0.7, 0.8)
"""Trade-offs at which IPLA is compared."""
PICTURES = 600
"""Most pictures of a comparison."""
RUNS, AHEAD = 20, 4
"""Times that all sequences of decisions are tried for each device, and the slots of one."""


def claims(method: IovtDdpg, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them on the slots of the test pictures."""
    found = compared(method, prepared)
    ends = {base.name: base.test[0].cost for base in curve.baselines if base.name.startswith("all on")}
    return [
        beats_one_side(found),
        near_the_best(found),
        little_ahead(gained_ahead(prepared.fitted.known, method.cell, prepared.bench.seed)),
        beats_chance(found),
        sooner(curve, ends),
    ]


Pair: TypeAlias = tuple[int, int]
"""Exit and cut of a device."""


def all_pairs(known: Known) -> list[Pair]:
    """Return all that a device can do, also what the agent leaves out."""
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
            worth.append(seen.w * self.known.accuracy[e] - (1 - seen.w) * time / longest(self.known, self.cell))
            roots.append(np.sqrt(before[e + 1] - before[s] + head) if sends else 0.0)
        return np.array(worth), np.array(roots)


@dataclass(frozen=True)
class Drawn:
    """Draws an exit for each device by chance, and who runs all up to it, the device or the server, in equal shares.

    Other cuts are not drawn: maps are larger than pictures, and with them queues would grow without end.
    """

    exits: int
    random: np.random.Generator

    def decide(self, seen: Seen) -> Decision:
        """Return what was drawn."""
        e, here = self.random.integers(self.exits, size=len(seen.rates)), self.random.random(len(seen.rates)) < 0.5
        return Decision(e, np.where(here, e + 1, 0), shared(np.ones(len(e)), ~here))


def constant(known: Known, pairs: Sequence[Pair]) -> Always:
    """Return what does the same in each slot, with the shares of the server that are best for it (see `Exhaustive`)."""
    before = np.concatenate([[0.0], np.cumsum(known.stages)])
    work = [float(before[e + 1] - before[s] + known.heads[e]) * (s <= e) for e, s in pairs]
    exits, cuts = zip(*pairs, strict=True)
    return Always(exits, cuts, tuple(math.sqrt(each) for each in work))


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
    chance: float  # of exits and sides drawn by chance


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


def best_sequence(known: Known, cell: Cell, w: float, slots: tuple[Array, Array]) -> float:
    """Return the most mean reward that a device alone can have in slots, from no queue: all sequences are tried."""
    pairs = all_pairs(known)
    chosen = [Decision(np.array([e]), np.array([s]), np.array([float(s <= e)])) for e, s in pairs]
    most, right = longest(known, cell), known.accuracy[[e for e, _ in pairs]]
    worth, waiting = np.zeros(1), np.zeros(1)  # of each sequence so far
    for rates, free in zip(*slots, strict=True):
        seen = Seen(rates, np.zeros(1), float(free), w)
        taken = np.array([float(seconds(known, cell, seen, each)[0]) for each in chosen])
        latency = np.minimum(waiting[:, None] + taken, LATE * most)
        worth = (worth[:, None] + w * right - (1 - w) * latency / most).ravel()
        waiting = np.maximum(0.0, latency - cell.slot).ravel()
    return float(worth.max()) / len(slots[1])


def gained_ahead(known: Known, cell: Cell, seed: int) -> list[float]:
    """Return what the best of all sequences gains over the search in every slot, in each run of each device alone."""
    found = []
    for n, (speed, signal) in enumerate(zip(cell.speeds, cell.signal, strict=True)):
        one = replace(cell, speeds=(speed,), signal=(signal,))
        for run in range(RUNS):
            slots, w = one.conditions(AHEAD, [seed, 5, n, run]), TRIED[run % len(TRIED)]
            found.append(best_sequence(known, one, w, slots) - utility(known, one, w, Exhaustive(known, one), slots))
    return found


def learning(method: IovtDdpg, prepared: Prepared, bench: Bench, curve: Curve) -> list[Learning]:
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
        "exits and sides by chance": drawn(known, bench.seed),
    }
    best = utility(known, cell, w, Exhaustive(known, cell), test)

    def lost(controller: Controller) -> float:
        return best - utility(known, cell, w, controller, test)

    learnt = [float(round(share * method.slots)) for share in (*MOMENTS, 1.0)]
    agents = [lost(Agent(actor, cell, known)) for actor in (*fitted.earlier, fitted.actor)]
    return [
        Learning(
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
    ]


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


def little_ahead(gains: Sequence[float]) -> Outcome:
    """The search in every slot beside all sequences of decisions, where these can be tried."""
    return Outcome(
        name="looking ahead gains little over that search",
        statement=f"With each device alone in the cell, in {RUNS} runs of {AHEAD} slots, the best of all sequences of "
        "exits and cuts, all tried, gains on average at most 0.005 of the reward of a slot over the search in every "
        "slot.",
        holds=mean(gains) <= 0.005,
        measured=f"{mean(gains):+.4f} on average, {max(gains):+.4f} at most; more than nothing in "
        f"{sum(gain > 1e-9 for gain in gains)} of {len(gains)} runs",
    )


def beats_chance(found: Sequence[Reached]) -> Outcome:
    """The agent against exits and sides by chance."""
    gains = [each.agent - each.chance for each in found]
    return Outcome(
        name="better than chance",
        statement="At each of five trade-offs, IPLA in the slots of the test pictures is higher than where the exit of "
        "each device and the side that runs it are drawn at random.",
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
