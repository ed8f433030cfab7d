"""SkipNet: Learning Dynamic Routing in Convolutional Networks (SkipNet).

Idea
    A residual network still works without single blocks, and images differ in which blocks they need. So a tiny gate
    before each block reads the incoming feature map and decides, image by image, whether to run the block or to take
    its shortcut. Every image reaches the end, but on a path of its own length: this is a neighbour of early exit.

Model
    x_{i+1} = g_i F_i(x_i) + (1 - g_i) S_i(x_i), g_i in {0, 1}; F_i is the residual block with shortcut and ReLU, S_i
    the identity, or the block's own 1×1 projection where the shape changes. Stem and first block always run. Gate i
    reads x_i: global average pooling, an embedding of its own (10 numbers), one LSTM (10 units) shared by all blocks
    and stepped once per block, a linear layer and a sigmoid: p_i.

Training
    1. Supervised (SP): cross-entropy; hard gates forward, g_i = 1[p_i > 0.5], straight-through backward.
    2. Hybrid (HRL), from SP, once for each alpha: gates are drawn from p; loss = mean L - beta * sum_i log p(g_i) r_i
       with the reward to go r_i = -L + alpha / G * sum_{j >= i} (1 - g_j), L the sample's own cross-entropy, G gates.

Exit rule
    None. Block i runs iff p_i > 0.5. The knob is alpha: more reward for skipping, fewer blocks. Its two ends are
    trained like the others; there the hybrid loss becomes cross-entropy with all gates closed (inf) or open (-inf).

Skipped
    The convolutions of block i for the images whose g_i = 0. Gates and projections always run and are counted.

Trained otherwise
    On the image tracks SP takes as many epochs as all rows have, in batches of 128 at rate 4e-3, and HRL three more for
    each alpha: gates learn to close in two stages, which is what the paper is about.

Deviations
    1. Fashion-MNIST, 6,000 training images, and 9 blocks of 8, 16 and 32 channels after a stem of stride 2, instead of
       CIFAR-10/100, SVHN and ImageNet with 18 to 54 blocks of 16 to 64 channels.
    2. Six epochs of SP and three of HRL with AdamW, instead of 64,000 and 10,000 steps of SGD.
    3. alpha from 2 to 4, as needed for a small network and few steps; the paper: 0.001 to 0.1. In HRL the gate learns
       faster than the rest.
    4. The recurrent gate alone, which the paper finds best; its two convolutional gates (FFGate-I and II) are left out.
    5. Images are neither shifted nor flipped in training.
    6. The last layer of the gate starts with bias 1, so that all gates start open and no block stays untrained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.weights import trained
from eelit.methods.families.gates import Choice, GatedNetwork, GateMethod, Network, hard
from eelit.methods.policies.base import widened
from eelit.methods.recipes.fit import Batch, fit


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut: the identity, or a 1×1 projection where the shape changes.

    ``forward`` takes the input and what the shortcut makes of it; a skipped block passes on the latter alone.
    """

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        if stride == 1 and before == width:
            self.shortcut: nn.Module = nn.Identity()
        else:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor, short: Tensor) -> Tensor:
        """Return relu(body(x) + short)."""
        out: Tensor = torch.relu(self.body(x) + short)
        return out


class RecurrentGate(nn.Module):
    """Global average pooling, an embedding of each block's own, one LSTM shared by all blocks, one probability."""

    def __init__(self, widths: Sequence[int], embed: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Linear(width, embed) for width in widths)
        self.control = nn.LSTMCell(embed, hidden)
        self.proj = nn.Linear(hidden, 1)

    def forward(self, i: int, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the probability ``[n]`` of running block ``i`` on its input ``[n, C, H, W]``, and the LSTM's state."""
        state = self.control(self.embed[i](x.mean(dim=(2, 3))), state)
        return torch.sigmoid(widened(self.proj(state[0]))[:, 0]), state


class GatedResNet(GatedNetwork):
    """Stem and first block always run; each of the other ``G`` blocks runs where its gate is 1."""

    def __init__(
        self,
        widths: Sequence[int],
        depth: int,
        classes: int,
        *,
        channels: int = 1,
        stride: int = 1,
        embed: int = 10,
        hidden: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, stride, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        inputs, blocks, before = [], [], widths[0]
        for group, width in enumerate(widths):
            for i in range(depth):
                blocks.append(ResidualBlock(before, width, 2 if group and not i else 1))
                inputs.append(before)
                before = width
        self.first, *rest = blocks
        self.blocks = nn.ModuleList(rest)
        self.gate = RecurrentGate(inputs[1:], embed, hidden)
        self.head = nn.Linear(before, classes)
        nn.init.constant_(self.gate.proj.bias, 1.0)  # gates start open, so that every block learns
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.out_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan))

    def enter(self, x: Tensor) -> Tensor:
        """Run what is never skipped, up to the first gate."""
        x = self.stem(x)
        out: Tensor = self.first(x, self.first.shortcut(x))
        return out

    def answer(self, x: Tensor) -> Tensor:
        """Return logits from the last feature map."""
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits

    def gated(self) -> Iterator[tuple[int, ResidualBlock]]:
        """Yield the blocks that can be skipped, numbered from 0."""
        for i, block in enumerate(self.blocks):
            assert isinstance(block, ResidualBlock)
            yield i, block

    def masked(self, block: ResidualBlock, x: Tensor, g: Tensor) -> Tensor:
        """Return x_{i+1} = g F(x) + (1 - g) S(x) for gates ``[n]``, with F the block i and S its shortcut."""
        short, g = block.shortcut(x), g.to(x.dtype).view(-1, 1, 1, 1)
        mixed: Tensor = g * block(x, short) + (1 - g) * short
        return mixed

    def left_out(self, block: ResidualBlock, x: Tensor, g: Tensor) -> Tensor:
        """Return the same for gates of 0 and 1, with F run where g = 1 only."""
        on = g.nonzero().flatten()
        short: Tensor = block.shortcut(x)
        if len(on) == len(x):
            whole: Tensor = block(x, short)
            return whole
        return short.index_copy(0, on, block(x[on], short[on])) if len(on) else short


def straight_through(p: Tensor) -> Tensor:
    """Return 1[p > 0.5] going forward; going backward, the gradient passes to p unchanged."""
    return (hard(p) - p).detach() + p


def sampled(p: Tensor) -> Tensor:
    """Return gates drawn with probability p of being 1; no gradient passes."""
    return torch.bernoulli(p.detach())


def reward_to_go(loss: Tensor, gates: Tensor, alpha: float) -> Tensor:
    """Return ``r_i = -L + alpha / G * sum_{j >= i} (1 - g_j)``, ``[G, n]``, for losses ``[n]`` and gates ``[G, n]``."""
    skipped = (1 - gates).flip(0).cumsum(0).flip(0)
    return alpha / len(gates) * skipped - loss


def hybrid_loss(logits: Tensor, targets: Tensor, p: Tensor, gates: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Return mean cross-entropy plus REINFORCE: ``- beta * sum over gates and samples of log p(g_i) r_i``.

    ``logits [n, classes]``, ``targets [n]``; ``p`` and the ``gates`` drawn from it ``[G, n]``. The second part is a sum
    over the batch, not a mean, as in the released code.
    """
    losses = F.cross_entropy(logits, targets, reduction="none")
    taken = torch.where(gates > 0, p, 1 - p)
    rewards = reward_to_go(losses.detach(), gates, alpha)
    return losses.mean() - beta * (taken.clamp_min(1e-6).log() * rewards).sum()


def constant_gates(alpha: float) -> Choice | None:
    """Return the gates of the two limits, whatever p: none open for alpha = inf, all for -inf; else None."""
    if alpha == math.inf:
        return torch.zeros_like
    return torch.ones_like if alpha == -math.inf else None


def train_supervised(model: GatedNetwork, data: Data, bench: Bench, **options: Any) -> None:
    """SP: minimise cross-entropy with hard gates and straight-through gradients; ``options`` are those of `fit`."""

    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch.inputs, straight_through).logits, batch.targets)

    def train() -> None:
        model.train()
        fit(model.parameters(), data.train, loss, bench, label="supervised training with hard gates", **options)

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()


def train_hybrid(
    model: GatedNetwork, data: Data, bench: Bench, *, alpha: float, beta: float, gate_rate: float, **options: Any
) -> None:
    """HRL: minimise `hybrid_loss` with sampled gates; in the limits of alpha, cross-entropy with constant gates.

    The gate learns at ``gate_rate``; ``options`` are those of `fit`.
    """
    constant = constant_gates(alpha)

    def loss(batch: Batch) -> Tensor:
        if constant is not None:
            return F.cross_entropy(model.infer(batch.inputs, constant).logits, batch.targets)
        out = model(batch.inputs, sampled)
        return hybrid_loss(out.logits, batch.targets, out.p, out.gates, alpha=alpha, beta=beta)

    def train() -> None:
        model.train()
        label, gate = f"hybrid training, alpha {alpha:g}", model.gate.parameters()
        fit(model.parameters(), data.train, loss, bench, label=label, faster=gate, faster_rate=gate_rate, **options)

    settings = {"train": len(data.train), "alpha": alpha, "beta": beta, "gate_rate": gate_rate, **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class SkipNet(GateMethod):
    """Blocks of a residual network skipped image by image by a recurrent gate."""

    images: str = "fashion-mnist"  # data; the paper: CIFAR-10, CIFAR-100, SVHN, ImageNet
    train_size: int = 6000  # training images
    widths: tuple[int, ...] = (8, 16, 32)  # channels of the three groups; the paper: 16, 32, 64
    depth: int = 3  # blocks per group; the paper: 6, 12, 18 or 25
    stride: int = 2  # of the stem; the paper: 1
    epochs: float = 6.0  # of SP; the paper: 64,000 steps
    rate: float = 4e-3  # of SP; the paper: 0.1, SGD
    hybrid_epochs: float = 2.0  # of HRL; the paper: 10,000 steps
    hybrid_rate: float = 2e-3  # of HRL; the paper: 1e-4, SGD
    gate_rate: float = 5e-3  # of the gate in HRL; the paper: as the rest
    beta: float = 0.01  # weight of REINFORCE; the paper: 0.01
    batch: int = 128  # the paper: 128

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "alpha"
    knobs: ClassVar[tuple[float, ...]] = (math.inf, 4.0, 2.5, 2.0, -math.inf)
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 400, "widths": (8, 8, 16), "depth": 2, "stride": 1, "batch": 32,
        "epochs": 5.0, "hybrid_epochs": 3.0, "gate_rate": 1.3e-2, "beta": 0.04,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 1500, "epochs": 3.0, "hybrid_epochs": 1.5, "batch": 64, "gate_rate": 2e-2, "beta": 0.04,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {"widths": (8, 16, 16)}
    full: ClassVar[Mapping[str, Any]] = {"train_size": 50000, "depth": 6, "epochs": 12.0, "hybrid_epochs": 4.0}

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def build(self, data: Data, seed: int) -> GatedResNet:
        """Three groups of residual blocks with one recurrent gate."""
        torch.manual_seed(seed)
        return GatedResNet(self.widths, self.depth, data.classes or 0, stride=self.stride)

    def train(self, model: GatedNetwork, data: Data, bench: Bench) -> None:
        """SP."""
        train_supervised(model, data, bench, epochs=self.epochs, batch=self.batch, rate=self.rate)

    def tuned(self, model: GatedNetwork, data: Data, bench: Bench, knob: float) -> Network:
        """HRL for one alpha."""
        options = {"epochs": self.hybrid_epochs, "batch": self.batch, "rate": self.hybrid_rate}
        train_hybrid(model, data, bench, alpha=knob, beta=self.beta, gate_rate=self.gate_rate, **options)
        return Network(model, constant_gates(knob) or hard)
