"""What DEE claims: its regret per frame vanishes, and it collects more than schedulers that look at less.

Frames come without end: the test data in one random order, again and again. All seconds are simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eelit.methods.claims.ju2021lee import Learner, endless
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.families.on_device import Confident, Fixed, Scheduler, Served, Stored, drive
from eelit.methods.papers.ju2021dee import Dee, Grid
from eelit.methods.papers.ju2021lee import RatioBandit
from eelit.methods.policies.bandit import Ucb1

PRICES = (2.0, 1.0, 0.5)
"""Values of lambda to try."""
FRAMES = 6000
"""Frames at each."""
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


def best_rule(sure: NDArray[np.float64], latencies: NDArray[np.float64], price: float, grid: Grid) -> float:
    """Return the mean utility of the best rule on the grid, for frames ``[E, N]`` of which all is known: backwards."""
    worth = sure[-1] - price * latencies[-1]
    for row, taken in zip(sure[-2::-1], latencies[-2::-1], strict=True):
        shortest = float(taken.min())
        cells = [grid.cell(float(c), float(second), shortest) for c, second in zip(row, taken, strict=True)]
        numbers = np.array([a * grid.times + b for a, b in cells])
        going_on = (np.bincount(numbers, worth) / np.maximum(np.bincount(numbers), 1))[numbers]
        here = row - price * taken
        worth = np.where(here >= going_on, here, worth)
    return float(worth.mean())


class Trial(NamedTuple):
    """What schedulers have collected in the same world at one price, a frame."""

    price: float
    best: float  # by the best rule on the same grid
    ours: NDArray[np.float64]  # [8], after each eighth of the frames
    others: dict[str, float]
    constant: float  # by one threshold for all exits, chosen on validation data


def claims(method: Dee, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try both at several prices."""
    trials = [trial(method, prepared, price) for price in PRICES]
    return [regret_falls(trials), near_best(trials), better(trials), better_than_constant(trials)]


def trial(method: Dee, prepared: Prepared, price: float) -> Trial:
    """Send frames through one world under all schedulers."""
    seen, exits, seed = prepared.split("test"), prepared.model.exits, prepared.bench.seed
    phone, computer = Stored.of(seen), method.computer("test", seed)
    stream = [frame for _, frame in zip(range(FRAMES), endless(len(seen.examples), seed), strict=False)]

    def collected(scheduler: Scheduler) -> NDArray[np.float64]:
        return np.array([one.confidence - price * one.latency for one in drive(scheduler, phone, computer, stream)])

    watched = Watched(exits)
    drive(watched, phone, computer, stream)
    known = np.array(watched.seen).reshape(FRAMES, exits, 2).transpose(2, 1, 0)
    random = np.random.default_rng([seed, 7])
    others: dict[str, Scheduler] = {
        "LEE": RatioBandit(tuple(range(exits)), price, 0.5, 0.5),
        "UCB1 per frame": Learner(exits, price, Ucb1(exits, sqrt(0.5)).choose),
        "random": Learner(exits, price, lambda tally: int(random.integers(exits))),
        "no early exit": Fixed(exits - 1),
    }
    ours = collected(method.bandit(exits, price)).cumsum()
    ends = FRAMES * np.arange(1, 9) // 8
    return Trial(
        price,
        best_rule(known[0], known[1], price, Grid(method.confidences, method.times)),
        ours[ends - 1] / ends,
        {name: float(collected(each).mean()) for name, each in others.items()},
        float(collected(Confident(threshold(method, prepared, price), exits)).mean()),
    )


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
        measured=", ".join(f"{-x:+.4f} at lambda {each.price:g}" for x, each in zip(lost, trials, strict=True)),
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
        statement="On average over three prices the mean utility is at least 0.01 above that of the best of LEE, UCB1 "
        "per frame, random exits and no early exit, and at none 0.01 below.",
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
