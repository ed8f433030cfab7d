"""Stop unless a small network, which reads the class probabilities alone, says "I don't know" (wang2018idk)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, PerExit, State, logits_of, quiet, settle, softmax, usable

Rows = Sequence[Sequence[float]]
Gate = tuple[Rows, Sequence[float], Sequence[float], float]
"""``(W [H, C], b [H], v [H], a)`` of ``h(p) = sigmoid(v . relu(W p + b) + a)``, the chance that an answer is wrong."""


@dataclass(frozen=True)
class DontKnow:
    """Stop when ``h(p) <= level``, with p the softmax of the exit's logits and h the exit's own gate.

    A level of 1 always stops at the first exit; 0 never stops.
    """

    gates: tuple[Gate, ...]  # one per exit but the last
    level: PerExit = 0.5  # one for all exits, or one per exit

    def __post_init__(self) -> None:
        settle(self, "level", per_exit=True, least=0, most=1)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    @quiet
    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare what the gate says of logits ``[n, C]``, before the sigmoid; the state is the number of the exit."""
        logits = logits_of(output)
        xp, p = array_namespace(logits), softmax(logits)
        here = state[0] if state else xp.zeros((p.shape[0],), dtype=xp.int64, device=p.device)

        def own(values: Sequence[object]) -> Array:
            return xp.take(xp.asarray(values, dtype=p.dtype, device=p.device), here, axis=0)

        W, b, v, a = (own(parts) for parts in zip(*self.gates, strict=True))
        hidden = xp.matmul(W, p[:, :, None])[:, :, 0] + b
        hidden = xp.where(hidden > 0, hidden, 0.0)
        found = xp.matmul(v[:, None, :], hidden[:, :, None])[:, 0, 0] + a
        levels = cast(
            "Sequence[float]", self.level if isinstance(self.level, tuple) else [self.level] * len(self.gates)
        )
        return (here + 1,), (found <= own([logit(level) for level in levels])) & usable(logits)


def logit(level: float) -> float:
    """Return the number whose sigmoid is the level, infinite for 0 and 1."""
    if level in (0, 1):
        return math.inf if level else -math.inf
    return math.log(level / (1 - level))
