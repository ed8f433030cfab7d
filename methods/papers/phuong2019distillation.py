"""Distillation-Based Training for Multi-Exit Architectures (multi-exit distillation).

Idea
    Joint training treats the exits as separate tasks. But the last exit is the most accurate, and its probabilities
    show which images are hard and which classes are similar, which labels do not. So the other exits also learn from
    it, while it is trained itself. This needs no second network and no labels, regularises where labels are few, and
    costs nothing at test time.

Model
    A network with exits m = 1 … M, logits z_m, p_m = softmax(z_m).

Training
    Everything together (Eq. 1):  L = 1/M sum_m CE(p_m, y) + 1/M sum_{m<M} l_tau(p_M, p_m),
    l_tau(t, s) = -tau^2 sum_k t_k^(tau) ln s_k^(tau)  (Eq. 2),  p_m^(tau) = softmax(z_m / tau)  (Eq. 3).
    No gradient reaches the teacher p_M through l_tau. Here the loss is 2/M ((1 - C) sum_m … + C sum_{m<M} …),
    as in the released code: C = 1/2 is Eq. 1, C = 0 is twice the exit-wise loss (Eq. 7), that of labels
    alone.
    Annealing (Algorithm 1): tau = 1 at first; after each batch in which the mean of max_k p_M^(tau) is above mu, tau is
    multiplied by 1.05. It never falls.
    Semi-supervised (Eq. 6): the first mean is over the images with labels, the second over all.

Exit rule
    The knob is how many exits m the budget reaches; it is the same for all images.
    Budget mode: m is known beforehand, so only one of the first m exits is run, the one that was right most often on
    held-out images (of equals the first). Anytime mode: m is not known, so exits are run in turn until time is up: the
    answer is the mean (p_1 + … + p_m) / m.

Skipped
    All layers and exits after the one that answers; in budget mode also the exits before it, except the first.

Deviations
    1. A small residual network with five early exits on cluttered Fashion-MNIST, 6,000 images, 2 epochs, instead of
       MSDNet with 11 and 5 exits on CIFAR-100 and ImageNet, 300 and 90 epochs: what two cores can train in minutes.
       With ten classes there are fewer classes to confuse.
    2. AdamW, whose learning rate rises and then falls linearly to 0, instead of SGD with Nesterov's momentum whose rate
       falls tenfold twice; gradients are clipped at norm 1; images are not randomly shifted or flipped. The network of
       the last epoch is taken; the released code keeps the one that is best on held-out images.
    3. A budget that reaches all exits is no limit in budget mode: the last exit answers, even where an earlier one did
       better on held-out images. In both modes the first exit's head is run, which is a thousandth of the cost.
    4. The released loss is five times Eq. 1; which of the two matters little to AdamW.
    5. With the setting `labelled` the first images have labels, in the order of the training data; the paper draws
       equally many of each class. A batch holds as many images with labels as without, and is twice as large.
    6. The teacher is the last exit alone, the paper's default. It found no gain in learning from all later exits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from eelit.methods.engine.examples import Data, Examples, alike
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.fixed_exit import FixedExit, MeanSoFar, SoleExit
from eelit.methods.recipes.fit import Batch, Trainable, fit
from eelit.methods.recipes.joint import exit_losses

UNLABELLED = -100
"""The class of an image whose label is not known."""


def imitation(t: Tensor, s: Tensor, tau: float) -> Tensor:
    """Return ``l_tau`` of teacher and student logits ``[N, K]``, mean over N; no gradient reaches the teacher."""
    return tau**2 * F.cross_entropy(s / tau, (t.detach() / tau).softmax(dim=-1))


def distillation_loss(z: Tensor, y: Tensor, tau: float, C: float) -> Tensor:
    """Return L of logits ``[M, N, K]`` and classes ``[N]``, some of them `UNLABELLED`."""
    M, known = len(z), y != UNLABELLED
    labels = exit_losses(z[:, known], y[known]).sum() if known.any() else z.new_zeros(())
    return 2 / M * ((1 - C) * labels + C * sum(imitation(z[-1], z_m, tau) for z_m in z[:-1]))


@dataclass
class Annealing:
    """The temperature, which rises while the teacher is too sure."""

    tau: float
    multiplier: float
    mu: float

    def after(self, t: Tensor) -> None:
        """Look at the teacher's logits ``[N, K]`` of a batch that was learned from."""
        if (t.detach() / self.tau).softmax(dim=-1).amax(dim=-1).mean() > self.mu:
            self.tau *= self.multiplier


class PartlyLabelled:
    """Images of which the first share has labels: each batch holds ``size`` with, and as many without (Eq. 6)."""

    def __init__(self, train: Examples, share: float) -> None:
        known = round(share * len(train))
        self.train, self.known, self.unknown = train, range(known), range(known, len(train))
        self.targets = train.targets.clone()
        self.targets[known:] = UNLABELLED

    def batches(self, size: int, shuffle: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(index [n], inputs [n, ...])``, one pass over those without labels; the others pass as often."""
        labelled = self.passes(size, shuffle)
        for unlabelled in alike([self.train.inputs[i].shape for i in self.unknown], size, shuffle):
            index = [*next(labelled), *(self.unknown[i] for i in unlabelled)]
            yield torch.tensor(index), torch.stack([self.train.inputs[i] for i in index])

    def passes(self, size: int, shuffle: torch.Generator | None) -> Iterator[list[int]]:
        """Yield batches of images with labels for ever."""
        while True:
            yield from alike([self.train.inputs[i].shape for i in self.known], size, shuffle)


def train_distilled(
    model: MultiExit,
    examples: Trainable,
    data: Data,
    bench: Bench,
    *,
    C: float,
    tau: float,
    multiplier: float,
    mu: float,
    **options: Any,
) -> None:
    """Minimise L over everything, tau annealed from the given one on; ``options`` are those of `fit`."""

    def train() -> None:
        annealing = Annealing(tau, multiplier, mu)

        def loss(batch: Batch) -> Tensor:
            z = model(batch.inputs)
            found = distillation_loss(z, batch.targets, annealing.tau, C)
            annealing.after(z[-1])
            return found

        model.train()
        fit(model.parameters(), examples, loss, bench, label="training exits on labels and on the last", **options)

    settings = {
        "C": C,
        "tau": tau,
        "multiplier": multiplier,
        "mu": mu,
        "train": len(examples.targets),
        "labelled": int((examples.targets != UNLABELLED).sum()),
        **options,
    }
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class MultiExitDistillation(ImageMethod):
    """Early exits that learn from the last, and answer when the budget says so."""

    mode: str = "budget"  # budget: known beforehand; anytime: not known
    network: str = "resnet"  # resnet, or vgg with blocks = 4; the paper: MSDNet
    images: str = "cluttered"  # data; the paper: CIFAR-100, ImageNet
    train_size: int = 6000  # training images; the paper: 10,000 to 45,000 of CIFAR-100, 90,000 and more of ImageNet
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    labelled: float = 1.0  # share of them that has labels; the paper: 1, or less with unlabelled images beside
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks, or plain convolutions, of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where early exits stand
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # the paper: 300
    batch: int = 32  # the paper: 64
    rate: float = 2e-3  # learning rate of AdamW; the paper: 0.5 of SGD, the released code 0.1
    C: float = 0.5  # what the last exit's answers weigh beside labels; the paper: 0.5
    tau: float = 1.0  # temperature at first; the paper: 1
    multiplier: float = 1.05  # of the temperature, when it rises; the paper: 1.05; 1: it stays
    mu: float = 0.5  # how sure the teacher may be before it does; the paper: 0.5 for CIFAR-100, 0.1 for ImageNet

    fits_on: ClassVar[float] = 0.5  # of the validation images: which exit to take; budgets are judged on the others
    knob: ClassVar[str] = "exits"
    knobs: ClassVar[tuple[float, ...]] = (1, 2, 3, 4, 5, 6)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"budget": {}, "anytime": {"mode": "anytime"}}
    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "mu": 0.15}
    exempt: ClassVar[Mapping[str, str]] = {
        "anytime: never_answers_as_the_full_model": "the mean of all exits answers, not the last exit."
    }

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Joint training with distillation from the last exit."""
        train = PartlyLabelled(data.train, self.labelled) if self.labelled < 1 else data.train
        train_distilled(
            model, train, data, bench, C=self.C, tau=self.tau, multiplier=self.multiplier, mu=self.mu, **self.options
        )

    def fit(self, prepared: Prepared) -> list[float]:
        """How often each exit is right on held-out images."""
        return [point.quality for point in self.static(prepared.split("fitting"))]

    def policy(self, knob: float, prepared: Prepared) -> FixedExit:
        """The best of as many exits as the knob says, or the mean of them all."""
        if self.mode not in ("budget", "anytime"):
            raise ValueError(f"no mode {self.mode!r}; there are budget and anytime")
        reached, exits = round(knob), prepared.model.exits
        if self.mode == "anytime":
            return MeanSoFar(reached - 1)
        right: list[float] = prepared.fitted[:reached]
        return SoleExit(exits - 1 if reached >= exits else right.index(max(right)))
