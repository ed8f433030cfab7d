"""Stop when a score that an exit gives beside its answer is above a threshold (schuster2021cats, zeng2024consistentee).

What the score is worth is the business of whoever trained it, and of whoever set the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, State, threshold_at


@dataclass(frozen=True)
class ScoreThreshold:
    """Stop when the last column of the output ``[n, C + 1]`` is strictly above the threshold.

    The other columns are the exit's answer, and are not looked at. Infinity never stops, minus infinity always stops
    at the first exit.
    """

    threshold: float | tuple[float, ...]  # one for all exits, or one per exit

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Array) -> tuple[State, Array]:
        """Compare the score ``[n]`` with the exit's threshold."""
        xp = array_namespace(output)
        score = xp.take(output, xp.asarray([output.shape[-1] - 1], device=output.device), axis=-1)[:, 0]
        state, threshold = threshold_at(state, self.threshold, score)
        return state, score > threshold
