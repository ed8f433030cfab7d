"""A plain network of convolutions for small images, cut at shares of its cost (after simonyan2015very, kaya2019sdn)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from eelit.methods.backbones.half_precision import LearnsInHalf
from eelit.methods.backbones.internal_classifier import Shape, exits_at_shares
from eelit.methods.backbones.normalisation import convolution, stem
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
    pixels: int,
    half: bool,
) -> MultiExit:
    """Return a VGG-like network with a head for maps of their shape at shares of its cost.

    ``blocks`` 3×3 convolutions of each width (the very first has a place for each ``pixels × pixels``), then
    max-pooling that halves the map (keeping an odd border) before the next width; at the end the mean over the map, a
    linear layer as wide as the map was, and the linear layer that answers. All but these learn in bfloat16 if ``half``.
    """
    torch.manual_seed(seed)
    units: list[nn.Module] = []
    before = image[0]
    for number, width in enumerate(widths):
        for block in range(blocks):
            pool = [nn.MaxPool2d(2, ceil_mode=True)] if number and not block else []
            first = not units
            layers = stem(before, width, pixels) if first else (*convolution(before, width), nn.ReLU(inplace=True))
            units.append(nn.Sequential(*pool, *layers))
            before = width
    dense = (nn.Linear(widths[-1], widths[-1]), nn.ReLU(inplace=True), nn.Linear(widths[-1], classes))
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dense)
    return exits_at_shares([LearnsInHalf(unit) for unit in units] if half else units, last, image, shares, head)
