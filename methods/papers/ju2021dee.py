"""Dynamic Early Exit Scheduling for Deep Neural Network Inference through Contextual Bandits (DEE).

Idea
    Whether it pays to go on depends on what a frame has shown so far, and the gain from going on is unknown. At each
    exit the confidence seen there and the time spent are the context of a bandit with two actions, leave or go on. It
    differs from the textbook bandit in two ways: the value of going on depends on later decisions, and early exits are
    visited more often.

Model
    One network with exits 1 … K after shares of its cost. At exit k frame t has confidence c_{t,k} = max softmax, and
    has taken l_{t,k} seconds. Its utility, if it leaves there, is U_{t,k} = c_{t,k} - lambda * l_{t,k}, known at once
    and without labels. The context (c, l) lies in a cell m of a grid: M cells of c in [0, 1], and S of l ÷ the
    shortest l seen at k, from 1 to 2.

Training
    The network: everything together, L = sum_k CE_k. The bandit: online, without labels.

Exit rule
    V_{k,m} is the mean of the final utilities of the N_{k,m} frames that were in cell m at exit k and went on.
    At exit k < K frame t goes on if N_{k,m} < D(t) = t^a (forced exploration); else it leaves if
    U_{t,k} >= V_{k,m} + sqrt(beta * ln(t) / N_{k,m}), and goes on if not. Exit K answers every frame that reaches it.
    When a frame has left at e, U_{t,e} enters V_{k,m} of every exit k < e, in the cell in which the frame was at that
    exit. The best rule on the same grid, with full knowledge, is found backwards: V*_{k,m} = E[max(U_{k+1},
    V*_{k+1,m'}) | m], and a frame leaves if U_k >= V*_{k,m}; the regret is the additional utility that this rule would
    collect.

Skipped
    The layers and heads after the exit. The cost is the simulated time of a frame, MACs ÷ the phone's speed, which
    varies over time; heads on the way are paid for.

Deviations
    1. Only the abstract could be read: it names context, actions, dependent rewards, uneven exploration and a regret
       per inference that vanishes; utility, grid, index, forced exploration and D(t) are our own.
    2. lambda is the knob. At its ends there is nothing to learn: at infinity the first exit answers all frames, below 0
       the last, and no other head is run.
    3. All final utilities have the same weight, though early ones come from a rule that was still exploring.
    4. beta = 0.05: within a cell utilities spread by a tenth or two, while 1 would fit a spread over all of [0, 1].
    5. A residual network of six exits on cluttered Fashion-MNIST; the paper's networks, data, testbed and its four
       benchmarks are not known. Speeds are assumed: a seeded Markov chain switches between all, three quarters and half
       of the phone's speed, on average every half second. No time is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log, sqrt
from typing import Any, ClassVar, TypeAlias

import numpy as np

from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import JointImages
from eelit.methods.families.on_device import Fixed, OnDeviceMethod, Scheduler, Served

Cell: TypeAlias = tuple[int, int]
"""Which part of the confidences, and which of the times."""


@dataclass(frozen=True)
class Grid:
    """How contexts are told apart."""

    confidences: int  # M
    times: int  # S

    def __post_init__(self) -> None:
        if self.confidences < 1 or self.times < 1:
            raise ValueError("a grid has at least one cell for confidences, and one for times")

    def cell(self, confidence: float, latency: float, shortest: float) -> Cell:
        """Return the cell of a context, given the shortest latency at the exit; the last holds all beyond."""
        slower = latency / shortest - 1
        return (
            min(int(confidence * self.confidences), self.confidences - 1),
            min(int(slower * self.times), self.times - 1),
        )


class ContextBandit:
    """Leave or go on, exit by exit; learns what going on is worth in each cell."""

    def __init__(self, exits: int, price: float, grid: Grid, beta: float, forced: float) -> None:
        if exits < 1 or not all(0 <= each < inf for each in (price, beta, forced)) or forced >= 1:
            raise ValueError("price and beta are finite and at least 0; the exponent a is from 0 to below 1")
        self.exits, self.price, self.grid, self.beta, self.forced = exits, price, grid, beta, forced
        self.values = np.zeros((exits - 1, grid.confidences, grid.times))
        self.counts = np.zeros(self.values.shape, dtype=np.int64)
        self.shortest = [inf] * exits
        self.frames = 0
        self.way: list[Cell] = []  # cells in which the present frame went on, exit by exit

    def first(self, frame: int, now: float) -> int:
        """Start a frame at exit 0, which is always asked."""
        self.frames += 1
        self.way = []
        return 0

    def then(self, exit_: int, confidence: float, latency: float) -> int | None:
        """Go on to the next exit if that is unknown, or hoped to be worth more than leaving."""
        if exit_ == self.exits - 1:
            return None
        self.shortest[exit_] = min(self.shortest[exit_], latency)
        cell = self.grid.cell(confidence, latency, self.shortest[exit_])
        seen = int(self.counts[exit_][cell])
        if seen >= self.frames**self.forced:
            hoped = self.values[exit_][cell] + sqrt(self.beta * log(self.frames) / seen)
            if confidence - self.price * latency >= hoped:
                return None
        self.way.append(cell)
        return exit_ + 1

    def learn(self, served: Served) -> None:
        """Count the final utility at every exit that the frame passed."""
        final = served.confidence - self.price * served.latency
        for exit_, cell in enumerate(self.way):
            self.counts[exit_][cell] += 1
            self.values[exit_][cell] += (final - self.values[exit_][cell]) / self.counts[exit_][cell]


@dataclass(frozen=True)
class Dee(OnDeviceMethod):
    """Leave or go on, learnt while serving."""

    network: str = "resnet"  # the paper: not known
    images: str = "cluttered"  # data; the paper: not known
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, at which exits stand; the paper: not known
    half: bool = True  # whether the network learns with products in bfloat16
    epochs: float = 2.0  # passes over the training images
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate
    confidences: int = 10  # M, cells of the confidence; the paper: not known
    times: int = 2  # S, cells of the time; the paper: not known
    beta: float = 0.05  # exploration; the paper: not known
    forced: float = 0.3  # a, the exponent of forced exploration; the paper: not known
    speed: float = 2e9  # multiply-accumulates per second of the phone at its fastest; assumed
    throttled: tuple[float, ...] = (0.5, 0.75, 1.0)  # shares of its speed between which it wanders; assumed

    knob: ClassVar[str] = "lambda"
    knobs: ClassVar[tuple[float, ...]] = (inf, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, -1.0)
    tiny: ClassVar[Mapping[str, Any]] = {**JointImages.tiny, "epochs": 4.0, "speed": 4e5, "confidences": 4}
    smoke: ClassVar[Mapping[str, Any]] = {**JointImages.smoke, "speed": 2e7}
    others: ClassVar[Mapping[str, Any]] = {**JointImages.others, "throttled": (0.25, 1.0)}
    cost_noise: ClassVar[float] = 0.05  # a short stream explores as much as it exploits

    def scheduler(self, prepared: Prepared, knob: float, frames: int) -> Scheduler:
        """The knob is lambda."""
        return self.bandit(prepared.model.exits, knob)

    def bandit(self, exits: int, price: float) -> Scheduler:
        """Return the bandit, or the one exit that an end of the knob leaves."""
        if price == inf or price < 0:
            return Fixed(0 if price > 0 else exits - 1)
        return ContextBandit(exits, price, Grid(self.confidences, self.times), self.beta, self.forced)
