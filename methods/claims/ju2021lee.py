"""What LEE claims: what it loses against the best exit per second vanishes with time, and simpler learners lose more.

Frames come without end: the test data in one random order, again and again. All seconds are simulated.

What is tried and the bars were set anew once a smoke run had been seen: at the largest price tried first, rewards were
near 0, and shares of them meant nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Learning, Lost, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.families.on_device import Fixed, Scheduler, Served, Stored, drive
from eelit.methods.papers.ju2021lee import Lee, RatioBandit, reward
from eelit.methods.policies.bandit import Tally, Ucb1

PRICE = 0.25
"""The lambda at which claims are tried."""
PAUSES = (0.05, 0.25, 1.0)
"""Times between two inferences to try, as shares of the method's own: the less, the more durations differ."""
DECISIONS = 10_000
"""Frames that would fit into the horizon if all ran the full network."""
SHOWN = 50
"""Moments at which a picture shows what was lost until then."""
GREEDY = 0.1
"""Share of its plays in which epsilon-greedy takes any arm."""


@dataclass
class Learner:
    """A bandit that is rewarded per play, whatever time it took."""

    arms: int
    price: float
    pick: Callable[[Tally], int]
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = Ucb1(self.arms).start()

    def first(self, frame: int, now: float) -> int:
        """Return the exit that is picked."""
        return self.pick(self.tally)

    def then(self, exit_: int, confidence: float, latency: float) -> None:
        """The exit answers."""

    def learn(self, served: Served) -> None:
        """Take in the reward."""
        self.tally = Ucb1(self.arms).update(self.tally, {served.exit: reward(served, self.price)})


def benchmarks(method: Lee, exits: int, price: float, seed: int) -> dict[str, Scheduler]:
    """Return the simpler schedulers; which the paper has is not known."""
    random = np.random.default_rng([seed, 7])

    def greedy(tally: Tally) -> int:
        if random.random() < GREEDY:
            return int(random.integers(exits))
        return int(np.argmax(np.where(tally.counts > 0, tally.means, np.inf)))

    return {
        "UCB1 per frame": Learner(exits, price, Ucb1(exits, sqrt(method.beta)).choose),
        "epsilon-greedy per frame": Learner(exits, price, greedy),
        "random": Learner(exits, price, lambda tally: int(random.integers(exits))),
        "no early exit": Fixed(exits - 1),
    }


class Trial(NamedTuple):
    """What schedulers have collected in the same world at one pause."""

    pause: float  # o, seconds
    horizon: float  # seconds
    best: NDArray[np.float64]  # [parts], by the exit that is the best single one in hindsight, by trying all
    ours: NDArray[np.float64]  # [parts], after each part of the horizon
    others: dict[str, NDArray[np.float64]]


def claims(method: Lee, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try both at several pauses."""
    trials = [trial(method, prepared, share * method.pause) for share in PAUSES]
    return [regret_falls(trials), near_best(trials), better(trials)]


def trial(method: Lee, prepared: Prepared, pause: float, price: float = PRICE, parts: int = 8) -> Trial:
    """Send frames through one world under all schedulers."""
    seen, exits, seed = prepared.split("test"), prepared.model.exits, prepared.bench.seed
    phone, computer = Stored.of(seen), method.computer("test", seed)
    horizon = DECISIONS * (pause + float(seen.full_costs.mean()) / computer.speed.mean)

    def collected(scheduler: Scheduler) -> NDArray[np.float64]:
        served = drive(scheduler, phone, computer, endless(len(seen.examples), seed), pause=pause, until=horizon)
        return in_parts(served, price, horizon, parts)

    best = max((collected(Fixed(i)) for i in range(exits)), key=lambda found: float(found[-1]))
    others = {name: collected(each) for name, each in benchmarks(method, exits, price, seed).items()}
    ours = collected(RatioBandit(tuple(range(exits)), price, pause, method.beta))
    return Trial(pause, horizon, best, ours, others)


def endless(frames: int, seed: int) -> Iterator[tuple[int, float]]:
    """Yield frames in one random order, again and again; one is always there."""
    order = np.random.default_rng([seed, 8]).permutation(frames)
    return ((int(frame), 0.0) for frame in cycle(order))


def in_parts(served: Sequence[Served], price: float, horizon: float, parts: int = 8) -> NDArray[np.float64]:
    """Return the rewards collected after each of so many equal parts of the horizon ``[parts]``."""
    ends = np.array([each.answered for each in served])
    total = np.cumsum([0.0, *(reward(each, price) for each in served)])
    moments = horizon * np.arange(1, parts + 1) / parts
    found: NDArray[np.float64] = total[np.searchsorted(ends, moments, side="right")]
    return found


def learning(method: Lee, prepared: Prepared, bench: Bench, curve: Curve) -> list[Learning]:
    """Return the regret over time at the middle pause, beside that of the simpler schedulers."""
    pause = sorted(PAUSES)[len(PAUSES) // 2] * method.pause
    found = trial(method, prepared, pause, parts=SHOWN)
    rules = {"LEE": found.ours, **found.others}
    times = (found.horizon * np.arange(SHOWN + 1) / SHOWN).tolist()
    lines = [Lost(rule=name, times=times, values=[0.0, *(found.best - own).tolist()]) for name, own in rules.items()]
    return [
        Learning(
            title=f"Regret against the best single exit, with o = {pause:g} s and lambda {PRICE:g}",
            time="simulated seconds",
            unit="reward, in all",
            lines=lines,
        )
    ]


def regrets(each: Trial) -> NDArray[np.float64]:
    """Return regret ÷ time after each part ``[parts]``, as a share of what the best exit collects in that time."""
    parts = len(each.ours)
    found: NDArray[np.float64] = 1 - each.ours / (each.best[-1] * np.arange(1, parts + 1) / parts)
    return found


def regret_falls(trials: Sequence[Trial]) -> Outcome:
    """Whether what is lost per second vanishes."""
    told = {each.pause: regrets(each) for each in trials}
    early, late = (float(np.mean([row[i] for row in told.values()])) for i in (0, -1))
    return Outcome(
        name="regret per second falls",
        statement="On average over three pauses, regret ÷ time is after the whole horizon at most two thirds of what "
        "it is after an eighth of it, or at most 1 % of what the best single exit collects.",
        holds=late <= max(early * 2 / 3, 0.01),
        measured="; ".join(
            f"o = {pause:g} s: {', '.join(f'{share:.2%}' for share in row)}" for pause, row in told.items()
        )
        + " of the best single exit's reward, after each eighth",
    )


def near_best(trials: Sequence[Trial]) -> Outcome:
    """Whether it comes near the best exit within the horizon."""
    shares = [float(each.ours[-1] / each.best[-1]) for each in trials]
    return Outcome(
        name="near the best exit",
        statement="At each of three pauses at least 90 % of the reward is collected that the best single exit, known "
        "in hindsight, collects in the same simulated time.",
        holds=min(shares) >= 0.9,
        measured=", ".join(f"{share:.1%} at o = {each.pause:g} s" for share, each in zip(shares, trials, strict=True)),
    )


def better(trials: Sequence[Trial]) -> Outcome:
    """Whether minding durations pays."""
    gains = [float(each.ours[-1] / max(own[-1] for own in each.others.values())) - 1 for each in trials]
    told = (
        f"o = {each.pause:g} s: {gain:+.1%} ("
        + ", ".join(f"{name} {own[-1] / each.best[-1]:.1%}" for name, own in each.others.items())
        + " of the best exit's)"
        for gain, each in zip(gains, trials, strict=True)
    )
    return Outcome(
        name="better than simpler schedulers",
        statement="On average over three pauses at least 5 % more reward is collected than by the best of UCB1 and "
        "epsilon-greedy, both per frame, random exits and no early exit, and at none 2 % less.",
        holds=float(np.mean(gains)) >= 0.05 and min(gains) >= -0.02,
        measured="; ".join(told),
    )
