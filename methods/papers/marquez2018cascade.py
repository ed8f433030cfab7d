"""Deep Cascade Learning (DCL).

Idea
    Grow a deep network layer by layer: put a small classifier on top of a new layer, train these two alone, freeze the
    layer, and put the next one on it. The trained layer is always next to the output, so gradients cannot vanish,
    little memory is needed, and every layer learns to separate the classes. Each stage yields a trained classifier; if
    these are kept, the network has an exit after every layer.

Model
    Layers F_1 … F_n of a plain network: convolutions with batch normalisation and ReLU, with the max-pooling that
    stands before some of them. Output block O_i on each, of the same form everywhere:
    means over 4×4 places, dropout, linear (m), ReLU, dropout, linear (m / 2), ReLU, linear (classes).
    The full model is O_n F_n … F_1.

Training
    D_0 are the training images. For i = 1 … n:
    minimise CE(O_i(F_i(d)), y) over F_i and O_i alone, d in D_{i-1}, for E_1 + g (i - 1) passes, the learning rate at
    its start again; then freeze F_i and O_i, and D_i = F_i(D_{i-1}), computed once, in evaluation mode.

Exit rule
    The paper has none. Here: stop at the first exit with max softmax(O_i) >= tau; the last one always answers.

Skipped
    All layers after the exit, with their output blocks. The paper skips nothing: it discards O_1 … O_{n-1}.

Trained otherwise
    Each layer is trained for the epochs that all rows have, while no other layer is trained: that is what the paper is
    about.

Deviations
    1. The exit rule, and exits that stay, are ours: the paper is about training.
    2. Cluttered Fashion-MNIST, 6,000 images, and a plain network of six convolutions of 128 and 256 channels, instead
       of networks of VGG's kind (six and more from 128 channels on) and the All CNN on CIFAR-10 and CIFAR-100. Its
       first convolution sees 4×4 pixels at a time; batch normalisation, which their networks do not have, makes few
       passes sufficient. Max-pooling opens the next layer, as in the other rows; in the released code it ends the layer
       before.
    3. E_1 = 2 and g = 0 instead of 10 passes and 10 more for each stage; the released code also drops the rate tenfold
       when validation accuracy stagnates, and ends a stage after the fourth drop or at 99 % on training images.
    4. AdamW with a rate that rises and falls to 0 in each stage, instead of SGD with momentum and L2 penalties.
    5. Output blocks read means over 4×4 places. Theirs read all places, and have more weights than the network.
    6. Images are neither whitened nor augmented at random, so D_i need not be recomputed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import Shape, places
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of, evaluating
from eelit.methods.engine.timing import BATCH
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.base import checked
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.fit import Batch, fit

SIDE = 4
"""Most places down and across that an output block reads of a map."""


class OutputBlock(nn.Sequential):
    """O_i for maps of a shape: two hidden layers of m and m / 2 units."""

    def __init__(self, shape: Shape, classes: int, m: int, dropout: float) -> None:
        down, across = places(shape, SIDE)
        super().__init__(
            nn.AdaptiveAvgPool2d((down, across)),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(shape[0] * down * across, m),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(m, m // 2),
            nn.ReLU(),
            nn.Linear(m // 2, classes),
        )


@torch.no_grad()
def through(F_i: nn.Module, D: Examples) -> Examples:
    """Return ``F_i(D)`` in evaluation mode, in the order of D, in the host's memory."""
    found: list[Tensor] = [torch.empty(0)] * len(D)
    with evaluating(F_i):
        for index, d in D.batches(BATCH, device=device_of(F_i)):
            for i, state in zip(index.tolist(), F_i(d).cpu(), strict=True):
                found[i] = state
    return Examples(found, D.targets)


def train_cascade(model: MultiExit, data: Data, bench: Bench, *, E_1: float, g: float, **options: Any) -> None:
    """Train the layers one after the other, each with its output block; ``options`` are those of `fit`."""

    def train() -> None:
        D = data.train
        for i, (F_i, O_i) in enumerate(zip(model.stages, model.heads, strict=True)):
            new = nn.Sequential(F_i, O_i).train()

            def loss(batch: Batch, new: nn.Module = new) -> Tensor:
                return F.cross_entropy(new(batch.inputs), batch.targets)

            label = f"training layer {i + 1} of {model.exits} with its output block"
            fit(new.parameters(), D, loss, bench, label=label, epochs=E_1 + g * i, **options)
            new.eval()
            D = through(F_i, D) if i + 1 < model.exits else D

    settings = {"E_1": E_1, "g": g, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class DeepCascade(ImageMethod):
    """A network trained layer by layer, whose output blocks stay as exits."""

    network: str = "vgg"  # plain, or resnet, whose layers are residual blocks; the paper: plain, the All CNN
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100
    train_size: int = 6000  # training images; the paper: 45,000
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place; the paper: 1
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution; released code: 128, 256, 512
    blocks: int = 3  # convolutions of each width; released code: 3
    half: bool = True  # whether layers learn with products in bfloat16; the paper: float32
    units: int = 512  # m, of an output block's first layer; released code: 512, in other runs 64 and 256
    dropout: float = 0.5  # share of what linear layers of output blocks read that is left out; released code: 0.5
    epochs: float = 2.0  # E_1, passes that train the first layer; released code: 10
    growth: float = 0.0  # g, passes more for each further layer; released code: 10
    batch: int = 32  # images of a step; released code: 64, 128
    rate: float = 2e-3  # largest learning rate; released code: 0.01, of SGD

    shares: ClassVar[tuple[float, ...]] = ()  # type: ignore[misc]  # no setting: there is an exit after every layer
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.1)
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 600, "pixels": 2, "widths": (16,), "blocks": 3, "half": False, "units": 64,
        "epochs": 6.0, "batch": 32, "rate": 1e-2,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 1500, "pixels": 4, "widths": (16, 32), "blocks": 3, "half": False, "units": 128, "dropout": 0.2,
        "epochs": 6.0, "batch": 32, "rate": 5e-3,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {"network": "resnet", "widths": (8, 16, 16)}

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network with each of its layers as a stage, and an output block on each."""
        checked("DeepCascade", "units", self.units, whole=True, least=2)
        checked("DeepCascade", "growth", self.growth, least=0, finite=True)
        layers, classes = [*super().build(data, seed).stages[0]], data.classes or 1  # type: ignore[misc]
        torch.manual_seed(seed)
        heads, x = [], data.train.inputs[0][None]
        with torch.no_grad():
            for layer in layers:
                x = layer(x)
                heads.append(self.head(x.shape[1:], classes))
        return MultiExit(layers, heads).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def head(self, shape: Shape, classes: int) -> OutputBlock:
        """An output block for maps ``[C, H, W]``."""
        return OutputBlock(shape, classes, self.units, self.dropout)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the layers one after the other, each with its output block, on the frozen layers before it."""
        train_cascade(model, data, bench, E_1=self.epochs, g=self.growth, batch=self.batch, rate=self.rate)

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is tau."""
        return MaxConfidence(knob)
