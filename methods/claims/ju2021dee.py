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
from eelit.methods.engine.records import Curve, Gained, Learning, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.families.on_device import Confident, Fixed, Scheduler, Served, Stored, drive
from eelit.methods.papers.ju2021dee import Dee, Grid
from eelit.methods.papers.ju2021lee import Lee, RatioBandit
from eelit.methods.policies.bandit import Ucb1

PRICES = (2.0, 1.0, 0.5)
"""Values of lambda to try."""
FRAMES = 6000
"""Frames at each."""
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
    best, ours, others = collected(method, prepared, price)
    ends = len(ours) * np.arange(1, 9) // 8
    constant = others.pop(CONSTANT)
    return Trial(
        price,
        float(best.mean()),
        ours.cumsum()[ends - 1] / ends,
        {name: float(each.mean()) for name, each in others.items()},
        float(constant.mean()),
    )


def collected(
    method: Dee, prepared: Prepared, price: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Return utilities ``[FRAMES]`` of the same frames: under the best rule on the grid, ours, and those of others."""
    seen, exits, seed = prepared.split("test"), prepared.model.exits, prepared.bench.seed
    phone, computer = Stored.of(seen), method.computer("test", seed)
    stream = [frame for _, frame in zip(range(FRAMES), endless(len(seen.examples), seed), strict=False)]

    def under(scheduler: Scheduler) -> NDArray[np.float64]:
        return np.array([one.confidence - price * one.latency for one in drive(scheduler, phone, computer, stream)])

    watched = Watched(exits)
    drive(watched, phone, computer, stream)
    known = np.array(watched.seen).reshape(FRAMES, exits, 2).transpose(2, 1, 0)
    best = best_rule(known[0], known[1], price, Grid(method.confidences, method.times))
    others = {name: under(each) for name, each in rivals(exits, price, seed).items()}
    others[CONSTANT] = under(Confident(threshold(method, prepared, price), exits))
    return best, under(method.bandit(exits, price)), others


def rivals(exits: int, price: float, seed: int) -> dict[str, Scheduler]:
    """Return the schedulers that look at less.

    LEE maximises utility per second, while here it is counted per frame. Its pause decides how far the two differ: the
    longer, the less. The stream has none, with which it would nearly always take the first exit; so it also has that of
    its own method.
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
    best, ours, others = collected(method, prepared, price)
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
                Gained(rule=name, times=ends.astype(float).tolist(), values=lost(own))
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
