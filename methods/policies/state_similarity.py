"""Stop when a layer hardly changed the hidden state (schuster2022calm)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, exact, not_that, quiet, said, settle, widened


@quiet
def cosine(a: Array, b: Array) -> Array:
    """Cosine ``[n]`` of the angle between vectors ``[n, d]``: 1 for equal ones, NaN where a length is none."""
    xp, a, b = array_namespace(a, b), _of_size_1(a), _of_size_1(b)
    return xp.sum(a * b, axis=-1) / xp.sqrt(xp.sum(a * a, axis=-1) * xp.sum(b * b, axis=-1))


def _of_size_1(vectors: Array) -> Array:
    """Return vectors ``[n, d]`` divided by their largest number, so that no square leaves the range of the precision.

    NaN where that is 0, or not finite.
    """
    xp, vectors = array_namespace(vectors), widened(vectors)
    largest = xp.max(xp.abs(vectors), axis=-1, keepdims=True)
    return vectors / xp.where((largest > 0) & (largest < math.inf), largest, math.nan)


@dataclass(frozen=True)
class StateSimilarity:
    """Stop when the cosine between this exit's hidden state and the previous exit's is ``>= threshold``.

    The output of an exit is its hidden state ``[n, d]``. The first exit has no predecessor: its similarity counts as 0,
    so 0 always stops there. Anything clearly above 1 never stops (the cosine of equal states is 1 up to rounding).
    """

    threshold: float
    of: str = "state"  # the name of the hidden state, in outputs that say more

    def __post_init__(self) -> None:
        settle(self, "threshold")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the hidden state ``[n, d]`` with the one before, which the policy remembers."""
        hidden = said(output, self.of)
        if getattr(hidden, "ndim", None) != 2:
            raise ValueError(f"the policy reads states [n, d], {not_that(hidden)}")
        xp = array_namespace(hidden)
        found = cosine(state[0], hidden) if state else xp.where(xp.all(xp.isfinite(hidden), axis=-1), 0.0, math.nan)
        return (hidden,), exact(found) >= self.threshold
