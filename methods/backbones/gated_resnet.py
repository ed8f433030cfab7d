"""A residual network for small pictures whose blocks can be skipped picture by picture, by one recurrent gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Choice = Callable[[Tensor], Tensor]
"""From the probabilities ``[n]`` of running a block to gates ``[n]``, 0 or 1."""


def hard(p: Tensor) -> Tensor:
    """Return 1 where p > 0.5, else 0: the gate at inference."""
    return (p > 0.5).to(p.dtype)


def straight_through(p: Tensor) -> Tensor:
    """Return 1[p > 0.5] going forward; going backward, the gradient passes to p unchanged."""
    return (hard(p) - p).detach() + p


def sampled(p: Tensor) -> Tensor:
    """Return gates drawn with probability p of being 1; no gradient passes."""
    return torch.bernoulli(p.detach())


class Block(nn.Module):
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
        return torch.sigmoid(self.proj(state[0])[:, 0]), state


class Routed(NamedTuple):
    """What a pass gives: logits ``[n, classes]``, probabilities and gates of all gated blocks, each ``[G, n]``."""

    logits: Tensor
    p: Tensor
    gates: Tensor


class GatedResNet(nn.Module):
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
                blocks.append(Block(before, width, 2 if group and not i else 1))
                inputs.append(before)
                before = width
        self.first, *rest = blocks
        self.blocks = nn.ModuleList(rest)
        self.gate = RecurrentGate(inputs[1:], embed, hidden)
        self.head = nn.Linear(before, classes)
        nn.init.constant_(self.gate.proj.bias, 1.0)  # gates start open, so that every block learns
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
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

    def gated(self) -> Iterator[tuple[int, Block]]:
        """Yield the blocks that can be skipped, numbered from 0."""
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            yield i, block

    def forward(self, x: Tensor, choose: Choice = hard) -> Routed:
        """Compute every block for every picture and mix by the gates: for training, and for replay."""
        return self._route(x, choose, _mixed)

    def infer(self, x: Tensor, choose: Choice = hard) -> Routed:
        """Compute a block only for the pictures whose gate is 1; the others pass its shortcut."""
        return self._route(x, choose, _skipping)

    def plain(self, x: Tensor) -> Tensor:
        """Return logits ``[n, classes]`` of the residual network itself: all blocks, no gate."""
        x = self.enter(x)
        for _, block in self.gated():
            x = block(x, block.shortcut(x))
        return self.answer(x)

    def _route(self, x: Tensor, choose: Choice, step: Callable[[Block, Tensor, Tensor], Tensor]) -> Routed:
        x, state = self.enter(x), None
        seen: list[tuple[Tensor, Tensor]] = []
        for i, block in self.gated():
            p, state = self.gate(i, x, state)
            gate = choose(p)
            x = step(block, x, gate)
            seen.append((p, gate))
        p, gates = (torch.stack(each) for each in zip(*seen, strict=True))
        return Routed(self.answer(x), p, gates)


def _mixed(block: Block, x: Tensor, gate: Tensor) -> Tensor:
    """Return ``g * block(x) + (1 - g) * shortcut(x)``."""
    short, g = block.shortcut(x), gate[:, None, None, None]
    return g * block(x, short) + (1 - g) * short


def _skipping(block: Block, x: Tensor, gate: Tensor) -> Tensor:
    """Return the same for gates of 0 and 1, running the block on the pictures with 1 only."""
    on, short = gate.nonzero().flatten(), block.shortcut(x)
    if len(on) == len(x):
        return block(x, short)
    return short.index_copy(0, on, block(x[on], short[on])) if len(on) else short
