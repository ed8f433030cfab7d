"""Runtime Configurable Deep Neural Networks for Energy-Accuracy Trade-off (incremental channels).

Idea
    A device with a low battery needs a smaller network, and cannot store several. So train a narrow one; then add
    channels to all layers, keep the trained weights fixed, and train the new ones; and so on. One set of weights then
    serves every width: with the later channels switched off, the earlier network is restored bit for bit.

Model
    Configurations s = 1 … S with n_l^s channels in layer l, rising with s. The weights of configuration s hold those of
    s - 1. New in step s: filters of the new channels, which read all n_(l-1)^s channels below; in the old filters the
    part that reads the new channels below; columns V^s of the last layer that read the new features. So
    z^s = W f_old + V^s f_new, with W the columns of all earlier steps; p^s = softmax(z^s).
    Variant `reused`: new channels do not feed old filters. Then old maps are the same in all configurations, and z^s =
    z^(s-1) + V^s f_new: only the new channels are computed when one configuration follows another.

Training
    Step 1: configuration 1, by the cross-entropy of z^1. Step s = 2 … S: the new weights alone, which start at random,
    by the cross-entropy of z^s; all others are fixed.

Exit rule
    A controller sets the width to meet a budget: each configuration by itself, the curve "static exit". For single
    images the score margin decides, p^s of the first class minus that of the second: stop at the first configuration
    with margin >= theta; configuration S always answers. 0 stops at the first, above 1 never.

Skipped
    The channels that only wider configurations have, in all layers; the depth is always the same. An image that goes on
    is recomputed from the first layer; in `reused`, only its new channels are computed.

Trained otherwise
    Each of the four steps lasts as long as the training of other rows: growing is what the paper is about.

Deviations
    1. Only the paper's abstract could be read and the beginning of its introduction. That later channels feed earlier
       filters is described by Slimmable Neural Networks (section 3.1), which tries the scheme; that images choose their
       width by the score margin is assumed, as it is the rule of the work with which the paper compares itself
       (big/LITTLE). The variant `reused` is not the paper's.
    2. Cluttered Fashion-MNIST, 6,000 images, and a plain network of four convolutions instead of MNIST, CIFAR-10 and
       SVHN with networks of that time; no batch normalisation, as was usual then. The number of configurations in the
       paper could not be read; here there are four, each with another quarter of the channels.
    3. How the paper trains could not be read. Here each step has 2 epochs of AdamW, whose learning rate rises, then
       falls to 0; gradients are clipped at norm 1. New weights start normal, with variance 2 / (inputs of a unit)
       (he2015delving); in the last layer with half of that.
    4. A bias belongs to its channel and stays with it; those of the last layer belong to step 1.
    5. Cost is multiply-accumulates, not the energy of a circuit.
    6. One theta serves all configurations, as there is one knob; each could have its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine import tasks
from eelit.methods.engine.cascade import Cascade
from eelit.methods.engine.examples import Data
from eelit.methods.engine.members import Network
from eelit.methods.engine.method import Bench, Method
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.cascades import CascadeMethod
from eelit.methods.families.exits import ExitMethod
from eelit.methods.policies.margin import Margin
from eelit.methods.recipes.fit import Batch, fit

Shape = Sequence[int]
"""Channels, height and width of one image."""


class Layer(NamedTuple):
    """One convolution, then ReLU, then perhaps pooling."""

    n: tuple[int, ...]  # channels in each configuration
    kernel: int
    stride: int
    pooled: bool  # whether the map is halved after it

    def convolved(self, x: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
        """Return what becomes of a map ``[N, C, H, W]``."""
        x = F.conv2d(x, filters, bias, self.stride, self.kernel // 2).relu_()
        return F.max_pool2d(x, 2, ceil_mode=True) if self.pooled else x


def layout(channels: Sequence[int], configurations: Sequence[float], pixels: int) -> list[Layer]:
    """Return the layers: 5×5, with a place behind it for each ``pixels × pixels``, then 3×3, every other one pooled.

    ``channels`` are those of a whole network, ``configurations`` shares of them. Raises `ValueError` unless these rise
    to at most 1, and for other ``pixels`` than 1, 2 and 4.
    """
    if pixels not in (1, 2, 4) or not all(a < b for a, b in pairwise([0.0, *configurations, 1.0 + 1e-9])):
        raise ValueError(f"shares rise to at most 1, and pixels are 1, 2 or 4, not {configurations} and {pixels}")
    first, *others = [tuple(max(1, round(share * n)) for share in configurations) for n in channels]
    return [
        Layer(first, 5, 2 if pixels == 4 else 1, pixels > 1),
        *(Layer(n, 3, 1, i % 2 == 1) for i, n in enumerate(others)),
    ]


def places(layers: Sequence[Layer], image: Shape) -> int:
    """Return how many places the last map has."""
    x = torch.zeros(1, 1, *image[1:])
    for layer in layers:
        x = layer.convolved(x, torch.zeros(1, 1, layer.kernel, layer.kernel), None)
    return x.numel()


def started(*shape: int, inputs: int, variance: float = 2.0) -> nn.Parameter:
    """Return new weights of units with so many inputs: normal, with a variance of so much by the inputs."""
    return nn.Parameter(torch.randn(*shape) * math.sqrt(variance / inputs))


class Growing(nn.Module):
    """A convolution in all configurations: the weights that each step adds."""

    def __init__(self, below: Sequence[int], layer: Layer) -> None:
        super().__init__()
        self.layer, k = layer, layer.kernel
        self.filters, self.biases, self.back = nn.ParameterList(), nn.ParameterList(), nn.ParameterDict()
        for s, (inputs, n) in enumerate(zip(below, layer.n, strict=True)):
            old, read = (layer.n[s - 1], below[s - 1]) if s else (0, inputs)
            self.filters.append(started(n - old, inputs, k, k, inputs=inputs * k * k))
            self.biases.append(nn.Parameter(torch.zeros(n - old)))
            if inputs > read:
                self.back[str(s)] = started(old, inputs - read, k, k, inputs=inputs * k * k)

    def new(self, s: int) -> list[nn.Parameter]:
        """Return the weights that step ``s``, from 0, adds."""
        return [self.filters[s], self.biases[s], *([self.back[str(s)]] if str(s) in self.back else [])]

    def weights(self, s: int) -> tuple[Tensor, Tensor]:
        """Return filters ``[n^s, inputs, k, k]`` and biases of a configuration."""
        found: Tensor = self.filters[0]
        for t in range(1, s + 1):
            if str(t) in self.back:
                found = torch.cat([found, self.back[str(t)]], dim=1)
            found = torch.cat([found, self.filters[t]])
        return found, torch.cat([*self.biases[: s + 1]])


class Growth(nn.Module):
    """A network in all configurations: one set of weights."""

    def __init__(self, image: Shape, classes: int, layers: Sequence[Layer]) -> None:
        super().__init__()
        below = [(image[0],) * len(layers[0].n), *(layer.n for layer in layers)]
        self.parts = nn.ModuleList(Growing(read, layer) for read, layer in zip(below, layers, strict=False))
        features = [n * places(layers, image) for n in layers[-1].n]
        self.columns = nn.ParameterList(
            started(classes, b - a, inputs=b, variance=1.0) for a, b in pairwise([0, *features])
        )
        self.bias = nn.Parameter(torch.zeros(classes))

    @property
    def layers(self) -> list[Growing]:
        """The convolutions that grow in width, in the order in which they are run."""
        return cast(list[Growing], [*self.parts])

    def new(self, s: int) -> list[nn.Parameter]:
        """Return the weights that step ``s``, from 0, adds."""
        return [*(p for growing in self.layers for p in growing.new(s)), self.columns[s], *([] if s else [self.bias])]

    def forward(self, x: Tensor, s: int) -> Tensor:
        """Return ``z`` ``[N, classes]`` of a configuration, from 0, computed from the first layer on."""
        for growing in self.layers:
            x = growing.layer.convolved(x, *growing.weights(s))
        return F.linear(x.flatten(1), torch.cat([*self.columns[: s + 1]], dim=1), self.bias)


class Configuration(nn.Module):
    """One configuration as a network of its own, made of the weights of all."""

    def __init__(self, growth: Growth, s: int) -> None:
        super().__init__()
        self.growth, self.s = growth, s

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, classes]``."""
        found: Tensor = self.growth(x, self.s)
        return found


@torch.no_grad()
def whole(growth: Growth) -> nn.Sequential:
    """Return the widest configuration as a plain network, its weights put together once and for all."""
    parts: list[nn.Module] = []
    for growing in growth.layers:
        layer, (filters, bias) = growing.layer, growing.weights(len(growing.layer.n) - 1)
        conv = nn.Conv2d(filters.shape[1], len(filters), layer.kernel, layer.stride, layer.kernel // 2)
        conv.weight.copy_(filters)
        cast(Tensor, conv.bias).copy_(bias)
        parts += [conv, nn.ReLU(inplace=True), *([nn.MaxPool2d(2, ceil_mode=True)] if layer.pooled else [])]
    columns = torch.cat([*growth.columns], dim=1)
    last = nn.Linear(columns.shape[1], len(columns))
    last.weight.copy_(columns)
    last.bias.copy_(growth.bias)
    return nn.Sequential(*parts, nn.Flatten(), last).eval()


class Leading(nn.Module):
    """One configuration, run on the leading channels of the widest one's weights, which are stored once for all."""

    def __init__(self, widest: nn.Sequential, layers: Sequence[Layer], s: int) -> None:
        super().__init__()
        self.widest, self.layers, self.s = widest, [*layers], s

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, classes]``; filters and columns are views."""
        convolutions = [part for part in self.widest if isinstance(part, nn.Conv2d)]
        for layer, conv in zip(self.layers, convolutions, strict=True):
            n = layer.n[self.s]
            x = layer.convolved(x, conv.weight[:n, : x.shape[1]], cast(Tensor, conv.bias)[:n])
        x, last = x.flatten(1), cast(nn.Linear, self.widest[-1])
        return F.linear(x, last.weight[:, : x.shape[1]], last.bias)


def growth_of(model: Cascade) -> Growth:
    """Return the one set of weights of all configurations."""
    return cast(Configuration, cast(Network, model.members[0]).network).growth


class Increment(nn.Module):
    """What one configuration adds to the one before, if new channels feed no old filters.

    The state holds the image, the maps of all layers so far, and ``z``.
    """

    def __init__(self, growth: Growth, s: int) -> None:
        super().__init__()
        self.layers = [growing.layer for growing in growth.layers]
        self.filters = nn.ParameterList(growing.filters[s] for growing in growth.layers)
        self.biases = nn.ParameterList(growing.biases[s] for growing in growth.layers)
        self.columns, self.bias = growth.columns[s], None if s else growth.bias

    def forward(self, state: Any) -> dict[str, Any]:
        """Map the images ``[N, C, H, W]``, or the state of the configuration before, to the state of this one."""
        x = image = state if isinstance(state, Tensor) else state["image"]
        maps, new = [], x
        for i, layer in enumerate(self.layers):
            new = layer.convolved(x, self.filters[i], self.biases[i])
            x = new if isinstance(state, Tensor) else torch.cat([state["maps"][i], new], dim=1)
            maps.append(x)
        z = F.linear(new.flatten(1), self.columns, self.bias)
        return {"image": image, "maps": maps, "z": z if isinstance(state, Tensor) else state["z"] + z}


class Score(nn.Module):
    """What a configuration answers, from the state that it leaves."""

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        """Return logits ``[N, classes]``."""
        return state["z"]


def train_new(
    whole: nn.Module, new: list[nn.Parameter], answer: Callable[[Tensor], Tensor], data: Data, bench: Bench, **how: Any
) -> None:
    """Minimise the cross-entropy of ``answer(images)`` over new weights, all others of ``whole`` fixed.

    ``how`` holds options of `fit` and the number of the ``step``.
    """

    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(answer(batch.inputs), batch.targets)

    def train() -> None:
        whole.train().requires_grad_(False)
        for p in new:
            p.requires_grad_(True)
        options = {name: value for name, value in how.items() if name != "step"}
        fit(new, data.train, loss, bench, label=f"training the weights of step {how['step']}", **options)
        whole.requires_grad_(True)

    trained(whole, train, bench, data=data.digest, settings={"train": len(data.train), **how})
    whole.eval()


class Widths:
    """What both forms have in common."""

    images: str
    train_size: int
    channels: tuple[int, ...]
    configurations: tuple[float, ...]
    pixels: int

    knob: ClassVar[str] = "score margin"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.1)
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 600, "channels": (16, 16, 16), "pixels": 1, "epochs": 4.0, "rate": 1e-2,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "images": "fashion-mnist", "train_size": 1500, "channels": (32, 48, 64), "rate": 5e-3,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        "channels": (16, 16, 24), "configurations": (0.25, 0.5, 1.0), "pixels": 2,
    }  # fmt: skip

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def grown(self, data: Data, seed: int) -> Growth:
        """Return the untrained weights of all configurations."""
        torch.manual_seed(seed)
        layers = layout(self.channels, self.configurations, self.pixels)
        return Growth(data.train.inputs[0].shape, data.classes or 1, layers)

    def policy(self, knob: float, prepared: Any) -> Margin:
        """The knob is theta."""
        return Margin(knob)


@dataclass(frozen=True)
class ReusedChannels(Widths, ExitMethod):
    """New channels feed no old filters: what a configuration has computed, the next one keeps."""

    images: str = "cluttered"  # data
    train_size: int = 6000  # training images
    channels: tuple[int, ...] = (64, 128, 128, 256)  # of the layers of the whole network
    configurations: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)  # shares of these channels
    pixels: int = 4  # side of the square of pixels that the second layer sees as one place
    epochs: float = 2.0  # of each step
    batch: int = 32  # images of a batch
    rate: float = 2e-3  # largest learning rate of each step

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)

    def build(self, data: Data, seed: int) -> MultiExit:
        """A stage for what each configuration adds, untrained."""
        growth, steps = self.grown(data, seed), range(len(self.configurations))
        return MultiExit([Increment(growth, s) for s in steps], [Score() for _ in steps])

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Step by step, the new weights alone."""
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        for s, stage in enumerate(model.stages):
            so_far = MultiExit(model.stages[: s + 1], model.heads[: s + 1])
            train_new(model, list(stage.parameters()), so_far.full, data, bench, step=s + 1, **options)


@dataclass(frozen=True)
class RuntimeConfigurable(Widths, CascadeMethod):
    """Configurations of growing width in one set of weights; each is computed from the first layer on."""

    images: str = "cluttered"  # data; the paper: MNIST, CIFAR-10, SVHN
    train_size: int = 6000  # training images; the paper: 50,000 and more
    channels: tuple[int, ...] = (64, 128, 128, 256)  # of the layers of the whole network; the paper: not read
    configurations: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)  # shares of these channels; the paper: not read
    pixels: int = 4  # side of the square of pixels that the second layer sees as one place
    epochs: float = 2.0  # of each step; the paper: not read
    batch: int = 32  # images of a batch; the paper: not read
    rate: float = 2e-3  # largest learning rate of each step; the paper: not read

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    variants: ClassVar[Mapping[str, Mapping[str, Any] | type[Method]]] = {"recomputed": {}, "reused": ReusedChannels}

    def build(self, data: Data, seed: int) -> Cascade:
        """All configurations of one set of weights, untrained."""
        growth = self.grown(data, seed)
        return Cascade(Network(Configuration(growth, s)) for s in range(len(self.configurations)))

    def train(self, model: Cascade, data: Data, bench: Bench) -> None:
        """Step by step, the new weights alone."""
        growth = growth_of(model)
        for s, member in enumerate(model.members):
            train_new(growth, growth.new(s), member, data, bench, step=s + 1, **self.options)

    def deployed(self, model: Cascade) -> Cascade:
        """One plain network, of which each configuration runs the leading channels: nothing is put together there."""
        growth = growth_of(model)
        widest, layers = whole(growth), [growing.layer for growing in growth.layers]
        return Cascade(Network(Leading(widest, layers, s)) for s in range(len(model))).eval()
