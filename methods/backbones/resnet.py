"""A residual network of basic blocks for small images, cut at shares of its cost (after he2016deep, kaya2019sdn)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from eelit.methods.backbones.half_precision import LearnsInHalf
from eelit.methods.backbones.internal_classifier import Shape, exits_at_shares
from eelit.methods.backbones.normalisation import convolution, stem
from eelit.methods.engine.multi_exit import MultiExit


class BasicBlock(nn.Module):
    """``relu(shortcut(x) + F(x))`` with F two 3×3 convolutions; the shortcut is 1×1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first, second = convolution(inputs, outputs, stride=stride), convolution(outputs, outputs)
        self.body = nn.Sequential(*first, nn.ReLU(inplace=True), *second)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        return (self.shortcut(x) + self.body(x)).relu_()


def residual_exits(
    image: Shape,
    classes: int,
    *,
    widths: Sequence[int],
    blocks: int,
    shares: Sequence[float],
    head: Callable[[Shape], nn.Module],
    seed: int,
    pixels: int,
    half: bool,
) -> MultiExit:
    """Return a residual network with a head for maps of their shape at shares of its cost.

    A convolution with a place for each ``pixels × pixels``, then ``blocks`` blocks of each width, the first of every
    width but the first with stride 2; at the end the mean over the map and a linear layer. All but that learn in
    bfloat16 if ``half``.
    """
    torch.manual_seed(seed)
    units: list[nn.Module] = [stem(image[0], widths[0], pixels)]
    for before, width in pairwise([widths[0], *widths]):
        for block in range(blocks):
            first = block == 0
            stride = 2 if first and len(units) > 1 else 1
            units.append(BasicBlock(before if first else width, width, stride))
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    return exits_at_shares([LearnsInHalf(unit) for unit in units] if half else units, last, image, shares, head)
