"""Stop when the predicted distribution has little entropy.

>>> percentile_thresholds([np.array([0.1, 0.2, 0.3, 0.4])], 0.5)  # half of the samples stay below
(0.3,)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eelit.methods.policies.base import (
    Array,
    Output,
    PerExit,
    State,
    checked,
    entropy,
    exact,
    logits_of,
    on_host,
    settle,
    threshold_at,
)


@dataclass(frozen=True)
class Entropy:
    """Stop when the entropy of ``softmax(logits)`` in nats is strictly below the threshold.

    0 never stops (entropy is not negative); anything above ``ln C`` always stops at the first exit.
    """

    threshold: PerExit  # in nats; one for all exits, or one per exit

    def __post_init__(self) -> None:
        settle(self, "threshold", per_exit=True)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the entropy of logits ``[n, C]``, or ``[n, W, C]`` of words, with the exit's threshold."""
        h = exact(entropy(logits_of(output, axes=(2, 3))))
        state, threshold = threshold_at(state, self.threshold, h)
        return state, h < threshold


def percentile_thresholds(entropies: Sequence[Array], share: float) -> tuple[float, ...]:
    """Return one threshold per exit: the entropy that a share of held-out samples stays strictly below (no ties).

    ``entropies`` holds ``[N]`` for each exit; one that is NaN stays below nothing. Share 0 gives thresholds 0 (never
    stop), share 1 infinity (always stop). Raises `ValueError` for a share that is NaN.
    """
    checked("percentile_thresholds", "share", share)
    if not 0 < share < 1:
        return (0.0 if share <= 0 else math.inf,) * len(entropies)
    known = [np.where(np.isnan(h), math.inf, h) for h in map(on_host, entropies)]
    return tuple(float(np.sort(h)[math.floor(share * len(h) + 1e-9)]) for h in known)
