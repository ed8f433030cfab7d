"""What DEE claims: its regret per frame vanishes, and it collects more than schedulers that look at less.

Frames come without end: the test data in one random order, again and again. All seconds are simulated. Frames come so
far apart that the phone is free for each, whatever was asked before. So frame t meets the same speed of the processor
under every rule, and what one collects less than another is due to the rules alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eelit.methods.claims.ju2021lee import Learner, endless
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Learning, Lost, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.families.on_device import Confident, Fixed, Scheduler, Served, Stored, drive
from eelit.methods.papers.ju2021dee import Dee, Grid
from eelit.methods.papers.ju2021lee import Lee, RatioBandit
from eelit.methods.policies.bandit import Ucb1
from eelit.methods.world.machines import Computer

PRICES = (2.0, 1.0, 0.5)
"""Values of lambda to try."""
FRAMES = 6000
"""Frames at each."""
WORLDS = 3
"""Worlds in which frames are sent at each price, with other speeds and another order of frames."""
SHOWN = 50
"""Moments at which a picture shows what was lost until then."""
CONSTANT = "one threshold chosen beforehand"
"""The rule that is no rival of the first claims."""
CONFIDENT = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Thresholds among which that of a constant rule is chosen on validation data."""


class Watched:
    """Asks all exits, and notes how sure each was and when."""

    def __init__(self, exits: int) -> None:
        self.exits = exits
        self.seen: list[tuple[float, float]] = []

    def first(self, frame: int, now: float) -> int:
        """Ask the first."""
        return 0

    def then(self, exit_: int, confidence: float, latency: float) -> int | None:
        """Note it and go on."""
        self.seen.append((confidence, latency))
        return exit_ + 1 if exit_ < self.exits - 1 else None

    def learn(self, served: Served) -> None:
        """Learn nothing."""


def best_rule(
    sure: NDArray[np.float64], latencies: NDArray[np.float64], price: float, grid: Grid
) -> NDArray[np.float64]:
    """Return utilities ``[N]`` by the best rule on the grid, found backwards, for frames ``[E, N]`` that are known."""
    worth = sure[-1] - price * latencies[-1]
    for row, taken in zip(sure[-2::-1], latencies[-2::-1], strict=True):
        shortest = float(taken.min())
        cells = [grid.cell(float(c), float(second), shortest) for c, second in zip(row, taken, strict=True)]
        numbers = np.array([a * grid.times + b for a, b in cells])
        going_on = (np.bincount(numbers, worth) / np.maximum(np.bincount(numbers), 1))[numbers]
        here = row - price * taken
        worth = np.where(here >= going_on, here, worth)
    return worth


class Trial(NamedTuple):
    """What schedulers have collected at one price, a frame; means over the worlds, which are the same for all."""

    price: float
    best: float  # by the best rule on the same grid
    ours: NDArray[np.float64]  # [8], after each eighth of the frames
    others: dict[str, float]
    constant: float  # by one threshold for all exits, chosen on validation data
    deviation: float  # of what is lost beside the best rule after all frames, between worlds


def claims(method: Dee, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try both at several prices."""
    trials = [trial(method, prepared, price) for price in PRICES]
    return [regret_falls(trials), near_best(trials), better(trials), better_than_constant(trials)]


def trial(method: Dee, prepared: Prepared, price: float) -> Trial:
    """Send frames through each world under all schedulers."""
    runs = [collected(method, prepared, price, number) for number in range(WORLDS)]
    ends = FRAMES * np.arange(1, 9) // 8
    others = {name: mean(float(run.others[name].mean()) for run in runs) for name in runs[0].others}
    return Trial(
        price,
        mean(float(run.best.mean()) for run in runs),
        np.mean([run.ours.cumsum()[ends - 1] / ends for run in runs], axis=0),
        {name: value for name, value in others.items() if name != CONSTANT},
        others[CONSTANT],
        stdev(float((run.best - run.ours).mean()) for run in runs),
    )


class Collected(NamedTuple):
    """Utilities ``[FRAMES]`` of the same frames in the same world."""

    best: NDArray[np.float64]  # under the best rule on the grid
    ours: NDArray[np.float64]
    others: dict[str, NDArray[np.float64]]


def collected(method: Dee, prepared: Prepared, price: float, number: int = 0) -> Collected:
    """Send the same frames through one world, which has a number, under all schedulers."""
    seen, exits, seed = prepared.split("test"), prepared.model.exits, prepared.bench.seed
    phone = Stored.of(seen)
    computer, stream = world(method, phone, WORLDS * seed + number)

    def under(scheduler: Scheduler) -> NDArray[np.float64]:
        return np.array([one.confidence - price * one.latency for one in drive(scheduler, phone, computer, stream)])

    sure, latencies = watched(phone, computer, stream)
    best = best_rule(sure, latencies, price, Grid(method.confidences, method.times))
    others = {name: under(each) for name, each in rivals(exits, price, seed).items()}
    others[CONSTANT] = under(Confident(threshold(method, prepared, price), exits))
    return Collected(best, under(method.bandit(exits, price)), others)


def world(method: Dee, phone: Stored, seed: int) -> tuple[Computer, list[tuple[int, float]]]:
    """Return the phone's processor, and frames with the seconds at which they come.

    Between two lies a little more than the longest that one can take: all exits at the slowest speed.
    """
    longest = float((phone.costs[-1] + phone.heads.sum(axis=0)).max()) / (method.speed * min(method.throttled))
    order = endless(phone.costs.shape[1], seed)
    stream = [(frame, 1.01 * longest * i) for i, (frame, _) in zip(range(FRAMES), order, strict=False)]
    return method.computer("test", seed), stream


def watched(
    phone: Stored, computer: Computer, stream: Sequence[tuple[int, float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how sure each exit is of each frame that comes, and how long it takes to ask all up to it, ``[E, N]``."""
    all_exits = Watched(len(phone.costs))
    drive(all_exits, phone, computer, stream)
    known = np.array(all_exits.seen).reshape(len(stream), all_exits.exits, 2).transpose(2, 1, 0)
    return known[0], known[1]


def rivals(exits: int, price: float, seed: int) -> dict[str, Scheduler]:
    """Return the schedulers that look at less.

    LEE maximises utility per second, while here it is counted per frame. Its pause decides how far the two differ: the
    longer, the less. Without one it nearly always takes the first exit, so it is tried with that of its own method too.
    """
    random, every = np.random.default_rng([seed, 7]), tuple(range(exits))
    return {
        "LEE": RatioBandit(every, price, Lee.pause, Lee.beta),
        "LEE without pauses": RatioBandit(every, price, 0.0, Lee.beta),
        "UCB1 per frame": Learner(exits, price, Ucb1(exits, sqrt(Lee.beta)).choose),
        "random": Learner(exits, price, lambda tally: int(random.integers(exits))),
        "no early exit": Fixed(exits - 1),
    }


def learning(method: Dee, prepared: Prepared, bench: Bench, curve: Curve) -> list[Learning]:
    """Return the regret over the frames at the middle price, beside that of the others."""
    price = sorted(PRICES)[len(PRICES) // 2]
    best, ours, others = collected(method, prepared, price)  # in the first world
    ends = np.arange(SHOWN + 1) * FRAMES // SHOWN

    def lost(own: NDArray[np.float64]) -> list[float]:
        found: list[float] = np.concatenate([[0.0], np.cumsum(best - own)])[ends].tolist()
        return found

    return [
        Learning(
            title=f"Regret against the best rule on the same grid, at lambda {price:g}",
            time="frames",
            unit="utility, in all",
            lines=[
                Lost(rule=name, times=ends.astype(float).tolist(), values=lost(own))
                for name, own in {"DEE": ours, **others}.items()
            ],
        )
    ]


def threshold(method: Dee, prepared: Prepared, price: float) -> float:
    """Return the constant threshold that collects most on validation data."""
    exits = prepared.model.exits

    def mean(value: float) -> float:
        found = method.served(prepared, "validation", Confident(value, exits))
        return float(np.mean([one.confidence - price * one.latency for one in found]))

    return max(CONFIDENT, key=mean)


def regret_falls(trials: Sequence[Trial]) -> Outcome:
    """Whether what is lost per frame vanishes."""
    early, late = (float(np.mean([each.best - each.ours[i] for each in trials])) for i in (0, -1))
    told = (
        f"lambda {each.price:g}: {', '.join(f'{each.best - mine:.4f}' for mine in each.ours.tolist())}"
        for each in trials
    )
    return Outcome(
        name="regret per frame falls",
        statement="On average over three prices, regret ÷ frames against the best rule on the same grid is after all "
        "frames at most two thirds of what it is after an eighth of them, or at most 0.005.",
        holds=late <= max(early * 2 / 3, 0.005),
        measured="; ".join(told) + " after each eighth",
    )


def near_best(trials: Sequence[Trial]) -> Outcome:
    """Whether it comes near the best rule within the frames."""
    lost = [each.best - float(each.ours[-1]) for each in trials]
    return Outcome(
        name="near the best rule",
        statement="At each of three prices the mean utility is at most 0.05 below that of the best rule on the same "
        "grid, found backwards with all known.",
        holds=max(lost) <= 0.05,
        measured=", ".join(
            f"{-x:+.4f} ± {each.deviation:.4f} at lambda {each.price:g}" for x, each in zip(lost, trials, strict=True)
        )
        + f", mean and deviation of {WORLDS} worlds",
    )


def better(trials: Sequence[Trial]) -> Outcome:
    """Whether looking at each frame pays."""
    gains = [float(each.ours[-1]) - max(each.others.values()) for each in trials]
    told = (
        f"lambda {each.price:g}: {gain:+.4f} (" + ", ".join(f"{k} {v:.4f}" for k, v in each.others.items()) + ")"
        for gain, each in zip(gains, trials, strict=True)
    )
    return Outcome(
        name="better than four schedulers",
        statement="On average over three prices the mean utility is at least 0.01 above that of the best of LEE "
        "(with its own pause, or without), UCB1 per frame, random exits and no early exit, and at none 0.01 below.",
        holds=float(np.mean(gains)) >= 0.01 and min(gains) >= -0.01,
        measured="; ".join(told),
    )


def better_than_constant(trials: Sequence[Trial]) -> Outcome:
    """Whether learning pays beside one threshold that was chosen beforehand."""
    gains = [float(each.ours[-1]) - each.constant for each in trials]
    return Outcome(
        name="no worse than a threshold chosen beforehand",
        statement="At each of three prices the mean utility is at most 0.01 below that of leaving at one confidence "
        "for all exits, the best of eight on validation data.",
        holds=min(gains) >= -0.01,
        measured=", ".join(f"{gain:+.4f} at lambda {each.price:g}" for gain, each in zip(gains, trials, strict=True)),
    )
