"""MSDNet: densely connected layers, each with feature maps at several scales, and classifiers along the way.

Scales are numbered from 0, the finest. Layer 0 makes one map per scale from the image; layers 1 … L grow them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from eelit.methods.engine.multi_exit import MultiExit


@dataclass(frozen=True)
class Layout:
    """The shape of a network: which layers carry classifiers, which scales live how long, and how wide maps are."""

    exits: int = 5  # classifiers
    base: int = 1  # layers before the first classifier
    step: int = 1  # layers between classifiers
    growing: bool = True  # the i-th gap (i = 1 …) has step·i + 1 layers instead of step
    stride: int = 1  # of the first convolution; 2 halves all maps
    channels: int = 16  # of the finest map of layer 0, C0
    growth: int = 6  # channels that a layer adds to the finest map, g
    factors: tuple[int, ...] = (1, 2, 4)  # per scale: its maps are so many times wider, m_s; also the bottleneck's b_s
    reduction: float = 0.5  # share of channels kept when the finest scale is dropped
    head: int = 128  # channels inside a classifier
    lazy: bool = True  # compute finer maps only as far as the next classifier needs them

    @property
    def scales(self) -> int:
        """Number of scales, S."""
        return len(self.factors)

    @property
    def classifiers(self) -> list[int]:
        """The layer that each classifier reads."""
        gaps = [self.step * i + 1 if self.growing else self.step for i in range(1, self.exits)]
        return [self.base + sum(gaps[:i]) for i in range(self.exits)]

    @property
    def last(self) -> list[int]:
        """The last layer of each scale: the layers are cut into S blocks, each one scale poorer than the one before."""
        layers = self.classifiers[-1]
        block = math.ceil(layers / self.scales)
        return [min(layers, block * (s + 1)) for s in range(self.scales - 1)] + [layers]

    @property
    def widths(self) -> list[int]:
        """Channels after each layer 0 … L, as multiples of m_s: + g per layer, halved after a scale was dropped."""
        widths = [self.channels]
        for layer in range(1, self.classifiers[-1] + 1):
            widths.append(widths[-1] + self.growth)
            if self.drops(layer):
                widths[-1] = math.floor(self.reduction * widths[-1])
        return widths

    def drops(self, layer: int) -> bool:
        """Whether this layer is the first without some finer scale."""
        return layer - 1 in self.last[:-1]

    def depth(self, classifier: int, scale: int) -> int:
        """How many layers of a scale are computed when the classifier answers.

        It reads the coarsest map of its layer l, which needs the next finer map up to layer l - 1, and so on.
        """
        layer = self.classifiers[classifier]
        needed = max(0, layer - (self.scales - 1 - scale)) if self.lazy else layer
        return min(needed, self.last[scale])


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (kernel * kernel * outputs)))
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def bottleneck(inputs: int, outputs: int, factor: int, stride: int = 1) -> nn.Sequential:
    """1×1 convolution to at most ``factor · outputs`` channels, then 3×3."""
    inner = min(inputs, factor * outputs)
    return nn.Sequential(*convolution(inputs, inner, 1), *convolution(inner, outputs, 3, stride))


class Cell(nn.Module):
    """One map of one layer: the map so far, joined by what is new from the finer map (if any) and from itself."""

    def __init__(self, layout: Layout, layer: int, scale: int) -> None:
        super().__init__()
        m, width = layout.factors, layout.widths[layer - 1]
        new = layout.growth * m[scale]
        finer = scale > 0 and layer - 1 <= layout.last[scale - 1]
        self.down = bottleneck(width * m[scale - 1], new // 2, m[scale - 1], stride=2) if finer else None
        self.same = bottleneck(width * m[scale], new // 2 if finer else new, m[scale])
        self.transition = (
            convolution((width + layout.growth) * m[scale], layout.widths[layer] * m[scale], 1)
            if layout.drops(layer)
            else None
        )

    def forward(self, own: Tensor, finer: Tensor | None) -> Tensor:
        """Map ``[N, C, H, W]`` and the finer ``[N, C', 2H, 2W]``, both of the layer before, to this layer's map."""
        parts = [own, self.same(own)] if self.down is None else [own, self.down(finer), self.same(own)]
        out = torch.cat(parts, dim=1)
        return out if self.transition is None else self.transition(out)


class FirstLayer(nn.Module):
    """Layer 0: a 3×3 convolution of the image, then one with stride 2 for each coarser scale."""

    def __init__(self, layout: Layout, inputs: int) -> None:
        super().__init__()
        wide = [inputs, *(layout.channels * m for m in layout.factors)]
        self.scales = nn.ModuleList(
            convolution(a, b, 3, layout.stride if s == 0 else 2) for s, (a, b) in enumerate(pairwise(wide))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one map per scale, from fine to coarse."""
        maps: list[Tensor] = []
        for scale in self.scales:
            maps.append(scale(maps[-1] if maps else x))
        return maps


class ScaleStage(nn.Module):
    """The layers between two classifiers. The state is a list of maps, from fine to coarse.

    Each scale advances from the depth where the classifier before left it to the one that this classifier needs. A
    finer map is advanced first and all its depths are kept meanwhile, because the coarser map reads them one by one. A
    scale leaves the state when nothing reads it any more.
    """

    def __init__(self, layout: Layout, classifier: int, inputs: int) -> None:
        super().__init__()
        scales = range(layout.scales)
        self.first = FirstLayer(layout, inputs) if classifier == 0 else None
        self.start = [layout.depth(classifier - 1, s) if classifier else 0 for s in scales]
        stop = [layout.depth(classifier, s) for s in scales]
        self.entering = [s for s in scales if self.first or _read(layout, self.start, s)]
        self.leaving = [s for s in scales if _read(layout, stop, s)]
        self.cells = nn.ModuleList(
            nn.ModuleList(Cell(layout, layer, s) for layer in range(self.start[s] + 1, stop[s] + 1)) for s in scales
        )

    def forward(self, state: Tensor | list[Tensor]) -> list[Tensor]:
        """Advance the maps; the first stage takes the image ``[N, C, H, W]``."""
        maps = self.first(state) if self.first is not None else state
        depths: dict[int, list[Tensor]] = {}
        for s, entered in zip(self.entering, maps, strict=True):
            depths[s] = [entered]
            for i, cell in enumerate(cast(nn.ModuleList, self.cells[s])):
                finer = depths[s - 1][self.start[s] + i - self.start[s - 1]] if cell.down is not None else None
                depths[s].append(cell(depths[s][-1], finer))
        return [depths[s][-1] for s in self.leaving]


def _read(layout: Layout, depths: Sequence[int], scale: int) -> bool:
    """Whether a map is still read when the scales have these depths: by its next layer or by the coarser scale's."""
    return scale == layout.scales - 1 or depths[scale + 1] <= layout.last[scale]


class ScaleHead(nn.Module):
    """Two 3×3 convolutions with stride 2 on the coarsest map, mean, linear layer."""

    def __init__(self, inputs: int, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(convolution(inputs, channels, 3, 2), convolution(channels, channels, 3, 2))
        self.linear = nn.Linear(channels, classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, state: list[Tensor]) -> Tensor:
        """Return logits ``[N, classes]``."""
        return self.linear(self.features(state[-1]).mean(dim=(2, 3)))


def msdnet(layout: Layout, *, inputs: int, classes: int, seed: int) -> MultiExit:
    """Return an untrained MSDNet for images with ``inputs`` channels."""
    torch.manual_seed(seed)
    stages = [ScaleStage(layout, k, inputs) for k in range(layout.exits)]
    widths = [layout.widths[layer] * layout.factors[-1] for layer in layout.classifiers]
    return MultiExit(stages, [ScaleHead(width, layout.head, classes) for width in widths]).eval()
