"""EfficientNet-Lite0 with its weights from ImageNet, cut at shares of its cost (after tan2019efficientnet)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.half_precision import LearnsInHalf
from eelit.methods.backbones.internal_classifier import Shape, exits_at_shares
from eelit.methods.data import fetch
from eelit.methods.engine.multi_exit import MultiExit

ITEM = "efficientnet-lite0"
FIRST, LAST = 32, 1280
"""Channels of the first convolution, and of the last."""
BLOCKS = ((1, 16, 3, 1), (2, 24, 3, 2), (2, 40, 5, 2), (3, 80, 3, 2), (3, 112, 5, 1), (4, 192, 5, 2), (1, 320, 3, 1))
"""How many blocks, their channels, the side of their kernels, and the stride of the first of them."""
REDUCTION = 32
"""Pixels a side of which the last map has one place."""


class Picture(nn.Module):
    """Makes of grey or coloured images ``[N, 1 or 3, H, W]`` what the weights were trained on, ``[N, 3, *size]``.

    That is ``(x - 127) / 128`` for x between 0 and 255. Black and white of a channel are the least and the greatest
    value that the training images have there, however they were normalised.
    """

    scale: Tensor
    shift: Tensor
    down: Tensor
    across: Tensor

    def __init__(self, images: Sequence[Tensor], size: Sequence[int]) -> None:
        super().__init__()
        black = torch.stack([x.amin(dim=(1, 2), keepdim=True) for x in images]).amin(dim=0)
        white = torch.stack([x.amax(dim=(1, 2), keepdim=True) for x in images]).amax(dim=0)
        self.register_buffer("scale", 255 / (white - black) / 128)
        self.register_buffer("shift", -127 / 128 - black * self.scale)
        self.register_buffer("down", resizing(images[0].shape[1], size[0]).T)
        self.register_buffer("across", resizing(images[0].shape[2], size[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Scale, resize, and repeat grey three times."""
        sized: Tensor = self.down @ (x * self.scale + self.shift) @ self.across
        return sized.expand(-1, 3, -1, -1)


def resizing(before: int, after: int) -> Tensor:
    """Return the matrix that a row of so many pixels is multiplied by to be resized bilinearly: so its cost counts."""
    return F.interpolate(torch.eye(before)[None, None], (before, after), mode="bilinear", antialias=True)[0, 0]


def convolution(
    inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, active: bool = True
) -> list[nn.Module]:
    """Return a convolution, batch normalisation and, if ``active``, ReLU6.

    At stride 2 a map of even side is padded by one more after than before, as TensorFlow did when it was trained.
    """
    less, more = (kernel - stride) // 2, (kernel - stride + 1) // 2
    padding = [] if less == more else [nn.ZeroPad2d((less, more, less, more))]
    conv = nn.Conv2d(inputs, outputs, kernel, stride, 0 if padding else less, groups=groups, bias=False)
    return [*padding, conv, nn.BatchNorm2d(outputs, eps=1e-3), *([nn.ReLU6()] if active else [])]


class InvertedResidual(nn.Module):
    """``x + F(x)``, or ``F(x)`` where the shape changes: F widens, convolves each channel alone, and narrows."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.body = nn.Sequential(
            *(convolution(inputs, wide) if expansion > 1 else []),
            *convolution(wide, wide, kernel, stride=stride, groups=wide),
            *convolution(wide, outputs, active=False),
        )
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        out: Tensor = self.body(x)
        return x + out if self.same else out


def network() -> nn.Sequential:
    """Return the first convolution, 16 blocks and the last convolution, as they are before training."""
    units: list[nn.Module] = [nn.Sequential(*convolution(3, FIRST, 3, stride=2))]
    before = FIRST
    for blocks, width, kernel, stride in BLOCKS:
        for block in range(blocks):
            units.append(InvertedResidual(before, width, kernel, 1 if block else stride, 1 if len(units) == 1 else 6))
            before = width
    return nn.Sequential(*units, nn.Sequential(*convolution(before, LAST)))


def pretrained() -> nn.Sequential:
    """Return `network` with its weights from the cache of data, but without the classifier of ImageNet.

    They stand there in the order in which the network runs, under other names.
    """
    found, stored = network(), torch.load(fetch.path(ITEM) / f"{ITEM}.pth", weights_only=True)
    weights = (tensor for name, tensor in stored.items() if not name.startswith("_fc."))
    found.load_state_dict(dict(zip(found.state_dict(), weights, strict=True)))
    return found


def efficient_exits(
    image: Shape,
    classes: int,
    *,
    shares: Sequence[float],
    head: Callable[[Shape], nn.Module],
    seed: int,
    pixels: int,
    half: bool,
    images: Sequence[Tensor],
) -> MultiExit:
    """Return the pretrained network with a head for maps of their shape at shares of its cost.

    Images are resized so that its first convolution, which has stride 2, has a place at least for each ``pixels ×
    pixels`` of them, and that all maps but the last have even sides. At the end the mean over the map and a new linear
    layer. All but that learn in bfloat16 if ``half``. ``images`` are those of training.
    """
    if image[0] not in (1, 3):
        raise ValueError(f"{ITEM} reads grey or RGB images, not {image[0]} channels")
    torch.manual_seed(seed)
    first, *others = pretrained()
    size = [REDUCTION * math.ceil(2 * side / pixels / REDUCTION) for side in image[1:]]
    units = [nn.Sequential(Picture(images, size), *cast(nn.Sequential, first)), *others]
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(LAST, classes))
    return exits_at_shares([LearnsInHalf(unit) for unit in units] if half else units, last, image, shares, head)
