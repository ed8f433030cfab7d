"""Stop when a score that an exit gives beside its answer is above a threshold (schuster2021cats, zeng2024consistentee).

What the score is worth is the business of whoever trained it, and of whoever set the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

from eelit.methods.policies.base import Array, Output, State, said, threshold_at


@dataclass(frozen=True)
class ScoreThreshold:
    """Stop when the score ``[n]`` that the exit gives under the name ``of`` is strictly above the threshold.

    Infinity never stops, minus infinity always stops at the first exit.
    """

    threshold: float | tuple[float, ...]  # one for all exits, or one per exit
    of: str = "score"  # the score's name in the output

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the score with the exit's threshold; an array ``[n]`` by itself is the score."""
        score = said(output, self.of)
        if score.ndim != 1:
            raise ValueError(f"a score is one number per sample, [n], not {tuple(score.shape)}")
        state, threshold = threshold_at(state, self.threshold, score)
        return state, score > threshold
