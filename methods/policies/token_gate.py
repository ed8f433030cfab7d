"""Stop a token when a gate finds it more likely that it is not needed any more."""

from __future__ import annotations

from dataclasses import dataclass

from eelit.methods.policies.base import Array, State


@dataclass(frozen=True)
class Skim:
    """Stop a token when its logit for staying exceeds that for leaving by no more than the margin.

    Margin 0 takes the likelier of the two, and leaving if they are equal; infinity stops every token, minus infinity
    none.
    """

    margin: float = 0.0

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Array) -> tuple[State, Array]:
        """Compare the logits (leave, stay) ``[n, 2]``."""
        return (), output[:, 1] - output[:, 0] <= self.margin
