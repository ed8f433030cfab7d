"""Going Deeper with Convolutions (GoogLeNet).

Idea
    A network of 22 layers is hard to train from its end alone: little gradient reaches the first layers. So attach two
    small classifiers halfway, add their losses with a lower weight during training, and then remove them. Inception
    modules, which process several scales in parallel after cheap 1×1 convolutions, make the depth affordable. The heads
    are the predecessors of side branches that later networks keep. This paper keeps none, and has no exits.

Model
    Inception module (n1, r3, n3, r5, n5, pp): channels of conv1(x), conv3(conv1(x)), conv5(conv1(x)) and
    conv1(maxpool3(x)) side by side, n1 + n3 + n5 + pp of them, the 1×1 convolutions before 3×3 and 5×5 having r3 and r5
    channels. ReLU after each convolution, no batch normalisation. Modules 3a 3b | 4a … 4e | 5a 5b, the map halved at
    each bar; then mean over the map, dropout of 40 %, linear layer.
    Auxiliary head, after 4a and 4d: means over windows to 4×4 places, conv1 of 128 channels, linear layer of 1024
    units, dropout of 70 %, linear layer.

Training
    Everything together:  L = CE_main + 0.3 CE_4a + 0.3 CE_4d.

Exit rule
    The paper has none: every image passes through the whole network, and the heads are dropped. Here they stay as
    exits, to show how accurate they are: stop at the first with max softmax >= threshold; else the main classifier
    answers.

Skipped
    In the paper nothing. Here the modules after the exit, with their head.

Deviations
    1. The exits: an extension, for context. The plain network, to which speed-ups relate, is the paper's: no heads.
    2. Cluttered Fashion-MNIST (48×48, one channel), 6,000 images, 2 epochs, instead of ImageNet (224×224); a quarter of
       the channels, in the stem and in the heads too. Modules 3a and 3b see a place for each 4×4 pixels instead of 8×8:
       the stem does not pool before them. No crops and no photometric distortions. This is what two cores can train.
    3. AdamW, whose learning rate rises, then falls linearly to 0, gradients clipped at norm 1, instead of momentum 0.9
       and a rate that falls by 4 % every 8 epochs. The last weights answer, not their mean over the training (Polyak).
    4. Weights start normal with variance 2 / (inputs of a unit) (he2015delving). With the smaller ones of the public
       replication (Xavier's, biases of 0.2) the network learned nothing here in an earlier trial of 3 epochs, one more
       than now.
    5. The heads' windows grow with the map: 5 with stride 3 on 14×14 as in the paper, 3 with stride 1 on 6×6. At this
       size the modules before the first head, and that head, take half of the whole network's cost: as a way to save,
       the curve has next to no room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.joint import train_joint

Shape = Sequence[int]
"""Channels, height and width of one image or feature map."""
MODULES: Mapping[str, tuple[int, ...]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Inception module → n1, r3, n3, r5, n5, pp."""
HALVED = ("4a", "5a")
"""Modules before which the map is halved."""
HEADED = ("4a", "4d")
"""Modules behind which an auxiliary head stands."""
STEM, HEAD = (64, 64, 192), (128, 1024)
"""Channels of the three convolutions before the modules; channels and units of an auxiliary head."""
PLACES = 4
"""Places down and across that an auxiliary head reads."""


def convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size (but for the stride), then ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.ReLU(inplace=True))


def halving() -> nn.MaxPool2d:
    """Return the pooling between groups of modules; an odd border is kept."""
    return nn.MaxPool2d(3, 2, padding=1)


class Inception(nn.Module):
    """Four looks at one map, side by side."""

    def __init__(self, inputs: int, n1: int, r3: int, n3: int, r5: int, n5: int, pp: int) -> None:
        super().__init__()
        self.outputs = n1 + n3 + n5 + pp
        self.branches = nn.ModuleList(
            [
                convolution(inputs, n1),
                nn.Sequential(convolution(inputs, r3), convolution(r3, n3, 3)),
                nn.Sequential(convolution(inputs, r5), convolution(r5, n5, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, padding=1), convolution(inputs, pp)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, n1 + n3 + n5 + pp, H, W]``."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def windows(side: int) -> tuple[int, int, int]:
    """Return side and stride of the windows of an auxiliary head on a map of so many places, and how many there are."""
    stride = max(1, (side - 2) // PLACES)
    window = max(1, side - (PLACES - 1) * stride)
    return window, stride, (side - window) // stride + 1


def auxiliary(shape: Shape, classes: int, channels: int, units: int) -> nn.Sequential:
    """Return an auxiliary head for square maps ``[C, H, H]``."""
    window, stride, places = windows(shape[1])
    return nn.Sequential(
        nn.AvgPool2d(window, stride),
        convolution(shape[0], channels),
        nn.Flatten(),
        nn.Linear(channels * places * places, units),
        nn.ReLU(inplace=True),
        nn.Dropout(0.7),
        nn.Linear(units, classes),
    )


def stem(inputs: int, widths: Sequence[int], pixels: int) -> list[nn.Module]:
    """Return what comes before the modules, which see a place for each ``pixels × pixels``: 8 in the paper, 4, 2 or 1.

    Raises `ValueError` for any other number.
    """
    if pixels not in (1, 2, 4, 8):
        raise ValueError(f"the modules see a place for each 1, 2, 4 or 8 pixels, not {pixels}")
    first, second, third = widths
    pools = [[halving()] if pixels >= needed else [] for needed in (4, 8)]
    return [
        *(convolution(inputs, first, 7, 2 if pixels > 1 else 1), *pools[0], nn.LocalResponseNorm(5)),
        *(convolution(first, second), convolution(second, third, 3), nn.LocalResponseNorm(5), *pools[1]),
    ]


def googlenet(
    image: Shape, classes: int, *, modules: Sequence[str], fraction: float, pixels: int, seed: int
) -> MultiExit:
    """Return GoogLeNet with a ``fraction`` of its channels: three stages, of which two end in 4a and 4d."""
    torch.manual_seed(seed)

    def scaled(numbers: Sequence[int]) -> list[int]:
        return [max(1, round(fraction * n)) for n in numbers]

    layers, width, stages = stem(image[0], scaled(STEM), pixels), scaled(STEM)[-1], []
    for name in modules:
        module = Inception(width, *scaled(MODULES[name]))
        layers += [*([halving()] if name in HALVED else []), module]
        width = module.outputs
        if name in HEADED:
            stages.append(nn.Sequential(*layers))
            layers = []
    stages.append(nn.Sequential(*layers))
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(width, classes))
    heads, x = [], torch.zeros(1, *image)
    with torch.no_grad():
        for stage in stages[:-1]:
            x = stage(x)
            heads.append(auxiliary(x.shape[1:], classes, *scaled(HEAD)))
    return MultiExit(stages, [*heads, last]).eval()


@dataclass(frozen=True)
class GoogLeNet(ExitMethod):
    """Auxiliary heads that help a deep network to learn; here they stay, for once, and answer when they are sure."""

    discounts: tuple[float, float] = (0.3, 0.3)  # of the losses behind 4a and 4d; the paper: 0.3; 0: no such head
    images: str = "cluttered"  # data; the paper: ImageNet
    train_size: int = 6000  # training images; the paper: 1.2 million
    modules: tuple[str, ...] = tuple(MODULES)  # from 3a to 5b; the paper: all nine
    fraction: float = 0.25  # of the paper's channels
    pixels: int = 4  # side of the square of pixels that the first module sees as one place; the paper: 8
    epochs: float = 2.0  # passes over the images; the replication: about 250
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate of AdamW; the paper: another one of SGD

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.1)
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 600, "modules": ("3a", "4a", "4d", "5b"), "fraction": 0.15, "pixels": 2,
        "epochs": 6.0, "rate": 5e-3,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {"images": "fashion-mnist", "train_size": 1000, "fraction": 0.125}
    others: ClassVar[Mapping[str, Any]] = {
        "discounts": (0.3, 0.0), "modules": ("3a", "3b", "4a", "4d", "5b"), "pixels": 1,
    }  # fmt: skip

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def build(self, data: Data, seed: int) -> MultiExit:
        """The trunk with its two auxiliary heads; channels lie last in memory, which halves the time of training."""
        image, classes = data.train.inputs[0].shape, data.classes or 1
        layout: dict[str, Any] = {"modules": self.modules, "fraction": self.fraction, "pixels": self.pixels}
        model = googlenet(image, classes, **layout, seed=seed)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Everything together, auxiliary losses at a discount."""
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        train_joint(model, data, bench, weights=[*self.discounts, 1.0], **options)

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is the threshold of an exit rule that the paper does not have."""
        return MaxConfidence(knob)
