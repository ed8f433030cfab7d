"""Where to cut a network between a device and a cloud, and when to send a sample on (bajpai2023splitee).

The device runs the network up to a layer, looks at its confidence there, and either answers or sends the hidden state
to the cloud, which runs the rest. The loop (`drive`) sees only what it has paid for: it asks a `World` to run the
device and, perhaps, the cloud. `Stored` is the world that answers from outputs computed before.

The cost is the device's, in units of lambda, the cost of one layer with its exit head: 0.8 for a layer, 0.2 for a head,
and a fixed price for sending a sample to the cloud. What the cloud computes is free in this model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from eelit.methods.policies.bandit import Tally, Ucb1
from eelit.methods.policies.base import choose, settle

LAYER, HEAD = 0.8, 0.2  # of lambda: what running one layer and one exit head costs
Side = Literal["none", "observed", "released"]


class World(Protocol):
    """Where a stream of samples is processed; both operations cost something."""

    @property
    def exits(self) -> int:
        """Number of exits, the last one included."""
        ...

    def device(self, sample: int, exits: Sequence[int]) -> NDArray[np.float64]:
        """Run the device up to the last of these exits, their heads alone; return the confidence at each."""
        ...

    def cloud(self, sample: int) -> float:
        """Run the rest for the sample that the device has just processed; return the last exit's confidence."""
        ...


@dataclass(frozen=True)
class SplitRule:
    """Which arms there are, when the device is confident, and what an outcome is worth."""

    layers: tuple[int, ...]  # arm → the exit (from 0) at which it cuts
    threshold: float  # answer on the device when confidence >= threshold
    price: float  # lambda in units of confidence
    offload: float  # o, cost of sending one sample, in units of confidence
    side: Side = "none"  # observe only the exit at the cut, or all exits on the way
    beta: float = 1.0  # exploration of UCB1

    def __post_init__(self) -> None:
        settle(self, "layers", per_exit=True, whole=True, least=0)
        settle(self, "threshold")
        settle(self, "price", "offload", "beta", least=0, finite=True)
        choose(self, "side", get_args(Side))
        if not isinstance(self.layers, tuple) or list(self.layers) != sorted({*self.layers}):
            raise ValueError(f"SplitRule: layers are exits from 0, each later than the one before, not {self.layers!r}")

    @property
    def bandit(self) -> Ucb1:
        """The bandit over the arms."""
        return Ucb1(len(self.layers), self.beta)

    def watched(self, arm: int) -> Sequence[int]:
        """Exits whose heads the device runs when it cuts at this arm."""
        return [self.layers[arm]] if self.side == "none" else self.layers[: arm + 1]

    def reward(self, exit_: int, confidence: float, final: float | None, last: int) -> float | None:
        """What cutting at an exit has earned; None if that would need the cloud's answer and nothing was sent.

        NaN if it cannot be told, since a confidence is not finite: then a bandit learns that it has tried for nothing.
        """
        if self.sure(confidence) or exit_ == last:
            earned = confidence - self.price * (exit_ + 1)
        elif final is None:
            return None
        else:
            earned = final - self.price * (exit_ + 1) - self.offload
        return earned if math.isfinite(earned) else math.nan

    def sure(self, confidence: float) -> bool:
        """Whether the device answers; what is not finite is no confidence."""
        return math.isfinite(confidence) and confidence >= self.threshold

    def costs(self, cuts: NDArray[np.int64], offloaded: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Cost ``[N]`` in lambda of samples cut at exits ``[N]``, by the paper's bookkeeping."""
        heads = np.ones(len(cuts)) if self.side == "none" else np.searchsorted(self.layers, cuts) + 1.0
        return LAYER * (cuts + 1) + HEAD * heads + offloaded * self.offload / self.price


@dataclass(frozen=True)
class Stream:
    """What happened to a stream of samples."""

    cuts: NDArray[np.int64]  # [N], the exit at which each was cut
    offloaded: NDArray[np.bool_]  # [N], whether it was sent to the cloud
    not_finite: NDArray[np.bool_]  # [N], whether a confidence that was asked for is not finite
    tally: Tally  # what the bandit knows at the end

    def exits(self, last: int) -> NDArray[np.int64]:
        """The exit ``[N]`` that answered each sample."""
        return np.where(self.offloaded, last, self.cuts)


def drive(rule: SplitRule, world: World, samples: int, tally: Tally | None = None) -> Stream:
    """Process samples 0, 1, … one after the other, learning from each; ``tally`` continues an earlier stream."""
    bandit, last = rule.bandit, world.exits - 1
    tally = bandit.start() if tally is None else tally
    cuts, (offloaded, flawed) = np.zeros(samples, dtype=np.int64), np.zeros((2, samples), dtype=bool)
    for sample in range(samples):
        arm = bandit.choose(tally)
        watched = rule.watched(arm)
        confidences = world.device(sample, watched)
        cuts[sample] = rule.layers[arm]
        offloaded[sample] = not rule.sure(float(confidences[-1])) and cuts[sample] != last
        final = world.cloud(sample) if offloaded[sample] or rule.side == "released" else None
        flawed[sample] = not np.isfinite([*confidences, 0.0 if final is None else final]).all()
        arms = range(arm + 1 - len(watched), arm + 1)
        earned = {a: rule.reward(rule.layers[a], float(c), final, last) for a, c in zip(arms, confidences, strict=True)}
        tally = bandit.update(tally, {a: reward for a, reward in earned.items() if reward is not None})
    return Stream(cuts, offloaded, flawed, tally)


@dataclass(frozen=True)
class Stored:
    """A world that answers from the confidences ``[E, N]`` of all exits, in the order of the stream."""

    confidences: NDArray[np.float64]

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.confidences)

    def device(self, sample: int, exits: Sequence[int]) -> NDArray[np.float64]:
        """Look up the confidences at these exits."""
        return self.confidences[exits, sample]

    def cloud(self, sample: int) -> float:
        """Look up the last exit's confidence."""
        return float(self.confidences[-1, sample])


def hindsight(rule: SplitRule, confidences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rewards ``[A, N]`` that every arm would have earned on every sample: for judging, not for learning."""
    last, n = len(confidences) - 1, confidences.shape[1]
    finals = confidences[-1]
    rewards = [[rule.reward(i, confidences[i, t], finals[t], last) for t in range(n)] for i in rule.layers]
    return np.array(rewards, dtype=np.float64)


def regret(rule: SplitRule, confidences: NDArray[np.float64], cuts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cumulative regret ``[N]``: the best fixed arm's mean reward less that of the arms chosen, summed over rounds.

    A reward that cannot be told is left out of its arm's mean, as the bandit leaves it out of Q. Where an arm is chosen
    of which no reward can be told, the regret is NaN from there on.
    """
    means = mean_rewards(rule, confidences)
    return np.cumsum(np.fmax.reduce(means) - means[np.searchsorted(rule.layers, cuts)])


def mean_rewards(rule: SplitRule, confidences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean ``[A]`` of the `hindsight` rewards of every arm that can be told; NaN if none can."""
    rewards = hindsight(rule, confidences)
    known = np.isfinite(rewards)
    count = known.sum(axis=1)
    return np.where(count, np.where(known, rewards, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)
