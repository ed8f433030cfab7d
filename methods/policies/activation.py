"""Stop when the strongest output is strong for its exit (passalis2020hierarchical, li2023predictive).

What is compared are logits as they are, not probabilities: how strong is strong is learnt from the mean over samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from eelit.methods.policies.base import (
    Array,
    Output,
    PerExit,
    State,
    exact,
    logits_of,
    on_host,
    quiet,
    settle,
    threshold_at,
    usable,
)


@quiet
def strength(logits: Array, *, either_sign: bool = False) -> Array:
    """Return the activation strength ``[...]`` of logits ``[..., C]``: the largest, or the largest without its sign."""
    xp = array_namespace(logits)
    return exact(xp.max(xp.abs(logits) if either_sign else logits, axis=-1))


def mean_strengths(outputs: Array, *, either_sign: bool = False) -> tuple[float, ...]:
    """Return ``|mean strength|`` of samples at each exit, of logits ``[E, n, C]``; those not usable are left out."""
    found = []
    for logits in on_host(outputs):
        found.append(abs(float(np.mean(strength(logits[usable(logits)], either_sign=either_sign)))))
    return tuple(found)


@dataclass(frozen=True)
class Activation:
    """Stop when the largest logit is strictly above the threshold.

    Minus infinity always stops at the first exit, infinity never stops.
    """

    threshold: PerExit  # one for all exits, or one per exit, in the unit of the logits

    def __post_init__(self) -> None:
        settle(self, "threshold", per_exit=True)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the strength of logits ``[n, C]`` with the exit's threshold."""
        logits = logits_of(output)
        found = strength(logits)
        state, threshold = threshold_at(state, self.threshold, found)
        return state, (found > threshold) & usable(logits)
