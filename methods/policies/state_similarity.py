"""Stop when a layer hardly changed the hidden state (schuster2022calm)."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, said


def cosine(a: Array, b: Array) -> Array:
    """Cosine ``[n]`` of the angle between vectors ``[n, d]``; 1 for equal ones."""
    xp = array_namespace(a, b)
    squares = xp.sum(a * a, axis=-1) * xp.sum(b * b, axis=-1)
    return xp.sum(a * b, axis=-1) / xp.sqrt(squares)


@dataclass(frozen=True)
class StateSimilarity:
    """Stop when the cosine between this exit's hidden state and the previous exit's is ``>= threshold``.

    The output of an exit is its hidden state ``[n, d]``. The first exit has no predecessor: its similarity counts as 0,
    so 0 always stops there. Anything clearly above 1 never stops (the cosine of equal states is 1 up to rounding).
    """

    threshold: float
    of: str = "state"  # the name of the hidden state, in outputs that say more

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the hidden state ``[n, d]`` with the one before, which the policy remembers."""
        hidden = said(output, self.of)
        xp = array_namespace(hidden)
        if state:
            found = cosine(state[0], hidden)
        else:
            found = xp.zeros((hidden.shape[0],), dtype=hidden.dtype, device=hidden.device)
        return (hidden,), found >= self.threshold
