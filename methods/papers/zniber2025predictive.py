"""Early Exiting Predictive Coding Neural Networks for Edge AI (EE-PCN).

Idea
    A small device lacks memory, not time. So run a few layers repeatedly instead of many layers once: each layer
    predicts the layer below it, errors of these predictions go up, and every cycle improves the representation of the
    image. With a classifier at the end of every cycle, easy images can leave after the first sweep.

Model
    Levels r_0 (the image) to r_L (channels × places). C_l, a convolution up to level l, and D_l, a transposed one back
    down to l-1; where a level has half the places, C_l is followed by 2×2 max-pooling, and D_l comes after bilinear
    upsampling. Rates a_l and b_l, one per channel, start at 1 and 1/2 and are kept from below 0 by a ReLU.
    First sweep:      r_l = relu(C_l r_{l-1}),  l = 1 … L.
    Cycle 1 … T:      down, l = L … 2:  p_{l-1} = D_l r_l,  r_{l-1} <- relu((1 - b_{l-1}) r_{l-1} + b_{l-1} p_{l-1}),
                      from the r_l that this cycle has made; the image stays, p_0 = D_1 r_1;
                      up, l = 1 … L:    r_l <- relu(r_l + a_l C_l (r_{l-1} - p_{l-1})), from the new r_{l-1} again.
    All cycles share C, D, a and b. z_t = a linear layer of its own on the mean of r_L over places, t = 0 … T.

Training
    Everything together, through all cycles: L = sum_t CE(z_t, y). Variant distilled: a deep network is trained first,
    and L = sum_t [CE(z_t, y) + lam tau^2 KL(softmax(z / tau) || softmax(z_t / tau))] with z its answer, held fixed.

Exit rule
    Stop after the first sweep or cycle with max softmax(z_t) >= theta, one theta for all, else after cycle T. theta = 0
    stops after the first sweep, theta > 1 never.

Skipped
    The remaining cycles.

Trained otherwise
    "distilled": the deep network is trained first, for as many epochs as all rows have, because the network in cycles
    learns from its outputs.

Deviations
    1. Only parts of the paper's text could be read: a shallow network with a path up and a path down halts when it is
       confident, and a later version is trained by distillation. The paper derives its own cycling rules; those here
       are of the network that it builds on, checked against its released code. Heads, weights of the losses, teacher
       and exit test are the usual choices.
    2. Four levels of 48 and 96 channels and four cycles, on cluttered Fashion-MNIST, 6,000 images, 2 epochs, instead of
       CIFAR-10: what two cores can train in minutes. The first level has a place for each 4×4 pixels. The network that
       the paper builds on has eight levels of 64 to 256 channels, one for each pixel, and six cycles.
    3. AdamW, whose learning rate rises and then falls linearly to 0, instead of SGD whose rate falls tenfold; gradients
       are clipped at norm 1; the rates a and b decay like all weights; images are not randomly shifted or flipped. C
       starts with a variance of 2 over its inputs, which keeps the signal of the first sweep; D starts as in that code.
    4. Bilinear upsampling is two products with small matrices, which are counted: a hundredth of a cycle at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.half_precision import LearnsInHalf
from eelit.methods.backbones.vgg import plain_exits
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.exit_outputs import all_outputs
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.base import checked
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.distillation import divergence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses
from eelit.methods.recipes.plain import train_plain

Levels = list[Tensor]
"""``r_0 … r_L``, each ``[N, channels, H, W]``."""


def bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps ``[N, C, H, W]`` scaled up to a size, by products that are counted like all others."""
    weights = []
    for to, given in zip(size, x.shape[2:], strict=True):
        at = ((torch.arange(to, device=x.device) + 0.5) * given / to - 0.5).clamp(0, given - 1)
        weights.append((1 - (at[:, None] - torch.arange(given, device=x.device)).abs()).clamp(min=0))
    return weights[0] @ x @ weights[1].T


class Link(nn.Module):
    """The way from level l-1 up to level l, C_l, and the way down, D_l."""

    def __init__(self, below: int, above: int, pixels: int, *, halves: bool, half: bool) -> None:
        super().__init__()
        kernel, padding = (3, 1) if pixels == 1 else (pixels, 0)
        C = nn.Conv2d(below, above, kernel, stride=pixels, padding=padding, bias=False)
        D = nn.ConvTranspose2d(above, below, kernel, stride=pixels, padding=padding, bias=False)
        nn.init.kaiming_normal_(C.weight, nonlinearity="relu")  # D starts smaller, or else cycles overshoot
        self.C: nn.Module = LearnsInHalf(C) if half else C
        self.D: nn.Module = LearnsInHalf(D) if half else D
        self.halves = halves

    def up(self, x: Tensor) -> Tensor:
        """Map what is at level l-1 to level l."""
        found: Tensor = self.C(x)
        return F.max_pool2d(found, 2) if self.halves else found

    def down(self, r: Tensor, below: Tensor) -> Tensor:
        """Return p_{l-1}, as large as what is ``below``, from r_l."""
        found: Tensor = self.D(bilinear(r, below.shape[2:]) if self.halves else r)
        return found


def rates(value: float, widths: Iterable[int]) -> nn.ParameterList:
    """Return a rate for each channel of some levels."""
    return nn.ParameterList([nn.Parameter(torch.full((1, width, 1, 1), value)) for width in widths])


class PredictiveCoding(nn.Module):
    """The levels of one network, whose weights serve the first sweep and all cycles."""

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, pixels: int, *, half: bool) -> None:
        super().__init__()
        sizes = [channels, *(width for width in widths for _ in range(blocks))]
        links = [
            Link(below, above, 1 if i else pixels, halves=i > 0 and i % blocks == 0, half=half)
            for i, (below, above) in enumerate(pairwise(sizes))
        ]
        self.links = nn.ModuleList(links)
        self.a, self.b = rates(1.0, sizes[1:]), rates(0.5, sizes[1:-1])  # nothing predicts the last level
        self.width = sizes[-1]

    def sweep(self, x: Tensor) -> Levels:
        """Return all levels as the image gives them."""
        r = [x]
        for link in cast(list[Link], list(self.links)):
            r.append(link.up(r[-1]).relu())
        return r

    def back(self, r: Levels) -> tuple[Levels, Levels]:
        """Return all levels after the way down of a cycle, and ``p_0 … p_{L-1}``, then r_L, which nothing predicts."""
        links, r, p = cast(list[Link], list(self.links)), [*r], [*r]
        for i in range(len(links), 0, -1):  # between levels i-1 and i lies links[i - 1]
            p[i - 1] = links[i - 1].down(r[i], r[i - 1])
            if i > 1:  # the image stays
                b = self.b[i - 2].relu()
                r[i - 1] = ((1 - b) * r[i - 1] + b * p[i - 1]).relu()
        return r, p

    def forth(self, r: Levels, p: Levels) -> Levels:
        """Return all levels after the way up, on which errors of predictions go."""
        links, r = cast(list[Link], list(self.links)), [*r]
        for i in range(1, len(links) + 1):
            r[i] = (r[i] + self.a[i - 1].relu() * links[i - 1].up(r[i - 1] - p[i - 1])).relu()
        return r

    def cycle(self, r: Levels) -> Levels:
        """Return all levels a cycle later."""
        return self.forth(*self.back(r))


class Sweep(nn.Module):
    """The first stage: an image to levels."""

    def __init__(self, network: PredictiveCoding) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Levels:
        """Map images to the representations of all levels by one sweep from below."""
        return self.network.sweep(x)


class Cycle(Sweep):
    """Every other stage: levels to better ones."""

    def forward(self, r: Levels) -> Levels:  # type: ignore[override]
        """Return the representations of all levels after one more cycle, down and up."""
        return self.network.cycle(r)


class Classifier(nn.Module):
    """The mean of the last level over places, then a linear layer."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, r: Levels) -> Tensor:
        """Return logits ``[N, classes]``."""
        found: Tensor = self.linear(r[-1].mean(dim=(2, 3)))
        return found


def train_cycles(
    model: MultiExit, teacher: MultiExit | None, data: Data, bench: Bench, *, lam: float, tau: float, **options: Any
) -> None:
    """Minimise L over everything, ``z`` the answers of a teacher if there is one; ``options`` are those of `fit`."""
    checked("train_cycles", "lam", lam, least=0, finite=True)

    def train() -> None:
        taught = None if teacher is None else all_outputs(teacher, data.train, bench, "what the teacher says")[-1]

        def loss(batch: Batch) -> Tensor:
            z = model(batch.inputs)
            found = exit_losses(z, batch.targets)
            if taught is not None:
                found = found + lam * divergence(z, taught[batch.index].to(z), tau)
            return found.sum()

        model.train()
        fit(model.parameters(), data.train, loss, bench, label="training through all cycles", **options)

    settings = {"lam": lam, "tau": tau, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class PredictiveCodingExits(ExitMethod):
    """A shallow network run in cycles, with an exit behind each."""

    distilled: bool = False  # whether a deep network teaches; the paper: in its later version
    lam: float = 1.0  # what its answers weigh beside labels; not known of the paper
    tau: float = 2.0  # their temperature; not known of the paper
    images: str = "cluttered"  # data; the paper: CIFAR-10
    train_size: int = 6000  # training images; the paper: 50,000 of CIFAR-10
    pixels: int = 4  # side of the square of pixels that the first level sees as one place
    widths: tuple[int, ...] = (48, 96)  # channels of each resolution
    blocks: int = 2  # levels of each width
    cycles: int = 4  # T; the network that the paper builds on: 6
    half: bool = True  # whether convolutions learn with products in bfloat16
    epochs: float = 2.0  # of either network
    batch: int = 32  # the network that the paper builds on: 128
    rate: float = 2e-3  # learning rate of AdamW; the network that the paper builds on: 0.01 of SGD
    teacher_widths: tuple[int, ...] = (128, 256)  # channels of the deep network, a plain one; the paper: VGG-16
    teacher_blocks: int = 3  # its convolutions of each width

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"labels": {}, "distilled": {"distilled": True}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 400, "pixels": 2, "widths": (8, 16), "blocks": 1, "cycles": 2, "half": False,
        "epochs": 6.0, "batch": 32, "rate": 1e-2, "teacher_widths": (8, 16), "teacher_blocks": 1,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "images": "fashion-mnist", "train_size": 1500, "widths": (16, 32), "cycles": 2, "half": False, "rate": 5e-3,
        "teacher_widths": (32, 64), "teacher_blocks": 2,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {"widths": (8, 8), "teacher_widths": (8, 8)}

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def build(self, data: Data, seed: int) -> MultiExit:
        """One network in as many stages as there are cycles, and the first sweep.

        Raises `ValueError` for cycles below 0, or for no level.
        """
        for name, least in (("cycles", 0), ("blocks", 1)):
            checked(type(self).__name__, name, getattr(self, name), whole=True, least=least)
        torch.manual_seed(seed)
        channels = data.train.inputs[0].shape[0]
        network = PredictiveCoding(channels, self.widths, self.blocks, self.pixels, half=self.half)
        heads = [Classifier(network.width, data.classes or 1) for _ in range(self.cycles + 1)]
        model = MultiExit([Sweep(network), *[Cycle(network)] * self.cycles], heads).eval()
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def teacher(self, data: Data, seed: int) -> MultiExit:
        """The deep network that teaches, untrained: plain convolutions without exits."""
        model = plain_exits(
            data.train.inputs[0].shape, data.classes or 1, widths=self.teacher_widths, blocks=self.teacher_blocks,
            shares=(), head=nn.Identity, seed=seed, pixels=self.pixels, half=self.half,
        )  # fmt: skip
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The teacher, if there is to be one, then all cycles together."""
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        teacher = None
        if self.distilled:
            teacher = self.teacher(data, bench.seed)
            train_plain(teacher, data, bench, **options)
        train_cycles(model, teacher, data, bench, lam=self.lam, tau=self.tau, **options)

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is theta."""
        return MaxConfidence(knob)
