"""Rates over time: what a link carries, or a computer does, in each second. All are seeded processes, none is measured.

No package was found that ships recorded bandwidth of mobile networks (those for video streaming read it from files that
one must have), so bandwidth wanders by a Markov chain and breaks off by a Gilbert process; each function says which.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np

Seed: TypeAlias = int | Sequence[int]
"""What a process follows: a number, or several."""


@dataclass(frozen=True)
class Trace:
    """A rate: ``rates[k]`` per second from second ``times[k]`` to the next of them; after ``end`` it begins anew."""

    times: tuple[float, ...]  # rising, the first is 0
    rates: tuple[float, ...]  # bits, or multiply-accumulates, per second; 0 where nothing goes
    end: float

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise([*self.times, self.end]))
        if not rising or self.times[0] != 0 or len(self.times) != len(self.rates) or min(self.rates) < 0:
            raise ValueError(
                "a trace has a rate of at least 0 for each time; times rise from 0, and end before the end"
            )

    @cached_property
    def _bounds(self) -> list[float]:
        return [*self.times, self.end]

    @cached_property
    def _done(self) -> list[float]:
        """What has gone through at each of the bounds."""
        spans = (rate * (b - a) for rate, (a, b) in zip(self.rates, pairwise(self._bounds), strict=True))
        return list(accumulate(spans, initial=0.0))

    @property
    def mean(self) -> float:
        """The rate on average over the whole trace, its future included: no scheduler may start from it."""
        return self._done[-1] / self.end

    def amount(self, start: float, stop: float) -> float:
        """Return what goes through from second ``start`` to ``stop``."""
        return self._until(stop) - self._until(start)

    def _until(self, second: float) -> float:
        rounds, rest = divmod(second, self.end)
        k = bisect_right(self.times, rest) - 1
        return rounds * self._done[-1] + self._done[k] + self.rates[k] * (rest - self.times[k])

    def finish(self, start: float, amount: float) -> float:
        """Return the second at which an amount is through that starts at second ``start``; infinity if it never is."""
        if amount <= 0:
            return start
        whole = self._done[-1]
        if whole == 0:
            return math.inf
        rounds, rest = divmod(self._until(start) + amount, whole)
        if rest == 0:  # it is through as soon as the last of a round is
            rounds, rest = rounds - 1, whole
        k = bisect_left(self._done, rest) - 1  # the first span in which so much is through
        return rounds * self.end + self._bounds[k] + (rest - self._done[k]) / self.rates[k]


def steady(rate: float) -> Trace:
    """Return a rate that stays as it is."""
    return Trace((0.0,), (rate,), 1.0)


def wandering(usual: float, steps: Sequence[float], stay: float, seconds: float, seed: Seed) -> Trace:
    """Return a Markov chain: the rate is ``usual`` times one of ``steps``, for ``stay`` seconds on average.

    Then it moves to a neighbouring step, up or down alike, and at either end to the only neighbour. How long it stays
    follows the exponential distribution. So the mean over a long time is that of the steps, where the two ends count
    half: ``usual`` is not the mean but for steps that are chosen so, and a trace's own mean differs from both.
    """
    random = np.random.default_rng(seed)
    times, rates, now, at = [], [], 0.0, int(random.integers(len(steps)))
    while now < seconds:
        times.append(now)
        rates.append(usual * steps[at])
        now += random.exponential(stay)
        move = 2 * int(random.integers(2)) - 1  # four times as fast as `choice`, which draws the same
        at = at + move if 0 <= at + move < len(steps) else at - move
    return Trace(tuple(times), tuple(rates), seconds)


def broken(trace: Trace, good: float, bad: float, seed: Seed) -> Trace:
    """Return a trace with outages by a Gilbert process: good for ``good`` seconds on average, then nothing for ``bad``.

    It starts in the good state; both durations follow the exponential distribution.
    """
    random = np.random.default_rng(seed)
    starts, now = [0.0], random.exponential(good)
    while now < trace.end:
        starts.append(now)
        now += random.exponential(good if len(starts) % 2 else bad)
    times = sorted({*trace.times, *starts})
    whole = [trace.rates[bisect_right(trace.times, t) - 1] for t in times]
    rates = [rate * (bisect_right(starts, t) % 2) for t, rate in zip(times, whole, strict=True)]
    return Trace(tuple(times), tuple(rates), trace.end)


@dataclass
class Observed:
    """What is known of a trace without foresight: a moving average of its rate in intervals that are over.

    ``m_k = keep · m_{k-1} + (1 - keep) · r_k``, with r_k the mean rate in interval k = 1, 2 …; m_0 is what is known at
    first.
    """

    trace: Trace
    interval: float  # seconds
    keep: float  # what the average keeps of itself, from 0 to below 1
    first: float  # m_0

    def __post_init__(self) -> None:
        self._known = [self.first]

    def at(self, second: float) -> float:
        """Return what is known at a second: the average after the last interval that is over."""
        last = math.floor(second / self.interval)
        while len(self._known) <= last:
            k = len(self._known)
            seen = self.trace.amount((k - 1) * self.interval, k * self.interval) / self.interval
            self._known.append(self.keep * self._known[-1] + (1 - self.keep) * seen)
        return self._known[last]
