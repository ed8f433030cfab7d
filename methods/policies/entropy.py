"""Stop when the predicted distribution has little entropy."""

from __future__ import annotations

from dataclasses import dataclass

from eelit.methods.policies.base import Array, State, entropy, threshold_at


@dataclass(frozen=True)
class Entropy:
    """Stop when the entropy of ``softmax(logits)`` in nats is strictly below the threshold.

    0 never stops (entropy is not negative); anything above ``ln C`` always stops at the first exit.
    """

    threshold: float | tuple[float, ...]  # in nats; one for all exits, or one per exit

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Array) -> tuple[State, Array]:
        """Compare the entropy of logits ``[n, C]`` with the exit's threshold."""
        h = entropy(output)
        state, threshold = threshold_at(state, self.threshold, h)
        return state, h < threshold
