"""Stop when the two largest scores are far enough apart, before any softmax (park2015biglittle)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import (
    Array,
    Output,
    PerExit,
    State,
    exact,
    logits_of,
    quiet,
    settle,
    threshold_at,
    usable,
)


@quiet
def raw_margin(logits: Array) -> Array:
    """Largest minus second largest logit ``[n]`` of ``[n, C]``; 0 for equal ones, unchanged if all are shifted.

    Infinite where all other classes are masked, NaN where the logits are not `usable`.
    """
    xp = array_namespace(logits)
    ranked = xp.sort(logits, axis=-1, descending=True)
    return xp.where(usable(logits), ranked[:, 0] - ranked[:, 1], xp.nan)


@dataclass(frozen=True)
class RawMargin:
    """Stop when ``raw_margin(logits) >= threshold``.

    0 always stops at the first exit; infinity never stops. A class that stands alone is infinitely far ahead.
    """

    threshold: PerExit  # one for all exits, or one per exit

    def __post_init__(self) -> None:
        settle(self, "threshold", per_exit=True)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the margin of logits ``[n, C]`` with the exit's threshold."""
        found = exact(raw_margin(logits_of(output)))
        state, threshold = threshold_at(state, self.threshold, found)
        return state, (found >= threshold) & (threshold < math.inf)
