"""Batch normalisation that is folded into the convolution before it: the same answers with less to do."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


def convolution(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size (but for the stride), then batch normalisation: what can be folded."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def stem(inputs: int, outputs: int, pixels: int) -> nn.Sequential:
    """Return the convolution that reads images, a place for each ``pixels × pixels``, then batch normalisation, ReLU.

    It sees 3×3 pixels around the place, or from 4 on just those of the place.
    """
    if pixels < 4:
        layers = convolution(inputs, outputs, stride=pixels)
    else:
        conv = nn.Conv2d(inputs, outputs, pixels, pixels, bias=False)
        layers = nn.Sequential(conv, nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def folded(network: M) -> M:
    """Return a copy in evaluation mode, with each batch normalisation that follows a convolution folded into it.

    It says what the network says in evaluation mode, up to rounding. Followed is the order of `nn.Sequential`; a
    normalisation that stands elsewhere stays.
    """
    copied = copy.deepcopy(network).eval()
    for part in copied.modules():
        if type(part) is nn.Sequential:
            _fold(part)
    return copied


def _fold(layers: nn.Sequential) -> None:
    for i in reversed(range(len(layers) - 1)):
        conv, norm = layers[i], layers[i + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[i] = fuse_conv_bn_eval(conv, norm)
            del layers[i + 1]
