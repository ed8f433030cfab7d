"""Cascades of really different models for images: linear, a forest, a small and a large network of convolutions.

The large one is the network of `images`, without exits: whoever trains it under the same conditions has it from the
cache. Costs are multiply-accumulates; a comparison in a tree counts as ``comparison`` of them (see `engine.members`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.normalisation import folded
from eelit.methods.backbones.resnet import residual_exits
from eelit.methods.backbones.vgg import plain_exits
from eelit.methods.engine import tasks
from eelit.methods.engine.cascade import Cascade
from eelit.methods.engine.examples import Data
from eelit.methods.engine.members import Estimator, Member, Network, flat
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.cascades import CascadeMethod, fit_estimator
from eelit.methods.policies.base import checked
from eelit.methods.recipes.plain import train_plain

MEMBERS = ("linear", "forest", "small", "large")
"""Names of the models that there are, from the cheapest to the costliest."""
SMALL_BLOCKS = 2
"""Convolutions of each width in the small network."""


@dataclass(frozen=True)
class Means:
    """Reads images ``[n, C, H, W]`` as rows ``[n, F]`` of means over squares of ``side × side`` pixels."""

    side: int

    def __call__(self, x: Tensor) -> NDArray[Any]:
        """Take the means; squares at the border are smaller where ``side`` does not divide the image's."""
        return flat(F.avg_pool2d(x, self.side, ceil_mode=True))


class ImageCascadeMethod(CascadeMethod):
    """A method that asks models for images in turn, and names them in ``members``.

    The settings are fields of the method, where they stand beside the paper's values. `MEMBERS` has the names.
    """

    members: tuple[str, ...]  # names of the models, from the cheapest to the costliest
    images: str
    train_size: int
    window: int  # side of the squares of pixels that the linear model and the forest take the mean of
    trees: int  # in the forest
    depth: int  # most comparisons on a path through one of them
    comparison: float  # multiply-accumulates that a comparison counts as
    small_widths: tuple[int, ...]  # channels of each resolution of the small network
    pixels: int  # side of the square of pixels of which the first convolution of both networks makes one place
    widths: tuple[int, ...]  # channels of each resolution of the large network
    blocks: int  # its residual blocks of each width
    half: bool  # whether it learns with products in bfloat16

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 600, "window": 4, "trees": 12, "depth": 5, "small_widths": (8, 16),
        "pixels": 2, "widths": (16, 32), "blocks": 1, "half": False, "epochs": 4.0, "batch": 32, "rate": 1e-2,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 1500, "window": 8, "trees": 50, "small_widths": (8, 16, 32), "pixels": 2,
        "widths": (16, 32, 64), "blocks": 1, "half": False, "epochs": 3.0, "batch": 32, "rate": 5e-3,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        "members": ("linear", "large"), "small_widths": (6,), "widths": (8, 12), "comparison": 2.0,
    }  # fmt: skip

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def build(self, data: Data, seed: int) -> Cascade:
        """The models that ``members`` names. Raises `ValueError` for another name, and for impossible numbers."""
        checked("ImageCascadeMethod", "window", self.window, whole=True, least=1)
        checked("ImageCascadeMethod", "comparison", self.comparison, least=0, finite=True)
        return Cascade(self.member(name, data, seed) for name in self.members)

    def member(self, name: str, data: Data, seed: int) -> Member:
        """Return one untrained model. Raises `ValueError` for a name that is none of `MEMBERS`."""
        if name not in MEMBERS:
            raise ValueError(f"no member {name!r}; there are {', '.join(MEMBERS)}")
        classes = data.classes or 1
        if name in ("small", "large"):
            return Network(self.network(name, data, classes, seed))
        linear = LogisticRegression(max_iter=1000)
        forest = RandomForestClassifier(self.trees, max_depth=self.depth, random_state=seed)
        chosen = linear if name == "linear" else forest
        return Estimator(chosen, classes, comparison=self.comparison, view=Means(self.window))

    def network(self, name: str, data: Data, classes: int, seed: int) -> nn.Sequential:
        """Return the units of a network, then what answers. Channels lie last in memory: training is faster so."""
        image = data.train.inputs[0].shape
        common: dict[str, Any] = {"pixels": self.pixels, "shares": (), "head": nn.Identity, "seed": seed}
        if name == "small":
            model = plain_exits(image, classes, widths=self.small_widths, blocks=SMALL_BLOCKS, half=False, **common)
        else:
            model = residual_exits(image, classes, widths=self.widths, blocks=self.blocks, half=self.half, **common)
        found = nn.Sequential(*cast(nn.Sequential, model.stages[0]), model.heads[0])
        return found.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, model: Cascade, data: Data, bench: Bench) -> None:
        """Train each member by itself, ``L = L_m``: the networks as the plain network of methods with exits is."""
        for member in model.members:
            if isinstance(member, Estimator):
                fit_estimator(member, data, bench)
            else:
                *units, last = cast(nn.Sequential, cast(Network, member).network)
                train_plain(MultiExit([nn.Sequential(*units)], [last]), data, bench, **self.options)

    def deployed(self, model: Cascade) -> Cascade:
        """The trained members, with batch normalisation folded into convolutions."""
        return folded(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
