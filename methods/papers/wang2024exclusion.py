"""Early-Exit with Class Exclusion for Efficient Inference of Neural Networks (EECE).

Idea
    A shallow layer may be unable to tell what an image shows and yet know well what it does not show. So heads with one
    sigmoid per class exclude unlikely classes layer by layer. Once a single class is left it is the answer; otherwise
    the last layer chooses among the remaining classes.

Model
    N heads at layers l = 0 … N-1: the mean over the map, then a linear layer: logits u_l, one score s_l = sigmoid(u_l)
    for each of C classes. The network's own last layer gives logits z.

Training
    Everything together, t the label as a one-hot vector:
    L = CE(z, y) + sum_{l=0}^{N-1} 1 / (N - l + 1) * BCE(u_l, t; c), the last head weighing 1/2, the first 1/(N+1). BCE
    is a mean over classes, in which the term of the true class counts c times, since it must not be excluded:
    c = 4 (C - 1).

Exit rule
    R = {all classes}. At head l, with m = max_c s_lc: the class of m is put back into R if it was excluded; then R <-
    {c in R: s_lc > beta_l m} (strictly). Stop when |R| = 1. After the last layer: argmax of z over R. The beta_l are
    searched on held-out images. All are 0 at first, which excludes nothing. Layer by layer, the one whose exit saves
    most first: raise beta_l from 0.01 in steps of 0.01 as long as accuracy stays above accuracy(all beta = 0) -
    tolerance, and keep the last that did, between 0.01 and 0.99. The tolerance is the knob: 1 stops at the first head
    (beta 1), below 0 nothing is excluded (beta 0).

Skipped
    All layers after the one where one class is left, with their heads.

Deviations
    1. A residual network on cluttered Fashion-MNIST, 6,000 images, two epochs of AdamW, instead of AlexNet, VGG-small
       and ResNet-50 on CIFAR, 50 to 200 epochs of SGD. Heads stand at shares of the cost, not after every layer.
    2. An exit saves all layers after it, so betas are searched from the first head to the last. The released search
       orders heads by the multiply-accumulates of the one layer before each.
    3. The last answer is the largest z among the remaining classes. The released search multiplies z with R, so that an
       excluded class, with 0, beats remaining ones below 0, and the released measurement of cost ignores R.
    4. Each image has its own R. The released search, in batches of 1,000, puts the best class of every image back into
       R of all of them, and so hardly remembers which classes were excluded.
    5. The released code hands c to the wrong argument of torch's loss, so that all terms of BCE count c times, and the
       true class no more than others. Here c is for the true class alone.
    6. The released search gives 0.98 where even 0.99 loses nothing, by rounding; here 0.99.
    7. The paper's tolerance is 0.001. All others are ours: they make a curve. Beside the rule that stops when it is
       sure, exclusion is judged at 0.001.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import Shape, places
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.class_exclusion import ClassExclusion
from eelit.methods.recipes.fit import fit

Betas = tuple[float, ...]
"""beta_l of each head."""
STEPS = 100
"""Steps between beta 0 and beta 1."""


def head_weights(N: int) -> list[float]:
    """Return ``1 / (N - l + 1)`` for the heads l = 0 … N-1: later ones weigh more."""
    return [1 / (N - layer + 1) for layer in range(N)]


def exclusion_loss(outputs: Tensor, y: Tensor, pos_weight: float) -> Tensor:
    """Return L from what all exits say, u_0 … u_{N-1} and z, ``[N + 1, n, C]``, and the classes ``y [n]``."""
    *u, z = outputs
    t, c = F.one_hot(y, z.shape[-1]).to(z.dtype), torch.full_like(z[0], pos_weight)
    struck = [F.binary_cross_entropy_with_logits(scores, t, pos_weight=c) for scores in u]
    return F.cross_entropy(z, y) + sum(w * loss for w, loss in zip(head_weights(len(u)), struck, strict=True))


def train_exclusion(model: MultiExit, data: Data, bench: Bench, *, pos_weight: float, **options: Any) -> None:
    """Minimise L over all parameters; ``options`` are those of `fit`."""

    def train() -> None:
        model.train()
        fit(
            model.parameters(), data.train,
            lambda batch: exclusion_loss(model(batch.inputs), batch.targets, pos_weight),
            bench, label="training network and exclusion heads together", **options,
        )  # fmt: skip

    settings = {"pos_weight": pos_weight, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


def searched(accuracy_of: Callable[[Betas], float], heads: int, tolerance: float) -> Betas:
    """Return the betas that are searched head by head, given what accuracy any betas reach on held-out images."""
    betas = [0.0] * heads
    least = accuracy_of(tuple(betas)) - tolerance
    for head in range(heads):
        for step in range(1, STEPS):
            betas[head] = step / STEPS
            if accuracy_of(tuple(betas)) <= least:
                betas[head] = max(step - 1, 1) / STEPS
                break
    return tuple(betas)


@dataclass(frozen=True)
class HeldOut:
    """What the exits say ``[N + 1, n, C]`` on the images on which betas are searched, and what was found out so far."""

    outputs: NDArray[np.float32]
    targets: NDArray[np.int64]
    reached: dict[Betas, float] = field(default_factory=dict, repr=False)

    def accuracy_of(self, betas: Betas) -> float:
        """Return the accuracy under these betas; tolerances have most of their search in common."""
        if betas not in self.reached:
            self.reached[betas] = float((self.told(ClassExclusion(betas)) == self.targets).mean())
        return self.reached[betas]

    def told(self, rule: ClassExclusion) -> NDArray[np.int64]:
        """Return the class that each image is told ``[n]``: as `answered` does, but faster, in numpy."""
        state, found = rule.start(), np.full(len(self.targets), -1)
        for i, output in enumerate(self.outputs):
            state, stop = rule.step(state, output)
            here = (found < 0) & (stop | (i == len(self.outputs) - 1))
            found[here] = rule.answer(state, output)[here].argmax(axis=-1)
        return found


@dataclass(frozen=True)
class ClassExclusionExits(ImageMethod):
    """Exclusion heads on a network, trained with it."""

    network: str = "resnet"  # resnet, or vgg with blocks = 4; the paper: AlexNet, VGG-small, ResNet-50
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100
    train_size: int = 6000  # training images; the paper: 40,000
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution; the paper's VGG-small: 128, 256, 512
    blocks: int = 3  # residual blocks, or plain convolutions, of each width; VGG-small: 2 convolutions
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where heads stand; the paper: every layer
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # passes over the training images; the paper: 200 (VGG-small)
    batch: int = 32  # the paper: 100
    rate: float = 2e-3  # largest learning rate; the paper: 0.02, by SGD (VGG-small)
    pos_weight: float = 36.0  # c; the paper: 36 for 10 classes, 396 for 100
    side: int = 1  # heads read the mean over side × side parts of the map; the paper: 1, in some networks 2

    fits_on: ClassVar[float] = 0.5  # of the validation images: betas; tolerances are judged on the others
    knob: ClassVar[str] = "tolerance"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.001, -1.0)
    exempt: ClassVar[Mapping[str, str]] = {
        "cost_is_monotone": "betas are searched anew for each tolerance: what an early head gives away, later ones lack"
    }

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """An exclusion head: the mean over the map, or over parts of it, and a linear layer."""
        down, across = places(shape, self.side)
        size = shape[0] * down * across
        return nn.Sequential(nn.AdaptiveAvgPool2d((down, across)), nn.Flatten(), nn.Linear(size, classes))

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Network and heads together."""
        train_exclusion(model, data, bench, pos_weight=self.pos_weight, **self.options)

    def fit(self, prepared: Prepared) -> HeldOut:
        """What betas are searched on, whatever the tolerance."""
        held = prepared.split("fitting")
        return HeldOut(held.outputs.numpy(), held.targets.numpy())

    def policy(self, knob: float, prepared: Prepared) -> ClassExclusion:
        """The knob is the tolerance of the search; the paper's is 0.001."""
        heads = prepared.model.exits - 1
        if knob >= 1 or knob < 0:
            return ClassExclusion((float(knob >= 1),) * heads)
        return ClassExclusion(searched(prepared.fitted.accuracy_of, heads, knob))
