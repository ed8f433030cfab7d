"""What SPINN claims over cuts without exits, and over one exit for all: throughput, work, accuracy in time, energy.

Rivals cut the same trained network with the same tables, link and machines: Neurosurgeon without exits, where it
expects the least; Edgent with one exit for all pictures, the most accurate that it expects to be in time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import NamedTuple

from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import accuracy
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.tiers import Plan, Prepared
from eelit.methods.papers.laskaridis2020spinn import DEVICE, PERIOD, Now, Profile, Scheduler, Spinn, choose, expected
from eelit.methods.world.machines import Computer, Link
from eelit.methods.world.stream import Always, Journey, World, stream
from eelit.methods.world.stream import Scheduler as AnyScheduler
from eelit.methods.world.traces import steady

LINKS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Bandwidths to try, as shares of the method's own."""
LIMITS = (0.4, 0.6, 0.8, 1.0, 1.2)
"""Latency limits to try, as shares of what Neurosurgeon takes."""
SLACK = 0.05
"""By what share a mean may exceed its limit: test pictures are not those by which it is expected."""
ASSUMED = (
    "joules are assumed watts × simulated seconds, and images of two kilobytes cost a radio almost nothing; "
    "nothing was measured"
)
PICTURES = 1000
"""Most pictures that go through each world."""


@dataclass(frozen=True)
class Condition:
    """One bandwidth that stays, with what is known of the network; nobody loses patience."""

    method: Spinn
    prepared: Prepared
    world: World

    @property
    def profile(self) -> Profile:
        """The tables."""
        found: Profile = self.prepared.fitted
        return found

    @property
    def full(self) -> Profile:
        """What is known of the network without early exits."""
        return self.profile.cut_off(len(self.profile.stages) - 1)

    def scheduler(self, profile: Profile, targets: Sequence[str], limits: Mapping[str, float]) -> Scheduler:
        """Return the paper's scheduler."""
        return Scheduler(profile, self.method.cuts, self.world, targets, limits, now(self))

    def run(self, scheduler: AnyScheduler, period: float) -> tuple[list[Journey], float]:
        """Return what becomes of test pictures that come at equal distances, and their accuracy."""
        seen = self.prepared.split("test")
        count = min(PICTURES, len(seen.examples))
        journeys = stream(self.world, seen, scheduler, [i * period for i in range(count)])
        return journeys, accuracy(seen.told(journeys), seen.targets[:count])

    def timed(self, scheduler: AnyScheduler, limit: float) -> Timed:
        """Return how test pictures far apart fare by a limit in seconds."""
        journeys, quality = self.run(scheduler, 4 * PERIOD)
        seen = self.prepared.split("test")
        right = seen.told(journeys).argmax(dim=-1) == seen.targets[: len(journeys)]
        seconds = [journey.answered - journey.came for journey in journeys]
        in_time = [bool(second <= limit) for second in seconds]
        good = mean(ok and punctual for ok, punctual in zip(right.tolist(), in_time, strict=True))
        return Timed(quality, good, 1 - mean(in_time), bool(mean(seconds) <= (1 + SLACK) * limit))


class Timed(NamedTuple):
    """How pictures fare by a limit."""

    accuracy: float
    in_time: float  # accuracy where an answer after the limit is wrong
    late: float  # share of answers after it
    kept: bool  # whether the mean is within it, but for a little


def claims(method: Spinn, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try all of them; what rests on assumed watts says so."""
    conditions = [at(method, prepared, share * method.bandwidth) for share in LINKS]
    error = 1 - float(prepared.fitted.accuracy[-1]) + 0.01  # a point less than with thr > 1
    return [
        throughput(conditions, error),
        server_work(conditions, error),
        *in_time(conditions),
        robust(method, prepared),
        less_energy(conditions, error),
    ]


def at(method: Spinn, prepared: Prepared, bandwidth: float) -> Condition:
    """Return the condition of one bandwidth."""
    machines = Computer(steady(method.device)), Computer(steady(method.server))
    world = World(machines, (Link(steady(bandwidth), method.round_trip),), DEVICE, math.inf)
    return Condition(method, prepared, world)


def throughput(conditions: Sequence[Condition], error: float) -> Outcome:
    """Pictures a second, when all wait from the start."""
    gains, losses = [], []
    for each in conditions:
        (ours, good), (theirs, known) = (
            each.run(each.scheduler(profile, ("period", "latency"), limits), 0.0)
            for profile, limits in ((each.profile, {"error": error}), (each.full, {}))
        )
        gains.append(theirs[-1].answered / ours[-1].answered)
        losses.append(known - good)
    return Outcome(
        name="more throughput than Neurosurgeon",
        statement="Over five bandwidths, with accuracy limited to a point less on held-out data, throughput is at "
        "least 1.5× at one (the paper: up to 2×) and nowhere more than 5 % lower, and accuracy on test data at most "
        "two points lower on average.",
        holds=max(gains) >= 1.5 and min(gains) >= 0.95 and mean(losses) <= 0.02,
        measured=f"{told(gains)}, accuracy {-mean(losses):+.4f}",
    )


def server_work(conditions: Sequence[Condition], error: float) -> Outcome:
    """What the server computes, in no more time."""
    gains, losses = [], []
    for each in conditions:
        points = expected(each.full, each.method.cuts, now(each), each.method.device, each.method.round_trip)
        limits = {"error": error, "latency": float(points["latency"].min())}
        ours, good = each.run(each.scheduler(each.profile, ("server", "latency"), limits), 4 * PERIOD)
        theirs, known = each.run(each.scheduler(each.full, ("latency",), {}), 4 * PERIOD)
        work, others = (sum(sum(journey.macs[1:]) for journey in journeys) for journeys in (ours, theirs))
        gains.append(others / work if work else math.inf if others else 1.0)
        losses.append(known - good)
    return Outcome(
        name="less work for the server",
        statement="Over five bandwidths, within Neurosurgeon's expected latency and with accuracy limited to a point "
        "less on held-out data, the server computes at most half at one (the paper: up to 6.8× less) and nowhere "
        "more, and accuracy on test data is at most two points lower on average.",
        holds=max(gains) >= 2 and min(gains) >= 1 and mean(losses) <= 0.02,
        measured=f"{told(gains)}, accuracy {-mean(losses):+.4f}",
    )


def in_time(conditions: Sequence[Condition]) -> list[Outcome]:
    """Accuracy within latency limits, against the most accurate single exit that is expected to be in time."""
    pairs = []
    for each in conditions:
        points = expected(each.full, each.method.cuts, now(each), each.method.device, each.method.round_trip)
        for share in LIMITS:
            limit = share * float(points["latency"].min())
            ours = each.scheduler(each.profile, ("error", "latency"), {"latency": limit})
            pairs.append((each.timed(ours, limit), each.timed(Always(single(each, limit)), limit)))
    return [on_average(pairs), one_by_one(pairs)]


def on_average(pairs: Sequence[tuple[Timed, Timed]]) -> Outcome:
    """Judge with limits on the mean latency, as the scheduler has them."""
    gains = [ours.accuracy - theirs.accuracy for ours, theirs in pairs if ours.kept and theirs.kept]
    broken = sum(theirs.kept and not ours.kept for ours, theirs in pairs)
    return Outcome(
        name="more accurate within a mean latency",
        statement="Over five bandwidths and five limits on the mean latency, SPINN's realised mean is at most 5 % over "
        "each limit that one exit for all pictures keeps so, the most accurate that is expected to be in time. Where "
        "both keep it, accuracy on test data is on average a point higher, and at most in one of five cases lower by "
        "more than a point.",
        holds=not broken and mean(gains or [0.0]) >= 0.01 and sum(gain < -0.01 for gain in gains) <= len(gains) / 5,
        measured=f"{span(gains)} over {len(gains)} limits that both keep; SPINN alone breaks {broken}",
    )


def one_by_one(pairs: Sequence[tuple[Timed, Timed]]) -> Outcome:
    """Judge with the limit on each picture: an answer after it is a wrong one, on both sides."""
    gains = [ours.in_time - theirs.in_time for ours, theirs in pairs]
    late, others = (mean(each.late for each in side) for side in zip(*pairs, strict=True))
    return Outcome(
        name="more accurate in time",
        statement="Over the same bandwidths and limits, with each answer after the limit counted as wrong, accuracy on "
        "test data is on average a point higher than that of the one exit, and at most in one of five cases lower by "
        "more than a point.",
        holds=mean(gains) >= 0.01 and sum(gain < -0.01 for gain in gains) <= len(gains) / 5,
        measured=f"{span(gains)}; {late:.1%} late, the one exit {others:.1%}",
    )


def span(gains: Sequence[float]) -> str:
    """Return gains in accuracy, on average and at most."""
    return f"{mean(gains):+.4f} on average, from {min(gains):+.4f} to {max(gains):+.4f}" if gains else "none"


def less_energy(conditions: Sequence[Condition], error: float) -> Outcome:
    """Joules of the device, where the scheduler is to save them, against sending everything to the server."""
    gains, losses = [], []
    for each in conditions:
        scheduler = each.scheduler(each.profile, ("energy", "latency"), {"error": error})
        (ours, good), (theirs, known) = (each.run(chosen, 4 * PERIOD) for chosen in (scheduler, Always(Plan((0,)))))
        joules, others = (sum(journey.joules(DEVICE) for journey in journeys) for journeys in (ours, theirs))
        gains.append(others / joules)
        losses.append(known - good)
    return Outcome(
        name="less energy than the server alone",
        statement="Over five bandwidths, where energy is the first target and accuracy is limited to a point less on "
        "held-out data, the device takes at most half of the joules at one that it takes where it sends every picture "
        "to the server, nowhere more than 5 % more, and accuracy on test data is at most two points lower on average.",
        holds=max(gains) >= 2 and min(gains) >= 0.95 and mean(losses) <= 0.02,
        measured=f"{told(gains)}, accuracy {-mean(losses):+.4f}",
        not_comparable=ASSUMED,
    )


def single(condition: Condition, limit: float) -> Plan:
    """Return the cut, and the exit for all: the most accurate on held-out data that is expected to be in time.

    If none is, the fastest.
    """
    method, seen = condition.method, condition.prepared.split("fitting")
    best: tuple[float, float, Plan] | None = None
    fastest: tuple[float, Plan] | None = None
    for exit_, answers in enumerate(seen.answers):
        known = condition.profile.cut_off(exit_)
        points = expected(known, method.cuts, now(condition), method.device, method.round_trip)
        row, column = choose(points, {}, ("latency",))
        latency, plan = float(points["latency"][row, column]), Plan((method.cuts[row],), None, exit_)
        quality = accuracy(answers, seen.targets)
        if latency <= limit and (best is None or (quality, -latency) > best[:2]):
            best = quality, -latency, plan
        if fastest is None or latency < fastest[0]:
            fastest = latency, plan
    assert fastest is not None
    return best[2] if best else fastest[1]


def robust(method: Spinn, prepared: Prepared) -> Outcome:
    """Answers in half a second on a link that breaks, against the server alone."""
    world = method.world("test", prepared.bench.seed)
    seen, waiting = prepared.split("test"), World(world.computers, world.links)
    came = method.came(len(seen.examples))
    scheduler = Scheduler(
        prepared.fitted, method.cuts, world, ("latency",), {"error": 1 - prepared.fitted.accuracy[-1]}, method.usual
    )
    ours = stream(world, seen, scheduler, came)
    theirs = stream(waiting, seen, Always(Plan((0,))), came)
    late, others = (mean(journey.milliseconds > 500 for journey in journeys) for journeys in (ours, theirs))
    return Outcome(
        name="answers when the link breaks",
        statement="On the link that breaks, at most 1 % of the pictures are answered later than after half a second, "
        "where of the server alone at least 5 % are.",
        holds=late <= 0.01 and others >= 0.05,
        measured=f"{late:.1%} late, server alone {others:.1%}",
    )


def now(condition: Condition) -> Now:
    """Return a bandwidth that stays, as a scheduler sees it."""
    return Now(condition.world.links[0].bandwidth.mean, condition.world.computers[1].speed.mean)


def told(gains: Sequence[float]) -> str:
    """Return gains at all bandwidths."""
    return ", ".join(f"{gain:.2f}× at {share:g} of the bandwidth" for share, gain in zip(LINKS, gains, strict=False))
