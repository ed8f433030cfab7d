"""SkipNet: Learning Dynamic Routing in Convolutional Networks (SkipNet).

Idea
    A residual network survives the loss of single blocks, and pictures differ in which they need. So put a tiny gate
    before each block that looks at the incoming feature map and decides, picture by picture, to run the block or to
    take its shortcut. Every picture reaches the end, but by a way of its own length: this is a neighbour of early exit.

Model
    x_{i+1} = g_i F_i(x_i) + (1 - g_i) S_i(x_i), g_i in {0, 1}; F_i is the residual block with shortcut and ReLU, S_i
    the identity, or the block's own 1×1 projection where the shape changes. Stem and first block always run. Gate i
    reads x_i: global average pooling, an embedding of its own (10 numbers), one LSTM (10 units) shared by all blocks
    and stepped once per block, a linear layer and a sigmoid: p_i.

Training
    1. Supervised (SP): cross-entropy; hard gates forward, g_i = 1[p_i > 0.5], straight-through backward.
    2. Hybrid (HRL), from SP, once for each alpha: gates are drawn from p; loss = mean L - beta * sum_i log p(g_i) r_i
       with the reward to go r_i = -L + alpha / N * sum_{j >= i} (1 - g_j), L the sample's own cross-entropy.

Exit rule
    None. Block i runs iff p_i > 0.5. The knob is alpha: more reward for skipping, fewer blocks. Its limits are trained
    like the others, where the hybrid loss becomes cross-entropy with all gates closed (inf) or open (-inf).

Skipped
    The convolutions of block i for the pictures whose g_i = 0. Gates and projections always run and are counted.

Deviations
    1. Fashion-MNIST, 8,000 training pictures, and 9 blocks of 8, 16 and 32 channels behind a stem of stride 2, instead
       of CIFAR-10/100, SVHN and ImageNet with 18 to 54 blocks of 16 to 64 channels.
    2. Six epochs of SP and two of HRL with AdamW, instead of 64,000 and 10,000 steps of SGD.
    3. alpha from 1 to 8, as a small network at a large learning rate needs; the paper: 0.001 to 0.1. The gate learns
       five times as fast as the rest.
    4. The last layer of the gate starts with bias 1, so that all gates start open and no block stays untrained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from eelit.methods import tasks
from eelit.methods.backbones.gated_resnet import GatedResNet, hard
from eelit.methods.examples import Data, Examples
from eelit.methods.families.gates import GateMethod, Network, Prepared, routed
from eelit.methods.method import Bench
from eelit.methods.recipes.gating import constant_gates, train_hybrid, train_straight_through
from eelit.methods.results import Curve, Outcome


@dataclass(frozen=True)
class SkipNet(GateMethod):
    """Blocks of a residual network skipped picture by picture by a recurrent gate."""

    pictures: str = "fashion-mnist"  # data; the paper: CIFAR-10, CIFAR-100, SVHN, ImageNet
    train_size: int = 8000  # training pictures
    widths: tuple[int, ...] = (8, 16, 32)  # channels of the three groups; the paper: 16, 32, 64
    depth: int = 3  # blocks per group; the paper: 6, 12, 18 or 25
    stride: int = 2  # of the stem; the paper: 1
    epochs: float = 6.0  # of SP; the paper: 64,000 steps
    rate: float = 4e-3  # of SP; the paper: 0.1, SGD
    hybrid_epochs: float = 2.0  # of HRL; the paper: 10,000 steps
    hybrid_rate: float = 1e-3  # of HRL; the paper: 1e-4, SGD
    gate_rate: float = 5e-3  # of the gate in HRL; the paper: as the rest
    beta: float = 0.01  # weight of REINFORCE; the paper: 0.01
    batch: int = 128  # the paper: 128

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "alpha"
    knobs: ClassVar[tuple[float, ...]] = (math.inf, 8.0, 4.0, 2.0, 1.0, -math.inf)
    tiny: ClassVar[Mapping[str, Any]] = {
        **{"pictures": "digits", "train_size": 600, "widths": (8, 8, 16), "depth": 2, "stride": 1},
        **{"batch": 32, "epochs": 4.0, "hybrid_epochs": 4.0, "gate_rate": 2e-2, "beta": 0.04},
    }
    full: ClassVar[Mapping[str, Any]] = {"train_size": 50000, "depth": 6, "epochs": 12.0, "hybrid_epochs": 4.0}

    def load(self) -> Data:
        """Pictures in ten classes."""
        return tasks.images(self.pictures, train=self.train_size)

    def build(self, data: Data, seed: int) -> GatedResNet:
        """Three groups of residual blocks with one recurrent gate."""
        torch.manual_seed(seed)
        return GatedResNet(self.widths, self.depth, data.classes or 0, stride=self.stride)

    def train(self, model: GatedResNet, data: Data, bench: Bench) -> None:
        """SP."""
        train_straight_through(model, data, bench, epochs=self.epochs, batch=self.batch, rate=self.rate)

    def tuned(self, model: GatedResNet, data: Data, bench: Bench, knob: float) -> Network:
        """HRL for one alpha."""
        train_hybrid(
            model,
            data,
            bench,
            alpha=knob,
            beta=self.beta,
            gate_rate=self.gate_rate,
            epochs=self.hybrid_epochs,
            batch=self.batch,
            rate=self.hybrid_rate,
        )
        return Network(model, constant_gates(knob) or hard)
