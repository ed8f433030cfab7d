"""ELF: An Early-Exiting Framework for Long-Tailed Classification (ELF).

Idea
    Where few classes have most of the examples, losses usually give rare classes more weight. But frequent classes
    contain hard examples and rare classes easy ones. So let each example leave during training: one that a branch
    classifies correctly and confidently adds no loss at later exits, a hard one adds loss at each. Depth is spent on
    hard examples of any class, and any loss for long-tailed data can be used inside. Afterwards the branches can be
    dropped, or used as exits that save computation.

Model
    A network with exits k = 1 … K. CE: logits f, confidences z = softmax(f). LDAM: a linear layer without bias whose
    inputs and weights have length 1, so f are cosines, and z = softmax(f) of these as they are.

Training
    n_c training examples of class c. An example (x, y) adds up losses until it leaves (Eq. 3, 4):
    L = sum_{k <= k*} l(z^(k), y),  k* the first exit with argmax z^(k) = y and z^(k)[y] > t, K if there is none.
    No gradient passes through the choice of k*.
    CE (Eq. 5):    l = - w_y log softmax(f)[y].
    LDAM (Eq. 6):  l = - w_y log softmax(30 (f - Delta_y e_y))[y],  Delta_c = C / n_c^(1/4), the largest of them 1/2.
    w_c = (1 - beta) / (1 - beta^n_c), scaled to mean 1 over classes, from when four fifths of the training are over;
    before that w_c = 1 (deferred re-weighting, DRW).

Exit rule
    The new part concerns training only. At inference the usual rule applies: stop at the first exit with max_c z_c > s;
    otherwise the last one answers. s, the knob, is independent of t, and the rule uses no label. z of LDAM begins at
    0.1, and is a quarter at most where the weights of ten classes are as far from each other as can be.

Skipped
    The layers and branches after the exit. In training only their loss.

Trained otherwise
    On the track's network and for as long, but on images with a long tail: few classes have most of them. The variant
    LDAM has other last layers, which the loss is made for.

Deviations
    1. The reworked paper by the same authors (HAR, 2021) was read; of the preprint that gives the name, only the
       abstract.
    2. Cluttered Fashion-MNIST with the tail of the ten largest classes of Reuters R52 (2840, 1596, 253 … 90 documents),
       scaled to 6,000 images, the first class of the list being the most frequent, instead of CIFAR-LT, ImageNet-LT and
       iNaturalist, which no package ships. Validation and test images are balanced.
    3. A small residual network with five branches at shares of its cost instead of one before each group of blocks of
       ResNet-32 and larger; branches pool and have one linear layer, instead of two convolutions before it, which would
       cost a quarter of this network.
    4. AdamW for 2 epochs, its rate rising, then falling linearly to 0, instead of SGD for 200; gradients are clipped at
       norm 1; images are not randomly shifted or flipped. So late, class weights meet low rates.
    5. The text prints the margin as C / n_c; the work that it cites has the fourth root, and so has its code, which
       also scales class weights to mean 1 and starts them at epoch 160 of 200; the text mentions neither. The text
       prints losses without their minus sign, and argmax instead of the max of the exit rule.
    6. The text's t for LDAM and its s have a meaning for cosines that are not scaled; the loss scales them by 30, as
       the cited work does, which the text does not mention. It has t = 2 / classes, 0.2: near the most that is possible
       (a quarter), and reached by no confidence in an earlier trial of 3 epochs of a narrower network, so that no
       example would leave; here it is 1.5 / classes.
    7. The text chooses s on test images; here thresholds are chosen on validation images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import InternalClassifier, Shape
from eelit.methods.data.images import R52
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.base import checked
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.temperature import Tempered
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import losses_of

SCALE = 30.0
"""By how much cosines are multiplied in the loss of LDAM: the logits that exits say."""


class Cosines(nn.Linear):
    """Cosines of inputs ``[n, F]`` and weights ``[classes, F]``, times `SCALE`."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[n, classes]``."""
        return SCALE * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


def with_cosines(head: nn.Sequential) -> nn.Sequential:
    """Return a head that ends in cosines instead of its linear layer."""
    *before, last = head.children()
    assert isinstance(last, nn.Linear)
    return nn.Sequential(*before, Cosines(last.in_features, last.out_features))


def class_weights(n: Tensor, beta: float) -> Tensor:
    """Return ``w [C]`` for the numbers of examples ``n [C]``.

    Raises `ValueError` where a class has none, or for a ``beta`` that is not from 0 to below 1.
    """
    if not 0 <= beta < 1 or not n.all():
        raise ValueError(f"class weights need a beta from 0 to below 1 and examples of each class, not {beta} and {n}")
    w = (1 - beta) / (1 - beta ** n.double())
    return (w / w.mean()).float()


def margins(n: Tensor, largest: float) -> Tensor:
    """Return ``Delta [C]`` for the numbers of examples ``n [C]``."""
    found = n.double() ** -0.25
    return (largest * found / found.max()).float()


def charged(z: Tensor, y: Tensor, t: float) -> Tensor:
    """Return which exits an example is charged for, ``[K, N]``: those up to k*, of confidences ``[K, N, C]``."""
    own = z.gather(2, y.expand(len(z), -1)[..., None])[..., 0]
    leaves = (z.argmax(dim=-1) == y) & (own > t)
    return leaves.cumsum(dim=0) - leaves.long() == 0


def each_loss(logits: Tensor, y: Tensor, delta: Tensor, *, t: float, scale: float) -> tuple[Tensor, Tensor]:
    """Return who is charged, and l without its weight, both ``[K, N]``, of ``[K, N, C]`` that are ``scale`` times f."""
    less = scale * delta[y, None] * F.one_hot(y, logits.shape[-1])
    return charged((logits.detach() / scale).softmax(dim=-1), y, t), losses_of(logits - less, y)


def elf_loss(logits: Tensor, y: Tensor, w: Tensor, delta: Tensor, *, t: float, scale: float) -> Tensor:
    """Return L, the mean over examples; ``w`` and ``delta`` are ``[C]``, the rest as of `each_loss`."""
    stays, losses = each_loss(logits, y, delta, t=t, scale=scale)
    return (stays * w[y] * losses).sum(dim=0).mean()


def counted(data: Data) -> Tensor:
    """Return the number of training examples of each class."""
    return data.train.targets.bincount(minlength=data.classes or 1)


def train_exiting(
    model: MultiExit,
    data: Data,
    bench: Bench,
    *,
    t: float,
    scale: float,
    margin: float,
    beta: float,
    deferred: float,
    **options: Any,
) -> None:
    """Minimise L over everything, class weights being on when a share ``deferred`` is over; ``options`` are `fit`'s.

    Raises `ValueError` for numbers that mean nothing.
    """
    checked("ELF", "t", t, least=0)
    checked("ELF", "margin", margin, least=0, finite=True)
    checked("ELF", "deferred", deferred, least=0, most=1)
    n = counted(data)
    delta, w = margins(n, margin), class_weights(n, beta)

    def loss(batch: Batch) -> Tensor:
        device = batch.targets.device
        now = (w if batch.done >= deferred else torch.ones_like(w)).to(device)
        return elf_loss(model(batch.inputs), batch.targets, now, delta.to(device), t=t, scale=scale)

    def train() -> None:
        model.train()
        fit(model.parameters(), data.train, loss, bench, label="training exits on those who stay", **options)

    how = {"t": t, "scale": scale, "margin": margin, "beta": beta, "deferred": deferred}
    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **how, **options})
    model.eval()


TAIL = (44, 26, 10, 10, 9, 9, 8, 8, 7, 7)


@dataclass(frozen=True)
class LdamMethod(ImageMethod):
    """Exits on cosines, with margins that are wider for rarer classes (LDAM)."""

    cosines: bool = True  # whether exits say cosines and the loss has margins (LDAM), or not (CE)
    t: float = 0.15  # of confidence, above which who is right leaves in training; the paper: 2 / classes
    margin: float = 0.5  # of the rarest class; the paper: 0.5
    beta: float = 0.9999  # of the class weights; the paper: 0.999 or 0.9999
    deferred: float = 0.8  # share of the training before these are on; the paper: not told; LDAM: 160 of 200 epochs
    network: str = "resnet"  # residual; the paper: ResNet-32, ResNet-50, DenseNet-169
    images: str = "cluttered"  # data; the paper: CIFAR-LT, ImageNet-LT, iNaturalist
    train_size: int = 6000  # training images; the paper: 12,406 (CIFAR-10-LT) and more
    tail: tuple[int, ...] = R52  # of the classes, to which their numbers of training images are proportional
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution; the paper's ResNet-32: 16, 32, 64
    blocks: int = 3  # residual blocks of each width; the paper's ResNet-32: 5
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost; the paper: before each group of blocks
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # the paper: 200 (CIFAR)
    batch: int = 32  # the paper: not told
    rate: float = 2e-3  # learning rate of AdamW; the paper: 0.1 of SGD

    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.11, 0.115, 0.12, 0.125, 0.13, 0.14, 0.15, 0.16, 1.1)
    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "train_size": 300, "tail": TAIL, "epochs": 14.0}
    smoke: ClassVar[Mapping[str, Any]] = {**ImageMethod.smoke, "images": "fashion-mnist"}
    others: ClassVar[Mapping[str, Any]] = {**ImageMethod.others, "tail": (1,) * 10}

    def load(self) -> Data:
        """Images in ten classes, few of which have most of them for training."""
        return tasks.long_tailed(self.images, train=self.train_size, tail=self.tail)

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network with a head at each share of its cost; for LDAM all end in cosines."""
        model = super().build(data, seed)
        if self.cosines:
            last = model.heads[-1]
            assert isinstance(last, nn.Sequential)
            model.heads[-1] = with_cosines(last)
        return model.eval()

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """A branch for maps ``[C, H, W]``."""
        head = InternalClassifier(shape, classes)
        return with_cosines(head) if self.cosines else head

    @property
    def scale(self) -> float:
        """What logits are divided by before confidences are made of them."""
        return SCALE if self.cosines else 1.0

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Everything together, each example charged up to the exit where it leaves."""
        margin = self.margin if self.cosines else 0.0
        how: dict[str, Any] = {"t": self.t, "margin": margin, "beta": self.beta, "deferred": self.deferred}
        train_exiting(model, data, bench, scale=self.scale, **how, **self.options)

    def policy(self, knob: float, prepared: Prepared) -> Tempered:
        """The knob is s, which must be exceeded."""
        return Tempered(self.scale, MaxConfidence(math.nextafter(knob, math.inf)))


@dataclass(frozen=True)
class Elf(LdamMethod):
    """Exits that an example leaves in training, too, as soon as one has it right and is sure."""

    cosines: bool = False  # whether exits say cosines and the loss has margins (LDAM), or not (CE)
    t: float = 0.9  # of confidence, above which who is right leaves in training; the paper: 0.9 (LDAM: 2 / classes)

    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any] | type[LdamMethod]]] = {"CE": {}, "LDAM": LdamMethod}
