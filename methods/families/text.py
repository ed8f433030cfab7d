"""A pretrained text encoder with an exit after every layer: what the methods of the text track have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from eelit.methods.backbones.encoder import text_exits
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import ExitMethod
from eelit.methods.recipes.joint import depth_weights, train_joint

NATS = (3.1, 2.9, 2.8, 2.6, 2.4, 2.2, 2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.01, 0.0)
"""Thresholds on entropy in nats where there are many classes: that of 20 is at most ln 20 = 2.996."""


class JointText:
    """How PABEE (zhou2020pabee) builds and trains, which many take over; a method overrides what its paper changes.

    The settings are fields of the method, where they stand beside the paper's values.
    """

    encoder: str
    epochs: float
    batch: int
    rate: float
    head_rate: float

    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 900, "epochs": 6.0, "rate": 2e-3, "head_rate": 5e-3,
        "batch": 32,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 240, "length": 24, "batch": 32}
    others: ClassVar[Mapping[str, Any]] = {"length": 9}  # the tokens of the tests are few

    def build(self, data: Data, seed: int) -> MultiExit:
        """A head after every layer, one pooler for all."""
        return text_exits(self.encoder, data.classes, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Depth-weighted joint training of backbone and heads: ``L = sum_i i * L_i / sum_i i``."""
        train_joint(model, data, bench, weights=depth_weights(model.exits), **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `fit` that are settings here."""
        return {"epochs": self.epochs, "batch": self.batch, "rate": self.rate, "head_rate": self.head_rate}


class TextMethod(JointText, ExitMethod):
    """A method that stops whole sentences at one of the exits."""

    corpus: str
    train_size: int
    length: int  # most word pieces of a text

    many: ClassVar[tuple[float, ...]] = ()
    """What stands for ``knobs`` where texts have more than two classes: those of two classes may lie too far apart."""

    def __post_init__(self) -> None:
        """Take the knobs for many classes where there are many."""
        if self.many and self.many_classes:
            object.__setattr__(self, "knobs", self.many)

    @property
    def many_classes(self) -> bool:
        """Whether the texts have more than two classes; digits of unit tests do not count."""
        return (tasks.CLASSES.get(self.corpus) or 2) > 2

    def load(self) -> Data:
        """Token ids of sentences, with classes or values."""
        return tasks.text(self.corpus, train=self.train_size, length=self.length)
