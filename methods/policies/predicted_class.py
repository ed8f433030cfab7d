"""Stop when the score exceeds the threshold of the class that is predicted (after daghero2020class)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, checked, choose, exact, logits_of, rows_at, softmax
from eelit.methods.policies.margin import margin


def max_probability(logits: Array) -> Array:
    """Largest class probability ``[n]`` of logits ``[n, C]``."""
    return array_namespace(logits).max(softmax(logits), axis=-1)


SCORES: Mapping[str, Callable[[Array], Array]] = {"margin": margin, "max probability": max_probability}
"""Name of a score → from logits ``[n, C]`` to scores ``[n]``, 0 to 1."""


@dataclass(frozen=True)
class PredictedClass:
    """Stop when ``score(logits) > thresholds[exit][c]``, strictly, with c the class predicted at this exit.

    Each early exit has a threshold for each class. Below 0 whoever is predicted to be of the class always stops; 1 or
    more never stops.
    """

    thresholds: Sequence[Sequence[float]] | Any  # [exits, classes]; the last exit needs none
    score: str = "margin"  # a name in `SCORES`

    def __post_init__(self) -> None:
        choose(self, "score", SCORES)
        given = self.thresholds.tolist() if hasattr(self.thresholds, "tolist") else self.thresholds
        rows = tuple(checked("PredictedClass", "thresholds", row, per_exit=True) for row in given)
        if not rows or any(not isinstance(row, tuple) or len(row) != len(rows[0]) for row in rows):
            raise ValueError("PredictedClass: each exit has a threshold for each class, as many as any other exit")
        object.__setattr__(self, "thresholds", rows)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the score with the threshold of the predicted class at this exit; the state counts exits."""
        logits = logits_of(output, classes=len(self.thresholds[0]))
        xp, found = array_namespace(logits), exact(SCORES[self.score](logits))
        index = state[0] if state else xp.zeros(found.shape, dtype=xp.int64, device=found.device)
        classes = xp.arange(logits.shape[1], device=found.device)
        own = classes == xp.argmax(logits, axis=-1, keepdims=True)
        threshold = xp.max(xp.where(own, rows_at(self.thresholds, index, found), -xp.inf), axis=-1)
        return (index + 1,), found > threshold
