"""Conditional Deep Learning for Energy-Efficient and Enhanced Pattern Recognition (CDL).

Idea
    Leave a trained network as it is, and read its maps with linear classifiers: images that one of them answers do not
    reach deeper stages. A classifier is kept only if it saves more on the images that it answers than it costs on those
    that it passes on. An image that looks like two classes at once is passed on, however strong the scores are.

Model
    Linear classifiers O_1, O_2, … on the maps of the stages of a network, one output neuron for each class:
    o = sigmoid(V F + b), F the means of the map over 4×4 places. The network's own output layer ends the cascade.

Training
    Stage 0: the plain network alone, by cross-entropy; then it is frozen.
    Then stage by stage, for i = 1, 2, …:
    O_i is trained by the LMS rule on the I_i training images that no earlier exit answered:
    minimise ||o - onehot(y)||^2.  Of these it answers Cl_i, at the confidence level delta. Its gain is
    G_i = (gamma_base - gamma_i) Cl_i - cost(O_i) (I_i - Cl_i),
    gamma_base being the operations of the plain network, gamma_i those up to stage i with O_i alone, so that the gains
    of all stages add up to what is saved. O_i is kept if G_i > eps; the first that is not ends the search.

Exit rule
    Stop at stage i if exactly one class has o_c >= delta, and answer it; go on if none has, or several have. The knob
    is delta, which needs no retraining; its value in training is a setting. At another level a classifier is asked
    about images unlike those that it was trained on: at a higher one about easy images, too, which those before it
    answered in training, so that more computation need not mean more right answers.

Skipped
    All stages after the exit, with their classifiers. Stages without a kept classifier have none to run.

Trained otherwise
    Besides the epochs that all rows have, which train the network, each linear classifier is trained for as many on its
    frozen maps, at 5e-4, the best of nine rates on validation images: at the network's 2e-3 it is 11 points less
    accurate. Reading a network that is already trained is what the paper is about.

Deviations
    1. Only the paper's abstract could be read and descriptions by others. They say that classifiers are linear, added
       from the first stage on as long as they bring a gain, and controlled by an adjustable confidence level; the
       formula of the gain, the LMS rule and that two strong classes count as none are reconstructed.
    2. Neurons have a logistic output, since the level of confidence lies between 0 and 1; it may be another squashing.
    3. AdamW, whose learning rate rises, then falls to 0, makes the steps that minimise the squared error.
    4. Cluttered Fashion-MNIST (48×48) and a residual network of 13 convolutions, with five places for classifiers,
       instead of MNIST and networks of two and three convolutional stages.
    5. A classifier reads means over 4×4 places, not every place of the map, as there are too few examples for so many
       weights on large maps.
    6. eps is a share of what the plain network costs on all training images. Operations are multiply-accumulates.
    7. The classifiers of the cascade know only what those before them pass on. The two rules it is compared with, one
       fixed exit and the largest probability, ask about all images, so they have classifiers that were trained on all
       images, as long, one at each place. Those of the cascade by themselves are far less accurate from the second on.
       So what is measured of each exit by itself (its accuracy and calibration error, and how many images are
       overthought) reads worse than the cascade does: it asks classifiers about images that they never get there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import Shape, places
from eelit.methods.engine.costs import both_costs
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Baseline
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.sole_class import SoleClass
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import frozen_states

SIDE = 4
"""Most places down and across that a classifier reads of a map."""


def pooled(maps: Tensor) -> Tensor:
    """Return what a classifier reads of maps ``[N, C, H, W]``: means over places."""
    return F.adaptive_avg_pool2d(maps, places(maps.shape[1:], SIDE))


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Return ``||sigmoid(logits) - onehot(targets)||^2`` of logits ``[N, C]``, mean over samples: the LMS criterion."""
    wanted = F.one_hot(targets, logits.shape[-1])
    return ((logits.sigmoid() - wanted) ** 2).sum(dim=-1).mean()


def gain(base: float, through: float, own: float, settled: int, passed: int) -> float:
    """Return ``G_i``: operations saved on what a classifier settles, less its own on what it passes on.

    ``base`` are the operations of the plain network, ``through`` those up to and including the classifier, ``own`` its
    own, each for one image.
    """
    return (base - through) * settled - own * passed


def train_stages(
    model: MultiExit, data: Data, bench: Bench, *, delta: float, least_gain: float, **options: Any
) -> None:
    """Train the classifiers from the first on, each on what those before it pass on, as long as they gain.

    The buffer ``kept`` of the model then says how many are kept. ``least_gain`` is a share of what the plain network
    costs on all training images; ``options`` are those of `fit`.
    """
    reached, alone = both_costs(model, data.train.inputs[0][None])
    own = [b - a for a, b in pairwise(every - one for every, one in zip(reached, alone, strict=True))]
    least = least_gain * alone[-1] * len(data.train)

    def train() -> None:
        states = frozen_states(model, data.train, bench, pooled)
        (maps,), passed, kept = states.groups, torch.arange(len(data.train)), 0
        for head, read, through, cost in zip(model.heads[:-1], maps, alone, own, strict=False):
            if not len(passed):
                break
            train_classifier(head, Examples(list(read[passed]), data.train.targets[passed]), bench, **options)
            with torch.no_grad():
                _, settled = SoleClass(delta).step((), head(read[passed]))
            passed = passed[~settled]
            if gain(alone[-1], through, cost, int(settled.sum()), len(passed)) <= least:
                break
            kept += 1
        model.get_buffer("kept").fill_(kept)

    settings = {"delta": delta, "least_gain": least_gain, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


def train_apart(model: MultiExit, data: Data, bench: Bench, **options: Any) -> None:
    """Train the same classifiers on all images instead, each by itself; ``options`` are those of `fit`."""

    def train() -> None:
        (maps,) = frozen_states(model, data.train, bench, pooled).groups
        for head, read in zip(model.heads[:-1], maps, strict=True):
            train_classifier(head, Examples(list(read), data.train.targets), bench, **options)

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()


def train_classifier(head: nn.Module, left: Examples, bench: Bench, **options: Any) -> None:
    """Minimise the squared error of one linear classifier on the maps of the images that are left to it."""

    def loss(batch: Batch) -> Tensor:
        return squared_error(head(batch.inputs), batch.targets)

    fit(head.parameters(), left, loss, bench, label="training a linear classifier on frozen maps", **options)


@dataclass(frozen=True)
class ConditionalDeepLearning(ImageMethod):
    """Linear classifiers on a frozen network, each kept only if it saves more than it costs."""

    network: str = "resnet"  # residual; the paper: plain, with two and three convolutions
    images: str = "cluttered"  # data; the paper: MNIST
    train_size: int = 6000  # training images; the paper: 60,000
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width; the paper: one convolution
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost; the paper: after every convolution
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # passes that train the network
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate of the network
    head_epochs: float = 2.0  # passes that train each classifier, as many as of the network
    head_rate: float = 5e-4  # largest learning rate of the classifiers, best of nine on validation images
    delta: float = 0.5  # confidence level at which training images count as settled; the paper: set by the user
    least_gain: float = 0.0  # eps, a share of what the plain network costs on all training images; the paper: >= 0

    knob: ClassVar[str] = "confidence level"
    knobs: ClassVar[tuple[float, ...]] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.1)
    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "head_epochs": 4.0, "head_rate": 1e-2}
    smoke: ClassVar[Mapping[str, Any]] = {**ImageMethod.smoke, "head_epochs": 5.0, "head_rate": 5e-3}
    exempt: ClassVar[Mapping[str, str]] = {
        "eager_is_the_first_exit": "at a low level several classes reach it, and such an image is passed on: no level "
        "lets all images leave at the first stage",
        "cost_is_monotone": "for the same reason, the lowest levels may pass more images on than higher ones do",
    }

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network with a linear classifier at each share of its cost, none of which is kept as yet."""
        model = super().build(data, seed)
        model.register_buffer("kept", torch.zeros(()))
        return model

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """A linear classifier for maps ``[C, H, W]``: logits, whose sigmoids are the outputs of its neurons."""
        down, across = places(shape, SIDE)
        pool = nn.AdaptiveAvgPool2d((down, across))  # keeps what is pooled already
        return nn.Sequential(pool, nn.Flatten(), nn.Linear(shape[0] * down * across, classes))

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the network, freeze it, then train linear classifiers from the first stage on, as long as they gain."""
        train_plain(model, data, bench, **self.options)
        train_stages(model, data, bench, delta=self.delta, least_gain=self.least_gain, **self.reading)

    @property
    def reading(self) -> dict[str, Any]:
        """The options of `fit` for the classifiers."""
        return {"epochs": self.head_epochs, "batch": self.batch, "rate": self.head_rate}

    def deployed(self, model: MultiExit) -> MultiExit:
        """The network with the classifiers that are kept, which are the first ones; the others cost nothing."""
        kept = int(model.get_buffer("kept"))
        stages = [*model.stages[:kept], nn.Sequential(*model.stages[kept:])]
        return super().deployed(MultiExit(stages, [*model.heads[:kept], model.heads[-1]]))

    def policy(self, knob: float, prepared: Prepared) -> SoleClass:
        """The knob is delta."""
        return SoleClass(knob)

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """The usual two, but with a classifier at each place that has learned from all images.

        The cascade's own have not: asked about everybody, as these rules ask them, they would be no match for it.
        """
        known = prepared.data.without_test()
        *first, rest = prepared.model.stages
        heads = self.build(known, bench.seed).heads[:-1]
        model = MultiExit([*first, *cast(nn.Sequential, rest)], [*heads, prepared.model.heads[-1]])
        train_apart(model, known, bench, **self.reading)
        return ExitMethod.baselines(self, Prepared(model, prepared.data, bench, self), bench)
