"""Multi-Scale Dense Networks for Resource Efficient Image Classification (MSDNet).

Idea
    Early classifiers on an ordinary CNN have two problems: the first layers see only fine detail, and training them for
    classification harms the features that later layers need. So keep coarse maps as well from the first layer on, and
    connect layers densely so that no features are lost. The same network then answers on demand (anytime) and processes
    batches with a common budget (budgeted).

Model
    Scales s = 1 … S, from fine to coarse. Layer 0: x_0^1 from the image, x_0^s from x_0^(s-1) by strided convolution.
    Layer l >= 1 adds g m_s channels:  x_l^s = [x_(l-1)^s, down(x_(l-1)^(s-1)), same(x_(l-1)^s)], each new part a 1×1
    bottleneck and a 3×3 convolution; the finest scale has no down part. The layers are cut into S equal blocks; each
    drops the finest scale left, and a 1×1 transition halves the channels. Classifiers read the coarsest map only: two
    strided convolutions, mean, linear layer. Finer maps are computed only as far as the next classifier needs them
    (lazy evaluation): a classifier at layer l needs scale s up to layer l - (S - s).

Training
    All classifiers together: L = sum_k w_k L_k with w_k = 1, L_k the cross-entropy of classifier k.

Exit rule
    The knob is a budget, as a share of the cost C_K of reaching the last classifier. Budgeted: stop at the first
    classifier whose largest probability is >= theta_k; the last one always answers. If every classifier released a
    share q of what reaches it, q_k = z (1-q)^(k-1) q of all would leave there (z makes the sum 1). Find the q whose
    mean cost sum_k q_k C_k is the budget; then, one by one, theta_k is the confidence that a share q_k of all images
    held out for this still reaches. As (1-q)^k ~ p^k with p = 1-q, larger budgets need p > 1, as in the released code.
    Anytime: every image has its own budget and gets the answer of the last classifier within it.

Skipped
    All layers and classifiers after the exit, and finer maps that no classifier up to the exit needs.

Trained otherwise
    As long as all rows of the image tracks, but by SGD with momentum at rate 0.1, as the paper trains this network,
    which differs from that of the other rows.

Deviations
    1. Fashion-MNIST (28×28, one channel) instead of CIFAR and ImageNet, which no package ships.
    2. 4 classifiers at layers 1, 3, 6, 10 instead of 5 to 7 up to layer 28; C0 = 8, g = 4, 64 channels in classifiers
       instead of 16, 6, 128; the first convolution has stride 2, so that maps have 14, 7 and 4 pixels a side. 6,000
       images and 2 epochs instead of 300, to save time; later classifiers would need more to show their benefit.
    3. The learning rate rises, then falls linearly to 0, instead of falling tenfold at half and three quarters of the
       training; gradients are clipped at norm 1; no shifts and flips of the images.
    4. One network serves both variants, with increasing distances between its classifiers, as in the paper's network
       for budgets. For anytime prediction it spaces them evenly (from layer 4, every 2).
    5. The released op counter ignores lazy evaluation and counts ReLU, pooling and biases; here the MACs that really
       ran are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.base import Policy, softmax
from eelit.methods.policies.budgeted_thresholds import exit_shares, ratio_within, thresholds_for
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.joint import train_joint


@dataclass(frozen=True)
class Architecture:
    """The shape of a network: which layers carry classifiers, which scales live how long, and how wide maps are.

    In code scales are numbered from 0, the finest; layer 0 makes one map per scale, layers 1 … L grow them.
    """

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
        """Number of scales S, one for each factor."""
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


class DenseLayer(nn.Module):
    """One map of one layer: the map so far, joined by what is new from the finer map (if any) and from itself."""

    def __init__(self, layout: Architecture, layer: int, scale: int) -> None:
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

    def __init__(self, layout: Architecture, inputs: int) -> None:
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


class MultiScaleStage(nn.Module):
    """The layers between two classifiers. The state is a list of maps, from fine to coarse.

    Each scale advances from the depth where the classifier before left it to the one that this classifier needs. A
    finer map is advanced first and all its depths are kept meanwhile, because the coarser map reads them one by one. A
    scale leaves the state when nothing reads it any more.
    """

    def __init__(self, layout: Architecture, classifier: int, inputs: int) -> None:
        super().__init__()
        scales = range(layout.scales)
        self.first = FirstLayer(layout, inputs) if classifier == 0 else None
        self.start = [layout.depth(classifier - 1, s) if classifier else 0 for s in scales]
        stop = [layout.depth(classifier, s) for s in scales]
        self.entering = [s for s in scales if self.first or _read(layout, self.start, s)]
        self.leaving = [s for s in scales if _read(layout, stop, s)]
        self.cells = nn.ModuleList(
            nn.ModuleList(DenseLayer(layout, layer, s) for layer in range(self.start[s] + 1, stop[s] + 1))
            for s in scales
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


def _read(layout: Architecture, depths: Sequence[int], scale: int) -> bool:
    """Whether a map is still read when the scales have these depths: by its next layer or by the coarser scale's."""
    return scale == layout.scales - 1 or depths[scale + 1] <= layout.last[scale]


class Classifier(nn.Module):
    """Two 3×3 convolutions with stride 2 on the coarsest map, mean, linear layer."""

    def __init__(self, inputs: int, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(convolution(inputs, channels, 3, 2), convolution(channels, channels, 3, 2))
        self.linear = nn.Linear(channels, classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, state: list[Tensor]) -> Tensor:
        """Return logits ``[N, classes]``."""
        return self.linear(self.features(state[-1]).mean(dim=(2, 3)))


def msdnet(layout: Architecture, *, inputs: int, classes: int, seed: int) -> MultiExit:
    """Return an untrained MSDNet for images with ``inputs`` channels."""
    torch.manual_seed(seed)
    stages = [MultiScaleStage(layout, k, inputs) for k in range(layout.exits)]
    widths = [layout.widths[layer] * layout.factors[-1] for layer in layout.classifiers]
    return MultiExit(stages, [Classifier(width, layout.head, classes) for width in widths]).eval()


class HeldOut(NamedTuple):
    """What the classifiers say on held-out images, and what they cost."""

    confidence: NDArray[np.float64]  # [K, N], the largest probability
    costs: NDArray[np.float64]  # [K], C_k


SMALL = Architecture(exits=4, stride=2, channels=8, growth=4, head=64)
TINY = Architecture(exits=3, channels=4, growth=4, factors=(1, 2), head=16)


@dataclass(frozen=True)
class MSDNet(ExitMethod):
    """Multi-scale dense network with thresholds solved for a budget."""

    prediction: str = "budgeted"  # budgeted: the batch shares the budget; anytime: every image has it
    images: str = "fashion-mnist"  # data; the paper: CIFAR-10, CIFAR-100, ImageNet
    train_size: int = 6000  # training images; the paper: 45,000 of CIFAR
    epochs: float = 2.0  # passes over them; the paper: 300
    batch: int = 32  # the paper: 64
    rate: float = 0.1  # largest learning rate of SGD; the paper: 0.1
    layout: Architecture = SMALL  # the network; the paper for batches: 5 to 7 classifiers, C0 = 16, g = 6, stride 1

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    fits_on: ClassVar[float] = 0.5  # of the validation images: thresholds; budgets are judged on the others
    knob: ClassVar[str] = "budget"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"budgeted": {}, "anytime": {"prediction": "anytime"}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits",
        "train_size": 600,
        "layout": TINY,
        "epochs": 4.0,
        "batch": 64,
    }
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 2000, "epochs": 2.0}
    others: ClassVar[Mapping[str, Any]] = {"layout": replace(TINY, growth=6)}
    full: ClassVar[Mapping[str, Any]] = {"train_size": 50000, "epochs": 15.0, "layout": Architecture()}

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network with its classifiers."""
        return msdnet(self.layout, inputs=data.train.inputs[0].shape[0], classes=data.classes or 1, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Joint training, all classifiers weighing alike."""
        sgd = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
        train_joint(
            model, data, bench, weights=[1.0] * model.exits, epochs=self.epochs, batch=self.batch, rate=self.rate,
            optimiser=torch.optim.SGD, options=sgd,
        )  # fmt: skip

    def fit(self, prepared: Prepared) -> HeldOut:
        """What thresholds follow from, whatever the budget; all images have the same size, so one tells the costs."""
        held = prepared.split("fitting")
        return HeldOut(softmax(held.outputs).amax(dim=-1).numpy(), held.costs[:, 0])

    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """Thresholds whose mean cost on held-out images is the budget, or the exit that the budget reaches."""
        held: HeldOut = prepared.fitted
        budget = knob * held.costs[-1]
        if self.prediction == "anytime":
            return FixedExit(max(0, int(np.searchsorted(held.costs, budget, side="right")) - 1))
        if budget <= held.costs[0]:
            return MaxConfidence(0.0)
        shares = exit_shares(ratio_within(budget, held.costs), len(held.costs))
        return MaxConfidence(thresholds_for(held.confidence, shares))
