"""Stop when the largest class probability reaches a threshold."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, PerExit, State, exact, logits_of, settle, softmax, threshold_at


@dataclass(frozen=True)
class MaxConfidence:
    """Stop when ``max softmax(logits) >= threshold``.

    0 always stops at the first exit; anything above 1 never stops.
    """

    threshold: PerExit  # one for all exits, or one per exit

    def __post_init__(self) -> None:
        settle(self, "threshold", per_exit=True)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the top probability of logits ``[n, C]``, or ``[n, W, C]`` of words, with the exit's threshold."""
        logits = logits_of(output, axes=(2, 3))
        xp = array_namespace(logits)
        confidence = exact(xp.max(softmax(logits), axis=-1))
        state, threshold = threshold_at(state, self.threshold, confidence)
        return state, confidence >= threshold
