"""Convolutional networks of the 2010s with side branches (teerapittayanon2016branchynet)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from eelit.methods.engine.multi_exit import MultiExit

Shape = Sequence[int]
"""Channels, height and width of one image."""


def branchy_lenet(image: Shape, classes: int, *, seed: int) -> MultiExit:
    """Return LeNet-5 (3 convolutions, 2 linear layers) with a branch after the first convolution."""
    torch.manual_seed(seed)
    trunk: list[list[nn.Module]] = [
        [nn.Conv2d(image[0], 5, 5, padding=3)],
        [*_halved(), nn.Conv2d(5, 10, 5, padding=3), *_halved(), nn.Conv2d(10, 20, 5, padding=3), *_halved()],
    ]
    branch: list[nn.Module] = [*_halved(), nn.Conv2d(5, 10, 3, padding=1), *_halved()]
    first, second = _shape(trunk[0], image), _shape(trunk[0] + trunk[1], image)
    trunk[1] += [nn.Flatten(), nn.Linear(_size(second), 84)]
    branch += [nn.Flatten(), nn.Linear(_size(_shape(branch, first)), classes)]
    return _multi_exit(trunk, [branch, [nn.Linear(84, classes)]])


def branchy_alexnet(image: Shape, classes: int, *, width: float = 1.0, seed: int) -> MultiExit:
    """Return AlexNet for small images (5 convolutions, 3 linear layers) with branches after the first two convolutions.

    The first branch has two convolutions, the second one. ``width`` scales all channels.
    """
    torch.manual_seed(seed)
    a, b, c, d, e = (round(width * n) for n in (32, 64, 96, 256, 128))
    trunk: list[list[nn.Module]] = [
        [nn.Conv2d(image[0], a, 5, padding=2)],
        [*_normalised(), nn.Conv2d(a, b, 5, padding=2)],
        [
            *_normalised(), nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1), nn.ReLU(),
            nn.Conv2d(c, b, 3, padding=1), nn.ReLU(), _pool3(),
        ],
    ]  # fmt: skip
    branches: list[list[nn.Module]] = [
        [*_normalised(), nn.Conv2d(a, a, 3, padding=1), nn.ReLU(), nn.Conv2d(a, a, 3, padding=1), nn.ReLU(), _pool3()],
        [*_normalised(), nn.Conv2d(b, a, 3, padding=1), nn.ReLU(), _pool3()],
    ]
    shape = image
    for stage, branch in zip(trunk, branches, strict=False):
        shape = _shape(stage, shape)
        branch += [nn.Flatten(), nn.Linear(_size(_shape(branch, shape)), classes)]
    dense: list[nn.Module] = [nn.Flatten(), nn.Linear(_size(_shape(trunk[2], shape)), d), nn.ReLU(), nn.Dropout(0.5)]
    trunk[2] += [*dense, nn.Linear(d, e), nn.ReLU(), nn.Dropout(0.5)]
    return _multi_exit(trunk, [*branches, [nn.Linear(e, classes)]])


def _halved() -> list[nn.Module]:
    """Max-pooling over 2×2 that keeps an odd border, then ReLU."""
    return [nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()]


def _pool3() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _normalised() -> list[nn.Module]:
    """ReLU, pooling, and normalisation over 3 neighbouring channels, ``x / (2 + 5e-5 · sum of squares)^0.75``."""
    return [nn.ReLU(), _pool3(), nn.LocalResponseNorm(3, alpha=3 * 5e-5, beta=0.75, k=2.0)]


@torch.no_grad()
def _shape(layers: Sequence[nn.Module], image: Shape) -> Shape:
    """Return the shape that the layers give an image of this shape."""
    shape: Shape = nn.Sequential(*layers)(torch.zeros(1, *image)).shape[1:]
    return shape


def _size(shape: Shape) -> int:
    return math.prod(shape)


def _multi_exit(trunk: list[list[nn.Module]], branches: list[list[nn.Module]]) -> MultiExit:
    return MultiExit((nn.Sequential(*stage) for stage in trunk), (nn.Sequential(*head) for head in branches)).eval()
