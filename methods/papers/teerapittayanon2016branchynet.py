"""BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks (BranchyNet).

Idea
    Most images are easy: the features of the first layers are enough for them. Attach small branches to a trained
    network, train everything together, and let an image leave at the first branch that is confident enough. Branches
    also regularise the trunk.

Model
    A trunk with side branches at chosen places, each with some layers and a softmax of its own; exits n = 1 … N, the
    last being the trunk's. B-LeNet: LeNet-5 (3 convolutions, 2 linear layers) with one branch (1 convolution, 1 linear
    layer) after the first convolution. B-AlexNet: AlexNet for small images (5 convolutions, 3 linear layers) with
    branches after the first convolution (2 convolutions, 1 linear layer) and the second (1 and 1).

Training
    First the plain trunk alone; then, starting from its weights, everything together (section III-B):
    L = sum_n w_n * L_n, with L_n the cross-entropy of exit n. Early branches weigh more than the last exit.

Exit rule
    e_n = -sum_c p_c ln p_c for the softmax p of exit n.  Stop at the first exit with e_n < T_n (strictly); the last
    exit always answers. The knob is a share of held-out images: T_n is the entropy that this share of them stays below
    at branch n, as in the released code. (The paper screens a grid of T, one per branch: see the claims.)

Skipped
    Trunk and branches after the exit. The trunk up to it is computed once for all exits.

Trained otherwise
    On the image tracks the trunk is trained alone for as long as in all rows, then all exits together for as long
    again: the paper begins with a trained trunk. By Adam without weight decay, as the paper has it.

Deviations
    1. Fashion-MNIST (28×28, harder) instead of MNIST and CIFAR-10, which no package ships.
    2. 6,000 training images; the trunk sees them twice, then all exits together twice, instead of 50 and 100 times:
       what one core can train in a minute. B-AlexNet can be chosen (half the channels) but has no curve: in this time
       its trunk learns too little to say anything about branches. No B-ResNet.
    3. Batches of 64 instead of 512, the learning rate rising to 0.002 and falling to 0 instead of constant 0.001,
       gradients clipped at norm 1, since there are few epochs.
    4. Loss weights 1 for branches and 0.3 for the last exit, which the paper found best on a smaller B-AlexNet; the
       released code weights all equally. The paper's factor 1/|C| on each loss is left out, as in the code.
    5. The last exit starts from the trained trunk's weights, as the paper says. The released code re-initialises its
       linear layer.
    6. Branches sit where the paper says. The released B-AlexNet has them one convolution later.
    7. The released percentile search looks at training images in training mode; here at held-out ones. Its option
       to train deeper exits on uncertain images only (off by default) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.base import entropy
from eelit.methods.policies.entropy import Entropy, percentile_thresholds
from eelit.methods.recipes.joint import train_joint
from eelit.methods.recipes.plain import train_plain

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


NETWORKS: Mapping[str, Callable[..., MultiExit]] = {
    "lenet": branchy_lenet, "alexnet": partial(branchy_alexnet, width=0.5),
}  # fmt: skip


@dataclass(frozen=True)
class BranchyNet(ExitMethod):
    """Side branches, joint training, entropy thresholds."""

    network: str = "lenet"  # lenet (as released), or alexnet (half the channels; wants more epochs)
    images: str = "fashion-mnist"  # data; the paper: MNIST (LeNet), CIFAR-10 (AlexNet)
    train_size: int = 6000  # training images; the paper: 60,000 and 50,000
    trunk_epochs: float = 2.0  # passes that train the plain trunk; the released script: 50
    epochs: float = 2.0  # passes that train all exits together; the released script: 100
    batch: int = 32  # the released script: 512
    rate: float = 2e-3  # largest learning rate of Adam; the paper: 0.001
    branch_weight: float = 1.0  # w_n of every branch; the paper: 1.0 (section V-A)
    last_weight: float = 0.3  # w_N of the last exit; the paper: 0.3 there, the released code 1.0

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    fits_on: ClassVar[float] = 0.5  # of the validation images: thresholds; shares are judged on the others
    knob: ClassVar[str] = "share"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
    tiny: ClassVar[Mapping[str, Any]] = {"images": "digits", "train_size": 600, "batch": 16, "rate": 5e-3}
    others: ClassVar[Mapping[str, Any]] = {"network": "alexnet"}
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 2000}
    full: ClassVar[Mapping[str, Any]] = {"train_size": 50000, "trunk_epochs": 10.0, "epochs": 20.0}

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def build(self, data: Data, seed: int) -> MultiExit:
        """The trunk with its branches."""
        return NETWORKS[self.network](data.train.inputs[0].shape, data.classes or 1, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the trunk, then everything together: L = sum_n w_n * L_n."""
        self.train_trunk(model, data, bench)
        w = [self.branch_weight] * (model.exits - 1) + [self.last_weight]
        train_joint(model, data, bench, weights=w, epochs=self.epochs, **self.adam)

    def train_trunk(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The plain trunk alone: the loss of its last exit."""
        train_plain(model, data, bench, epochs=self.trunk_epochs, **self.adam)

    @property
    def adam(self) -> dict[str, Any]:
        """Options of `fit`; the decay rates are the paper's."""
        betas = {"betas": (0.99, 0.999)}
        return {"batch": self.batch, "rate": self.rate, "optimiser": torch.optim.Adam, "options": betas}

    def fit(self, prepared: Prepared) -> Tensor:
        """The entropies ``[N - 1, images]`` of the branches on held-out images."""
        return entropy(prepared.split("fitting").outputs[:-1])

    def policy(self, knob: float, prepared: Prepared) -> Entropy:
        """T_n: one threshold per branch."""
        return Entropy(percentile_thresholds(prepared.fitted.numpy(), knob))
