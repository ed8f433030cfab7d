"""Strike out classes exit by exit, and stop when a single one is left (wang2024exclusion)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, exact, logits_of, quiet, settle, usable


@dataclass(frozen=True)
class ClassExclusion:
    """Keep those of the remaining classes whose sigmoid is strictly above ``beta`` times the largest one.

    The class with the largest sigmoid always stays, and comes back if it was struck out before. Stop when one class is
    left: it is the answer. Exits behind those that have a ``beta``, as the last one, strike nothing out: the largest of
    their logits among the remaining classes is the answer. 0 keeps whatever remains, and so never stops; 1 leaves the
    largest alone, and so always stops at the first exit. An exit whose logits are not finite strikes nothing out.
    """

    beta: Sequence[float]  # one per exit but the last

    def __post_init__(self) -> None:
        settle(self, "beta", per_exit=True, least=0, most=1)
        if not isinstance(self.beta, tuple):
            raise ValueError(f"ClassExclusion: beta is one number per exit but the last, not {self.beta!r}")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    @quiet
    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Strike out classes by logits ``[n, C]``; the state is what remains ``[n, C]`` and the number of the exit."""
        logits = logits_of(output)
        xp = array_namespace(logits)
        if not state:
            nought = xp.zeros((logits.shape[0],), dtype=xp.int64, device=logits.device)
            state = (xp.ones(logits.shape, dtype=xp.bool, device=logits.device), nought)
        remaining, index = state
        before_last = index < len(self.beta)
        asked = usable(logits) & before_last
        score = _log_sigmoid(exact(logits))
        limits = [math.log(beta) if beta > 0 else -math.inf for beta in (*self.beta, 0.0)]
        limit = xp.take(xp.asarray(limits, dtype=score.dtype, device=logits.device), index, axis=0)
        classes = xp.arange(logits.shape[-1], device=logits.device)
        best = classes == xp.argmax(logits, axis=-1, keepdims=True)
        kept = (remaining & (score - xp.max(score, axis=-1, keepdims=True) > limit[:, None])) | best
        remaining = xp.where(asked[:, None], kept, remaining)
        stop = asked & (xp.sum(xp.astype(remaining, xp.int64), axis=-1) == 1)
        return (remaining, index + xp.astype(before_last, xp.int64)), stop

    def answer(self, state: State, output: Output) -> Array:
        """Return the logits ``[n, C]``, -inf for the classes that were struck out."""
        logits = logits_of(output)
        return array_namespace(logits).where(state[0], logits, -math.inf)


def _log_sigmoid(logits: Array) -> Array:
    """Logarithm of the sigmoid, finite even where the sigmoid underflows."""
    xp = array_namespace(logits)
    return xp.where(logits < 0, logits, 0.0) - xp.log1p(xp.exp(-xp.abs(logits)))
