"""A plain network of convolutions for small images, cut at shares of its cost (after simonyan2015very, kaya2019sdn)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from eelit.methods.backbones.internal_classifier import Shape, exits_at_shares
from eelit.methods.backbones.normalisation import convolution
from eelit.methods.engine.multi_exit import MultiExit


def plain_exits(
    image: Shape,
    classes: int,
    *,
    widths: Sequence[int],
    blocks: int,
    shares: Sequence[float],
    head: Callable[[Shape], nn.Module],
    seed: int,
    stem_stride: int = 1,
) -> MultiExit:
    """Return a VGG-like network with a head for maps of their shape at shares of its cost.

    ``blocks`` 3×3 convolutions of each width, the very first with ``stem_stride``, then max-pooling that halves the
    map (keeping an odd border) before the next width; at the end the mean over the map, a linear layer as wide as the
    map was, and the linear layer that answers.
    """
    torch.manual_seed(seed)
    units: list[nn.Module] = []
    before, stride = image[0], stem_stride
    for number, width in enumerate(widths):
        for block in range(blocks):
            pool = [nn.MaxPool2d(2, ceil_mode=True)] if number and not block else []
            units.append(nn.Sequential(*pool, *convolution(before, width, stride=stride), nn.ReLU()))
            before, stride = width, 1
    dense = (nn.Linear(widths[-1], widths[-1]), nn.ReLU(), nn.Linear(widths[-1], classes))
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dense)
    return exits_at_shares(units, last, image, shares, head)
