"""A convolutional network for images with exits at shares of its cost: what the methods on images have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import nn

from eelit.methods.backbones.efficientnet import efficient_exits
from eelit.methods.backbones.internal_classifier import InternalClassifier, Shape, condensed
from eelit.methods.backbones.normalisation import folded
from eelit.methods.backbones.resnet import residual_exits
from eelit.methods.backbones.vgg import plain_exits
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import ExitMethod
from eelit.methods.recipes.joint import train_joint
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_heads

NETWORKS: Mapping[str, Callable[..., MultiExit]] = {
    "resnet": residual_exits,
    "vgg": plain_exits,
    "efficientnet-lite0": efficient_exits,
}
"""Name of a network → what builds it, from the settings that it names and no others."""
SHARED = (
    *("network", "images", "train_size", "pixels", "widths", "blocks", "shares", "half"),
    *("epochs", "batch", "rate"),
)
"""Settings of the data, the network and its training: two methods that are compared have them in common."""


class JointImages:
    """How most methods on images build and train; a method overrides what its paper changes.

    The settings are fields of the method, where they stand beside the paper's values. Exits are worth their while where
    the network between them costs well more than asking them does, and where its layers are equally fast: a convolution
    at 24×24 places of few channels spends its time on memory, one at 12×12 of 128 on multiplying.
    """

    # resnet (basic blocks), vgg (plain; five exits take blocks = 4), or efficientnet-lite0 (pretrained; it takes the
    # default scale, as tiny and smoke have widths of their own, and its pixels are 1)
    network: str
    pixels: int  # side of the square of pixels of which the first convolution makes one place
    widths: tuple[int, ...]  # channels of each resolution
    blocks: int  # residual blocks, or plain convolutions, of each width
    shares: tuple[float, ...]  # of the full cost, at which exits stand
    half: bool  # whether the network, but for its heads, learns with products in bfloat16
    epochs: float
    batch: int
    rate: float

    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 600, "pixels": 2, "widths": (8, 16, 24), "blocks": 1, "shares": (0.2, 0.6),
        "half": False, "epochs": 8.0, "batch": 32, "rate": 1e-2,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 1500, "pixels": 2, "widths": (8, 16, 32), "blocks": 2, "shares": (0.2, 0.35, 0.5, 0.65, 0.8),
        "half": False, "epochs": 3.0, "batch": 32, "rate": 5e-3,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {"network": "vgg", "widths": (8, 16, 16), "shares": (0.25, 0.75)}

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network with a head at each share of its cost.

        Channels lie last in memory: training is a sixth faster so, and pooling in the heads several times.
        Raises `ValueError` for an unknown network, or for a setting that was changed and that the network has not.
        """
        if self.network not in NETWORKS:
            raise ValueError(f"no network {self.network!r}; there are {', '.join(NETWORKS)}")
        build, classes = NETWORKS[self.network], data.classes or 1
        known = signature(build).parameters
        settings = {name: getattr(self, name) for name in ("widths", "blocks", "pixels", "half", "shares")}
        for name in [name for name in settings if name not in known]:
            if settings.pop(name) != (usual := getattr(type(self), name)):
                raise ValueError(f"the {name} of {self.network} are fixed: leave that setting at {usual}")
        if "images" in known:
            settings["images"] = data.train.inputs
        model = build(
            data.train.inputs[0].shape,
            classes,
            **settings,
            head=lambda shape: self.head(shape, classes),
            seed=seed,
        )
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """An exit head for maps ``[C, H, W]``: an internal classifier."""
        return InternalClassifier(shape, classes)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Joint training of network and heads, all exits weighing alike: ``L = sum_i L_i``."""
        train_joint(model, data, bench, weights=[1.0] * model.exits, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `fit` that are settings here."""
        return {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}


class ImageMethod(JointImages, ExitMethod):
    """A method that stops whole images at one of the exits."""

    images: str
    train_size: int

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def deployed(self, model: MultiExit) -> MultiExit:
        """The trained network with batch normalisation folded into its convolutions: exits and full model alike."""
        return folded(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class TwoStageImageMethod(ImageMethod):
    """The network alone, then internal classifiers on its frozen maps, of which `condensed` keeps what they read."""

    head_epochs: float
    head_rate: float

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the network, freeze it, then train the exits before the last on its maps."""
        train_plain(model, data, bench, **self.options)
        options: dict[str, Any] = {"epochs": self.head_epochs, "batch": self.batch, "rate": self.head_rate}
        train_heads(model, data, bench, keep=condensed, **options)
