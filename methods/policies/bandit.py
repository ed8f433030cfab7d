"""Choose one of several arms again and again, learning from the rewards (UCB1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eelit.methods.policies.base import settle


@dataclass(frozen=True)
class Tally:
    """What a bandit knows: the rounds played, how often each arm was observed ``[A]``, and its mean reward ``[A]``.

    An arm can be observed without being chosen, so the counts may sum to more than the rounds. Observations whose
    reward is not finite are counted apart, ``untold [A]``, and enter no mean.
    """

    rounds: int
    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    untold: NDArray[np.int64] | int = 0


@dataclass(frozen=True)
class Ucb1:
    """Choose the arm with the largest upper confidence bound ``mean + beta * sqrt(ln t / count)``, t the rounds so far.

    Arms never observed come first, in their order; of equal bounds the first wins. Rewards should lie within about one
    unit of each other for ``beta`` = 1 to explore enough; 0 never explores. An arm that was tried, and of which no
    reward could ever be told, counts as a unit worse than the worst of the others.
    """

    arms: int
    beta: float = 1.0

    def __post_init__(self) -> None:
        settle(self, "arms", whole=True, least=1)
        settle(self, "beta", least=0, finite=True)

    def start(self) -> Tally:
        """Return the tally before the first round."""
        return Tally(0, np.zeros(self.arms, dtype=np.int64), np.zeros(self.arms))

    def bounds(self, tally: Tally) -> NDArray[np.float64]:
        """Upper confidence bounds ``[A]``; infinite for an arm never observed."""
        known, seen = tally.counts > 0, tally.counts + tally.untold
        worst = tally.means[known].min() if known.any() else 1.0
        bounds = np.where(known, tally.means, worst - 1) + self.beta * np.sqrt(
            np.log(max(tally.rounds, 1)) / np.maximum(seen, 1)
        )
        return np.where(seen > 0, bounds, np.inf)

    def choose(self, tally: Tally) -> int:
        """Return the arm to play next. The same tally always gets the same arm."""
        return int(np.argmax(self.bounds(tally)))

    def update(self, tally: Tally, rewards: Mapping[int, float]) -> Tally:
        """Return the tally after one more round, in which these arms' rewards were observed."""
        counts, means, untold = tally.counts.copy(), tally.means.copy(), tally.untold + np.zeros_like(tally.counts)
        for arm, reward in rewards.items():
            if not math.isfinite(reward):
                untold[arm] += 1
                continue
            counts[arm] += 1
            means[arm] += (reward - means[arm]) / counts[arm]
        return Tally(tally.rounds + 1, counts, means, untold)
