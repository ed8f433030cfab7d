"""Leave at the depth that a forecast finds likeliest, made once, at the first exit (elbayad2020depth)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, exact, log_softmax, logits_of, settle, usable


@dataclass(frozen=True)
class LikeliestDepth:
    """Stop at exit ``argmax_n q(n) o^n`` of the forecast ``q`` that is said at the first exit, ``o`` being odds.

    ``balance`` in [0, 1] gives the odds ``balance / (1 - balance)``: at 0.5 it is the likeliest exit, below it depth
    has a price, above it a prize. 0 always stops at the first exit, 1 and more never stops. Of exits that are equally
    likely the first is taken; a forecast that is not finite stops nobody, then or later.
    """

    balance: float
    of: str = "forecast"  # the forecast's name in outputs that say more

    def __post_init__(self) -> None:
        settle(self, "balance", least=0)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Read logits ``[n, E]``, one for each exit, at the first exit alone; the state is exit and depth ``[n]``."""
        logits = logits_of(output, self.of)
        xp = array_namespace(logits)
        here, depth = state or (xp.zeros(logits.shape[:1], dtype=xp.int64, device=logits.device), self.depth(logits))
        return (here + 1, depth), (here >= depth) & usable(logits)

    def depth(self, logits: Array) -> Array:
        """Return the exit ``[n]`` (from 0) that a forecast of logits ``[n, E]`` means."""
        xp, known = array_namespace(logits), usable(logits)
        exits, last = xp.arange(logits.shape[1], dtype=xp.int64, device=logits.device), logits.shape[1] - 1
        if self.balance <= 0:
            found = xp.zeros(logits.shape[:1], dtype=xp.int64, device=logits.device)
        elif self.balance >= 1:
            found = xp.full(logits.shape[:1], last, dtype=xp.int64, device=logits.device)
        else:
            slope = math.log(self.balance / (1 - self.balance))
            worth = exact(log_softmax(xp.where(known[:, None], logits, 0.0)))
            worth = worth + xp.astype(exits, worth.dtype) * slope
            best = worth == xp.max(worth, axis=1, keepdims=True)
            found = xp.min(xp.where(best, exits, last), axis=1)
        return xp.where(known, found, last)
