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
    2. Six epochs of SP and three of HRL with AdamW, instead of 64,000 and 10,000 steps of SGD.
    3. alpha from 2 to 4, as few steps of a small network need; the paper: 0.001 to 0.1. In HRL the gate learns faster
       than the rest.
    4. The last layer of the gate starts with bias 1, so that all gates start open and no block stays untrained.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from eelit.methods.backbones.gated_resnet import GatedResNet, hard
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.gates import GateMethod, Network, Prepared, routed
from eelit.methods.recipes.gating import constant_gates, train_hybrid, train_straight_through


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
    hybrid_epochs: float = 3.0  # of HRL; the paper: 10,000 steps
    hybrid_rate: float = 2e-3  # of HRL; the paper: 1e-4, SGD
    gate_rate: float = 5e-3  # of the gate in HRL; the paper: as the rest
    beta: float = 0.01  # weight of REINFORCE; the paper: 0.01
    batch: int = 128  # the paper: 128

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "alpha"
    knobs: ClassVar[tuple[float, ...]] = (math.inf, 4.0, 2.5, 2.0, -math.inf)
    tiny: ClassVar[Mapping[str, Any]] = {
        "pictures": "digits",
        "train_size": 400,
        "widths": (8, 8, 16),
        "depth": 2,
        "stride": 1,
        "batch": 32,
        "epochs": 5.0,
        "hybrid_epochs": 3.0,
        "gate_rate": 1.3e-2,
        "beta": 0.04,
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
        options = {"epochs": self.hybrid_epochs, "batch": self.batch, "rate": self.hybrid_rate}
        train_hybrid(model, data, bench, alpha=knob, beta=self.beta, gate_rate=self.gate_rate, **options)
        return Network(model, constant_gates(knob) or hard)

    def claims(self, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
        """Much less computation at equal accuracy; skipping follows alpha; noisy pictures need more blocks."""
        held, full = curve.validation, curve.full_quality
        kept = [i for i, p in enumerate(held) if p.quality >= held[-1].quality - 0.005]
        best = curve.test[min(kept, key=lambda i: held[i].cost)]
        saved = 1 - best.cost / curve.full_cost
        alphas = [p.knob for p in curve.test if math.isfinite(p.knob)]
        ran = {a: prepared.seen("test", a).gates.sum(dim=0) for a in alphas}
        share = [f"{(float(ran[a].mean()) + 1) / (prepared.prices.count + 1):.0%} at {a:g}" for a in alphas]
        rising = all(ran[a].mean() <= ran[b].mean() for a, b in itertools.pairwise(alphas))
        outcomes = [
            Outcome(
                name="same accuracy with 30% less",
                statement="The cheapest alpha within half a point on validation saves ≥ 30% MACs, as close on test.",
                holds=saved >= 0.3 and best.quality >= full - 0.005,
                measured=f"{saved:.0%} saved at alpha {best.knob:g}, {best.quality - full:+.4f}",
            ),
            Outcome(
                name="alpha governs skipping",
                statement="A larger alpha does not raise the share of blocks that run, the first block included.",
                holds=rising,
                measured=", ".join(share),
            ),
        ]
        return outcomes + ([self.noise(prepared, max(alphas, key=lambda a: float(ran[a].std())))] if alphas else [])

    def noise(self, prepared: Prepared, alpha: float) -> Outcome:
        """Try whether pictures with Gaussian noise (deviation 0.5) run more blocks than the same without."""
        clean, draw = prepared.examples("test"), torch.Generator().manual_seed(0)
        noisy = Examples([x + 0.5 * torch.randn(x.shape, generator=draw) for x in clean.inputs], clean.targets)
        more = float(routed(prepared.network(alpha), noisy).gates.sum(dim=0).mean())
        less = float(prepared.seen("test", alpha).gates.sum(dim=0).mean())
        return Outcome(
            name="noisy pictures need more blocks",
            statement="With noise, pictures run more blocks on average, at the alpha where pictures differ most.",
            holds=more > less,
            measured=f"{less:.3f} without, {more:.3f} with noise, of {prepared.prices.count}, at alpha {alpha:g}",
        )
