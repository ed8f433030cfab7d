"""Stop at the first exit that is sure enough; where none is, the surest of all answers (kaya2019sdn)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, exact, logits_of, settle, softmax


@dataclass(frozen=True)
class Surest:
    """Stop when ``max softmax(logits) >= threshold``; at the last exit the surest of all exits answers.

    Of exits that are equally sure the earliest answers. Who stops early gets the answer of the exit where it stops,
    since no earlier one was as sure. 0 always stops at the first exit; anything above 1 never stops. An exit whose
    logits are not finite is not sure at all; where none is finite, the answer is NaN.
    """

    threshold: float

    def __post_init__(self) -> None:
        settle(self, "threshold")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the top probability of logits ``[n, C]``; the state is the best one so far, and its logits."""
        logits = logits_of(output)
        xp = array_namespace(logits)
        confidence = exact(xp.max(softmax(logits), axis=-1))
        most, best = state or (xp.full_like(confidence, -math.inf), xp.full_like(logits, math.nan))
        surer = confidence > most
        most, best = xp.where(surer, confidence, most), xp.where(surer[:, None], logits, best)
        return (most, best), confidence >= self.threshold

    def answer(self, state: State, output: Output) -> Array:
        """Return the logits ``[n, C]`` of the surest exit so far."""
        return state[1]
