"""Choose one of several arms again and again, learning from the rewards (UCB1; bajpai2023splitee)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tally:
    """What a bandit knows: the rounds played, how often each arm was observed ``[A]``, and its mean reward ``[A]``.

    An arm can be observed without being chosen, so the counts may sum to more than the rounds.
    """

    rounds: int
    counts: NDArray[np.int64]
    means: NDArray[np.float64]


@dataclass(frozen=True)
class Ucb1:
    """Choose the arm with the largest upper confidence bound ``mean + beta * sqrt(ln t / count)``, t the rounds so far.

    Arms never observed come first, in their order; of equal bounds the first wins. Rewards should lie within about one
    unit of each other for ``beta`` = 1 to explore enough; 0 never explores.
    """

    arms: int
    beta: float = 1.0

    def start(self) -> Tally:
        """Return the tally before the first round."""
        return Tally(0, np.zeros(self.arms, dtype=np.int64), np.zeros(self.arms))

    def bounds(self, tally: Tally) -> NDArray[np.float64]:
        """Upper confidence bounds ``[A]``; infinite for an arm never observed."""
        seen = np.maximum(tally.counts, 1)
        bounds = tally.means + self.beta * np.sqrt(np.log(max(tally.rounds, 1)) / seen)
        return np.where(tally.counts > 0, bounds, np.inf)

    def choose(self, tally: Tally) -> int:
        """Return the arm to play next. The same tally always gets the same arm."""
        return int(np.argmax(self.bounds(tally)))

    def update(self, tally: Tally, rewards: Mapping[int, float]) -> Tally:
        """Return the tally after one more round, in which these arms' rewards were observed."""
        counts, means = tally.counts.copy(), tally.means.copy()
        for arm, reward in rewards.items():
            counts[arm] += 1
            means[arm] += (reward - means[arm]) / counts[arm]
        return Tally(tally.rounds + 1, counts, means)
