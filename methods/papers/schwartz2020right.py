"""Title of the work (Right).

Idea
    Two or three sentences in your own words: what is clever, what it buys, what it costs.

Model
    Where exits sit, and what an exit head is.

Training
    The loss, with the paper's number (Eq. n).

Exit rule
    When it stops, with direction and strictness of the test.

Skipped
    What is not computed after the exit.

Deviations
    1. What differs from the paper (data, sizes, anything else), and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eelit.methods import tasks
from eelit.methods.backbones.encoder import text_exits
from eelit.methods.examples import Data
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.method import Bench
from eelit.methods.multi_exit import MultiExit
from eelit.methods.policies.confidence import MaxConfidence
from eelit.methods.recipes.joint import train_joint


@dataclass(frozen=True)
class Right(ExitMethod):
    """One sentence: what is configured here."""

    train_size: int = 4000  # training examples; what the paper used

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")  # see `eelit data list`
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.6, 0.7, 0.8, 0.9, 1.1)  # from the most eager to never
    tiny: ClassVar[Mapping[str, Any]] = {"train_size": 900}  # settings for the tests: seconds

    def load(self) -> Data:
        """What an example is."""
        return tasks.text("rotten-tomatoes", train=self.train_size)

    def build(self, data: Data, seed: int) -> MultiExit:
        """Which backbone, which heads."""
        return text_exits("minilm-l6", data.classes, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Which recipe, with which weights."""
        weights = [1.0] * model.exits
        train_joint(model, data, bench, weights=weights, epochs=1.0, batch=32, rate=1e-4, head_rate=1e-3)

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """What the knob means; a policy may be fitted on `prepared.split("validation")`, never on test data."""
        return MaxConfidence(knob)
