"""Stop a token when a gate finds it more likely that it is not needed any more."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, exact, logits_of, settle, usable


@dataclass(frozen=True)
class TokenGate:
    """Stop a token when its logit for staying exceeds that for leaving by no more than the margin.

    Margin 0 takes the likelier of the two, and leaving if they are equal; infinity stops every token, minus infinity
    none.
    """

    margin: float = 0.0

    def __post_init__(self) -> None:
        settle(self, "margin")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the logits (leave, stay) ``[n, 2]``."""
        logits = logits_of(output, classes=2)
        xp, known = array_namespace(logits), usable(logits)
        leave, stay = (exact(xp.where(known, logits[:, i], 0.0)) for i in (0, 1))
        return (), (stay - leave <= self.margin) & (self.margin > -math.inf) & known  # a mask lies -inf apart
