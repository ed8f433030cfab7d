"""Shallow-Deep Networks: Understanding and Mitigating Network Overthinking (SDN).

Idea
    A network often has the right answer halfway. Further computation is then wasted, and harmful where the right answer
    becomes a wrong one: the network overthinks. Internal classifiers show this in any network, whether it is already
    trained or not. Confident ones end the computation early, and where they disagree with the last classifier, its
    answer is likely wrong.

Model
    Internal classifiers F_1 … F_M at shares C_i of the cost of an ordinary network, and its own classifier F_{M+1}.
    Each reads its feature map by alpha · max + (1 - alpha) · mean over windows that leave at most 4×4 places, alpha
    learned, then by one linear layer. p_i = softmax(z_i), z_i the logits of F_i. Of the maps on cluttered images those
    of 12×12 leave 4×4 places and those of 6×6, which the last two internal classifiers read, 3×3.

Training
    IC-only: L_{M+1} trains the network by itself; it is frozen, and L_1 + … + L_M trains the internal classifiers.
    SDN training: everything together, L = sum_{i<=M} tau_i(t) L_i + L_{M+1}, where the share t of the training is
    over and tau_i(t) = min(C_i, 0.01 + t C_i): at first the network is trained all but alone. C_i is the nominal
    share (0.2, 0.35 …); the classifiers stand after the layer next to it (on cluttered images at 0.17, 0.35 …).
    L_i is the cross-entropy of z_i.

Exit rule
    Stop at the first F_i with max p_i >= q, one q for all. If none reaches q, F_{M+1} included, the most confident of
    all classifiers answers, which need not be the last. q = 0 stops at the first, q > 1 never.

Skipped
    All layers and classifiers after the exit.

Trained otherwise
    "IC-only": besides the epochs that all rows have, which train the network, the internal classifiers alone learn for
    as many on its frozen maps, at 1e-3, the paper's rate: two stages are half of what the paper is about.

Deviations
    1. A small residual network on cluttered Fashion-MNIST, 6,000 images, 2 epochs, instead of VGG-16, ResNet-56,
       WideResNet-32-4 and MobileNet on CIFAR and Tiny ImageNet, 100 epochs: what two cores can train in minutes. With
       fewer layers there are places for five internal classifiers, up to 80 % of the cost, instead of six.
    2. AdamW, whose learning rate rises and then falls linearly to 0, instead of SGD whose rate falls tenfold three
       times (internal classifiers: Adam, once); gradients are clipped at norm 1; images are not randomly shifted or
       flipped.
    3. Windows have the side ceil(a / 4) on a map of the side a, and are smaller at the border where 4 does not divide
       a; the released code takes a // 4 and drops the border. So maps of 6×6 (the last two on cluttered images) are
       read at 3×3 places, and of 7×7 (on plain images) at 4×4, where the released code would not pool at all.
    4. tau grows from step to step; in the released code from epoch to epoch, the first being 0.01 + C_i / T of T
       epochs.
    5. A frozen network stays as it was. The released code keeps it in training mode, so that running means and
       variances of its batch normalisation move on and its answers with them.
    6. Confusion is 0 where all agree. The released code adds 1e-6 to every difference.
    7. Internal classifiers learn in 376 steps instead of about 9,800, yet at the paper's rate: of four no other is
       better on both kinds of images. Their mean accuracy on validation images, with one seed and IC-only training,
       is 0.643, 0.643, 0.638 and 0.624 with 1e-3, 3e-3, 5e-3 and 1e-2 on cluttered images, and 0.859, 0.858, 0.858
       and 0.857 on plain ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from eelit.methods.backbones.internal_classifier import condensed
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.stored_outputs import overthought
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.surest import Surest
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.ramped import train_ramped
from eelit.methods.recipes.two_stage import train_heads


def confusion(outputs: Tensor) -> Tensor:
    """Return ``D = sum_i ||p_i - p_{M+1}||_1`` of each sample, ``[N]``, from the logits ``[M + 1, N, C]``.

    It lies between 0, where all classifiers say the same, and 2 M. The more, the likelier is the last one's error.
    """
    p = outputs.softmax(dim=-1)
    return (p[:-1] - p[-1]).abs().sum(dim=(0, 2))


def normalised(scores: Tensor, reference: Tensor) -> Tensor:
    """Return scores less the mean of reference scores, those of training data, by their standard deviation."""
    return (scores - reference.mean()) / reference.std(correction=0)


class Overthinking(NamedTuple):
    """How much a network thinks after it knows."""

    cumulative: list[float]  # share of samples that some classifier up to i has right, for i = 1 … M + 1
    wasted: float  # share of the cost that is spent after the first right answer; without one nothing is wasted
    destructive: float  # share of the last classifier's errors that an internal one has right


def overthinking(outputs: Tensor, targets: Tensor, shares: Sequence[float]) -> Overthinking:
    """Measure it on logits ``[M + 1, N, C]``, given the share of the full cost up to each classifier."""
    right = outputs.argmax(dim=-1) == targets
    cumulative = right.cummax(dim=0).values.double().mean(dim=1).tolist()
    first = [now - before for now, before in zip(cumulative, [0.0, *cumulative], strict=False)]
    wasted = sum(share * (1 - spent) for share, spent in zip(first, shares, strict=True))
    errors = float((~right[-1]).double().mean())
    return Overthinking(cumulative, wasted, overthought(right) / errors if errors else 0.0)


@dataclass(frozen=True)
class ShallowDeep(ImageMethod):
    """Internal classifiers that answer when they are sure."""

    frozen: bool = True  # IC-only training of a frozen network; False: SDN training, everything together
    network: str = "resnet"  # the paper: VGG-16, ResNet-56, WideResNet-32-4, MobileNet
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100, Tiny ImageNet
    train_size: int = 6000  # training images; the paper: 50,000 of CIFAR
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution; the paper's ResNet-56: 16, 32, 64
    blocks: int = 3  # blocks of each width; the paper's ResNet-56: 9
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # C_i; the paper: 0.15, 0.3 … 0.9
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # of the network, alone or with all; the paper: 100
    batch: int = 32  # the paper: 128
    rate: float = 2e-3  # learning rate of AdamW; the paper: 0.1 of SGD
    head_epochs: float = 2.0  # of IC-only training's second stage; the paper: 25
    head_rate: float = 1e-3  # learning rate there; the paper: 1e-3 of Adam

    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"IC-only": {}, "SDN training": {"frozen": False}}
    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "head_epochs": 4.0, "head_rate": 1e-2}
    smoke: ClassVar[Mapping[str, Any]] = {**ImageMethod.smoke, "head_epochs": 3.0, "head_rate": 5e-3}
    exempt: ClassVar[Mapping[str, str]] = {
        "never_answers_as_the_full_model": "where nobody is sure the surest of all classifiers answers, not the last."
    }

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """IC-only training in two stages, or SDN training in one."""
        if not self.frozen:
            train_ramped(model, data, bench, C=self.shares, **self.options)
            return
        train_plain(model, data, bench, **self.options)
        heads: dict[str, Any] = {"epochs": self.head_epochs, "batch": self.batch, "rate": self.head_rate}
        train_heads(model, data, bench, keep=condensed, **heads)

    def policy(self, knob: float, prepared: Prepared) -> Surest:
        """The knob is q."""
        return Surest(knob)
