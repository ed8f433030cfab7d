"""Learning Early Exit for Deep Neural Network Inference on Mobile Devices through Multi-Armed Bandits (LEE).

Idea
    While no server can be reached, for an unknown time, a phone answers with its own network with exits. The confidence
    and the latency of each exit are random and unknown. Each exit is an arm of a bandit; but a slow arm also uses up
    time in which other arms could have been played, so reward per second counts, not reward per play.

Model
    One network with exits 1 … K after shares of its cost. A frame that is sent to exit k runs the layers up to it and
    the one head there: confidence c_n = max softmax, latency l_n seconds. The next decision comes d_n = l_n + o seconds
    after this one, o being the time to fetch a frame.

Training
    The network: everything together, L = sum_k CE_k. The bandit: online, without labels.

Exit rule
    r_n = c_n - lambda * l_n. The sum of the r_n that fit into the time T is largest, by renewal-reward, for the exit
    k* = argmax_k E[r_k] / E[d_k], and the regret is R(T) = T * max_k E[r_k] / E[d_k] - E[sum_n r_n].
    Each exit is played once; then, before frame n is processed, it is sent to the exit with the largest index_k =
    (rbar_k + R * eps_k) / max(dbar_k - D_k * eps_k, d_min),   eps_k = sqrt(beta * ln(n) / n_k), with n plays so far,
    n_k of them at k, rbar_k and dbar_k the means there, D_k the range of the durations seen there, d_min the smallest
    seen anywhere, and R = 1 + lambda * max_k D_k, the range of rewards. Of equal ones the first is taken. Where even
    rbar_k + R * eps_k is below 0 it is divided by dbar_k + D_k * eps_k: per second, a loss is smallest if it is spread
    over a long time.

Skipped
    The layers after the chosen exit, and all heads but its own. The cost is the simulated time of a frame, MACs ÷ the
    phone's speed, which varies over time.

Deviations
    1. Only the abstract and keywords could be read. They specify arms, reward (confidence against latency), random
       durations, the unknown horizon and asymptotic optimality; utility, index and the constants are a reconstruction,
       the usual bandit with durations.
    2. The time o between inferences is added. Without it lambda drops out, E[c - lambda l] / E[l] = E[c] / E[l] -
       lambda, and nearly always the first exit is the best per second, whatever the price. How the paper's utility
       avoids this is not known. With o = 0 (a setting) this is the plain reconstruction.
    3. lambda is the knob. At its ends there is nothing to learn: at infinity the first exit is the only arm, below 0
       the last.
    4. beta = 0.5; UCB1 has 2. Confidences spread far less than over all of [0, 1], and a stream here is short.
    5. A residual network of six exits on cluttered Fashion-MNIST; the paper's networks and driving testbed are not
       known. Speeds are assumed: a seeded Markov chain switches between all, three quarters and half of the phone's
       speed, on average every half second. No time is measured.
    6. A frame is always there. The paper's outage begins and ends; here the stream of test frames is what fits into
       it, and the claims are tried for horizons that the bandit does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import JointImages
from eelit.methods.families.on_device import OnDeviceMethod, Served


def reward(served: Served, price: float) -> float:
    """Return ``r = c - lambda * l``."""
    return served.confidence - price * served.latency


class RatioBandit:
    """The index policy over some exits, in the letters of the paper's file."""

    def __init__(self, arms: tuple[int, ...], price: float, pause: float, beta: float) -> None:
        if not arms or not all(0 <= each < inf for each in (price, pause, beta)):
            raise ValueError("a bandit needs an exit to choose; price, pause and beta are finite and at least 0")
        self.arms, self.price, self.pause, self.beta = arms, price, pause, beta
        self.counts = np.zeros(len(arms), dtype=np.int64)
        self.rewards, self.durations, self.longest = np.zeros((3, len(arms)))
        self.shortest = np.full(len(arms), np.inf)

    def index(self) -> NDArray[np.float64]:
        """Return the index of each arm; infinite for one never played."""
        played = self.counts > 0
        if not played.all():
            return np.where(played, 0.0, np.inf)
        eps = np.sqrt(self.beta * np.log(self.counts.sum()) / self.counts)
        ranges = self.longest - self.shortest
        top = self.rewards + (1 + self.price * ranges.max()) * eps
        least = np.maximum(self.durations - ranges * eps, self.shortest.min())
        found: NDArray[np.float64] = top / np.where(top >= 0, least, self.durations + ranges * eps)
        return found

    def first(self, frame: int, now: float) -> int:
        """Return the exit of the largest index; the frame is not looked at."""
        return self.arms[int(np.argmax(self.index()))]

    def then(self, exit_: int, confidence: float, latency: float) -> None:
        """The exit answers, however sure it is."""

    def learn(self, served: Served) -> None:
        """Take in reward and duration of the arm that was played."""
        arm, duration = self.arms.index(served.exit), self.pause + served.latency
        self.counts[arm] += 1
        self.rewards[arm] += (reward(served, self.price) - self.rewards[arm]) / self.counts[arm]
        self.durations[arm] += (duration - self.durations[arm]) / self.counts[arm]
        self.shortest[arm] = min(self.shortest[arm], duration)
        self.longest[arm] = max(self.longest[arm], duration)


@dataclass(frozen=True)
class Lee(OnDeviceMethod):
    """The exit that brings most per second, learnt while serving."""

    network: str = "resnet"  # the paper: not known
    images: str = "cluttered"  # data; the paper: not known, a testbed for driving
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, at which exits stand; the paper: not known
    half: bool = True  # whether the network learns with products in bfloat16
    epochs: float = 2.0  # passes over the training images
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate
    pause: float = 0.5  # o, seconds between two inferences, in which a frame is fetched; assumed
    beta: float = 0.5  # exploration; UCB1: 2
    speed: float = 2e9  # multiply-accumulates per second of the phone at its fastest; assumed
    throttled: tuple[float, ...] = (0.5, 0.75, 1.0)  # shares of its speed between which it wanders; assumed

    knob: ClassVar[str] = "lambda"
    knobs: ClassVar[tuple[float, ...]] = (inf, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.0, -1.0)
    tiny: ClassVar[Mapping[str, Any]] = {**JointImages.tiny, "epochs": 4.0, "speed": 4e5, "pause": 4.0}
    smoke: ClassVar[Mapping[str, Any]] = {**JointImages.smoke, "speed": 2e7}
    others: ClassVar[Mapping[str, Any]] = {**JointImages.others, "throttled": (0.25, 1.0)}
    cost_noise: ClassVar[float] = 0.05  # a short stream explores as much as it exploits

    @property
    def gap(self) -> float:
        """The time in which a frame is fetched."""
        return self.pause

    def constants(self, prepared: Prepared) -> list[str]:
        """What a frame meets beside the speed."""
        return [f"a frame is always there; to fetch it takes {self.pause:g} s"]

    def scheduler(self, prepared: Prepared, knob: float, frames: int) -> RatioBandit:
        """The knob is lambda."""
        return self.bandit(prepared.model.exits, knob)

    def bandit(self, exits: int, price: float) -> RatioBandit:
        """Return the bandit over all exits, or over the one that an end of the knob leaves."""
        if price == inf:
            return RatioBandit((0,), 0.0, self.pause, self.beta)
        if price < 0:
            return RatioBandit((exits - 1,), 0.0, self.pause, self.beta)
        return RatioBandit(tuple(range(exits)), price, self.pause, self.beta)
