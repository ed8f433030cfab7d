"""Stop when a score that an exit gives beside its answer is above a threshold (schuster2021cats, zeng2024consistentee).

What the score is worth is the business of whoever trained it, and of whoever set the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

from eelit.methods.policies.base import Array, Output, PerExit, State, exact, settle, threshold_at, values_of


@dataclass(frozen=True)
class ScoreThreshold:
    """Stop when the score ``[n]`` that the exit gives under the name ``of`` is strictly above the threshold.

    Infinity never stops, minus infinity always stops at the first exit.
    """

    threshold: PerExit  # one for all exits, or one per exit
    of: str = "score"  # the score's name in the output

    def __post_init__(self) -> None:
        settle(self, "threshold", per_exit=True)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the score with the exit's threshold; an array ``[n]`` by itself is the score."""
        score = exact(values_of(output, self.of))
        state, threshold = threshold_at(state, self.threshold, score)
        return state, score > threshold
