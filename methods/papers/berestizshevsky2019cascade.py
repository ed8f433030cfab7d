"""Dynamically Sacrificing Accuracy for Reduced Computation: Cascaded Inference Based on Softmax Confidence (CI).

Idea
    Users know how much accuracy they may lose, not which confidence is enough. So compute one curve for each classifier
    of a cascade: its accuracy on the samples for which its confidence is at least a given value. The threshold is the
    lowest confidence at which the curve comes within the tolerance of its own peak. Another tolerance needs only a
    look-up, no training.

Model
    A trained network is cut into components m = 1 … M; after each but the last there is a classifier of two layers:
    means over windows of the map, a linear layer of 64 units, batch normalisation, ReLU, a linear layer. The last one
    is the network's own. p_m = softmax of classifier m; it answers argmax_c p_m(c), with confidence
    delta_m = max_c p_m(c).

Training
    Stage 1: the plain network alone, by cross-entropy.
    Stage 2: everything of it frozen; each classifier by its own cross-entropy (the sum of all, which share nothing).
    Thresholds, from the outputs of classifier m for all training images, including those that would have left before:
    alpha_m(d) = accuracy of classifier m where delta_m >= d  (residual accuracy);  alpha*_m = max_d alpha_m(d);
    threshold of m for the tolerance epsilon = min {d : alpha_m(d) >= alpha*_m - epsilon}, d among the confidences seen.

Exit rule
    Stop at the first classifier m < M with delta_m >= its threshold. The knob is epsilon, as a share: a larger one
    never raises a threshold. It is counted from each classifier's own peak, not from the accuracy of the whole network.

Skipped
    The components after the exit, with their classifiers.

Trained otherwise
    Besides the epochs that all rows have, which train the network, the classifiers alone learn for as many on its
    frozen maps, at 1e-2, the best of five rates on validation images: two stages are what the paper is about.

Deviations
    1. Cluttered Fashion-MNIST (48×48, one channel) and a residual network of 13 convolutions instead of CIFAR, SVHN and
       ImageNet with ResNet-110 and ResNet-50, which two cores cannot train.
    2. Six components, cut at shares of the cost, instead of three, cut where the map halves. Windows are of 6×6 places,
       the size of the last map on cluttered images, as the paper's for CIFAR are of the last map's size. On plain ones
       maps of 7×7 are cut into 2×2 windows that overlap by one place, and those of 4×4 are one window. The paper's for
       ImageNet are larger, their hidden layer has 1024 units.
    3. AdamW, whose learning rate rises, then falls to 0, instead of momentum with two steps; the classifiers learn at
       one time. They see maps of the frozen network in evaluation mode; the released code normalises them by the batch.
    4. Equal confidences are one point of the curve. The released code takes them one by one, in any order.
    5. Where every image of the curve may leave, the threshold is 0, not the lowest confidence seen: an image with an
       even lower confidence leaves too. A tolerance below 0 allows no threshold: no image leaves early.
    6. The variant `held out` draws the curves on half of the validation images, since a network knows its training
       images better than any others.
    7. The sum of the five largest probabilities as confidence, for top-5 accuracy, is left out: there are ten classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import Shape
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.base import softmax
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_heads


class Curve(NamedTuple):
    """How accurate one classifier is where it is at least so confident."""

    confidences: NDArray[np.float64]  # [K], the distinct ones that were seen, rising
    accuracies: NDArray[np.float64]  # [K], residual accuracy alpha at each


def residual_accuracy(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> Curve:
    """Return the curve of one classifier from its confidence ``[N]`` and whether it is right ``[N]``.

    Samples whose confidence is not finite are left out: they never leave early.
    """
    order = np.argsort(confidences)[: np.isfinite(confidences).sum()]
    hits = np.cumsum(right[order][::-1])[::-1]
    levels, first = np.unique(confidences[order], return_index=True)
    return Curve(levels, hits[first] / (len(order) - first))


def threshold(curve: Curve, epsilon: float) -> float:
    """Return the least confidence whose residual accuracy is within ``epsilon`` of the best.

    0 if that is the least confidence seen, infinity if there is none (``epsilon`` below 0).
    """
    enough = curve.accuracies >= curve.accuracies.max() - epsilon
    if enough[0]:
        return 0.0
    return float(curve.confidences[np.argmax(enough)]) if enough.any() else math.inf


def places(shape: Shape, window: int) -> tuple[int, int]:
    """Return into how many windows of the side ``window`` a map ``[C, H, W]`` is cut, down and across."""
    return math.ceil(shape[1] / window), math.ceil(shape[2] / window)


def pooled(maps: Tensor, window: int) -> Tensor:
    """Return what a classifier reads of maps ``[N, C, H, W]``: means over windows."""
    return F.adaptive_avg_pool2d(maps, places(maps.shape[1:], window))


@dataclass(frozen=True)
class CascadedInference(ImageMethod):
    """Classifiers on a frozen network, with thresholds of their own that follow from a tolerance."""

    network: str = "resnet"  # residual; the paper: ResNet-110, ResNet-50 (v2)
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100, SVHN, ImageNet
    train_size: int = 6000  # training images; the paper: 50,000 (CIFAR)
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution; the paper: 16, 32, 64 (CIFAR)
    blocks: int = 3  # residual blocks of each width; the paper: 18
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost; the paper: 1/3 and 2/3
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # passes that train the network
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate of the network
    head_epochs: float = 2.0  # passes that train the classifiers, as many as of the network; the paper: 20 (ImageNet)
    head_rate: float = 1e-2  # largest learning rate of the classifiers, best of five on validation images
    window: int = 6  # side of the windows that a classifier takes the mean of, in pixels; the paper: 8 (CIFAR)
    hidden: int = 64  # units of a classifier's hidden layer; the paper: 64 (CIFAR), 1024 (ImageNet)
    calibration: str = "train"  # images that curves are drawn on: train, as in the paper, or fitting (held out)

    fits_on: ClassVar[float] = (
        0.5  # of the validation images: curves of `held out`; tolerances are judged on the others
    )
    knob: ClassVar[str] = "tolerance"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.4, 0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.04, 0.02, 0.01, 0.0, -1.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "training images": {}, "held out": {"calibration": "fitting"},
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "window": 2, "hidden": 16, "head_epochs": 4.0}
    smoke: ClassVar[Mapping[str, Any]] = {**ImageMethod.smoke, "head_epochs": 5.0, "head_rate": 5e-3}

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """A classifier of two layers for maps ``[C, H, W]``."""
        down, across = places(shape, self.window)
        return nn.Sequential(
            nn.AdaptiveAvgPool2d((down, across)),  # keeps what is pooled already
            nn.Flatten(),
            nn.Linear(shape[0] * down * across, self.hidden),
            nn.BatchNorm1d(self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, classes),
        )

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the network, freeze it, then train the classifiers, which read no more than means over windows."""
        train_plain(model, data, bench, **self.options)
        window, options = self.window, {**self.options, "epochs": self.head_epochs, "rate": self.head_rate}
        train_heads(model, data, bench, keep=lambda maps: pooled(maps, window), **options)

    def fit(self, prepared: Prepared) -> list[Curve]:
        """The curves of all classifiers but the last: any tolerance is looked up there."""
        seen = prepared.split(self.calibration)
        p = softmax(seen.outputs[:-1].double())
        right = p.argmax(dim=-1) == seen.targets
        return [residual_accuracy(*each) for each in zip(p.amax(dim=-1).numpy(), right.numpy(), strict=True)]

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is epsilon; each classifier has the threshold that follows from it."""
        return MaxConfidence([threshold(curve, knob) for curve in prepared.fitted])
