"""Exits for a Small Perceptron (Mine).

Idea
    A perceptron with a head after each layer; the surest exit answers.

Training
    Equal weights, all exits together.

Exit rule
    Stop when the largest probability is at least the threshold.

Skipped
    All layers after the exit.

Deviations
    1. There is no such paper; this tests how other packages register a method.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.joint import train_joint


@dataclass(frozen=True)
class Mine(ExitMethod):
    """A method of another package."""

    width: int = 32  # of each layer

    data: ClassVar[tuple[str, ...]] = ()
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.8, 1.1)

    def load(self) -> Data:
        """Digits."""
        return tasks.images("digits", train=600)

    def build(self, data: Data, seed: int) -> MultiExit:
        """Three layers, a linear head after each."""
        torch.manual_seed(seed)
        first = nn.Sequential(nn.Flatten(), nn.Linear(64, self.width), nn.ReLU())
        rest = [nn.Sequential(nn.Linear(self.width, self.width), nn.ReLU()) for _ in range(2)]
        return MultiExit([first, *rest], [nn.Linear(self.width, 10) for _ in range(3)])

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """All exits together."""
        train_joint(model, data, bench, weights=[1.0, 1.0, 1.0], epochs=5.0, batch=32, rate=1e-2)

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is the threshold."""
        return MaxConfidence(knob)
