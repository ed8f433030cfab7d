"""Stop, go on or go further ahead, as linear rules on how sure an answer is have learned (bolukbasi2017adaptive)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, entropy, logits_of, quiet, softmax, usable

Rows = Sequence[Sequence[float]]
"""One row ``[FEATURES + 1]`` for each action: weights of the features, then what is added."""
FEATURES = 3


def features(logits: Array) -> Array:
    """Return what a rule reads of logits ``[..., C]``: the largest probability, how far it leads, the entropy."""
    xp, p = array_namespace(logits), softmax(logits)
    ranked = xp.sort(p, axis=-1, descending=True)
    return xp.stack([ranked[..., 0], ranked[..., 0] - ranked[..., 1], entropy(logits)], axis=-1)


@dataclass(frozen=True)
class LinearChoice:
    """Take the action with the largest score, linear in `features`; of equal scores the first.

    Action 0 stops, action a goes to the a-th exit or member behind; those between are passed over.
    """

    rules: tuple[Rows, ...]  # one per exit but the last, each with at least one action

    def start(self) -> State:
        """Return the empty state."""
        return ()

    @quiet
    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Score the actions on logits ``[n, C]``; the state is the exit to ask next."""
        logits = logits_of(output)
        xp, read = array_namespace(logits), features(logits)
        here = state[0] if state else xp.zeros((read.shape[0],), dtype=xp.int64, device=read.device)
        most = max(map(len, self.rules))
        none = (*(0.0,) * FEATURES, -math.inf)
        padded = [[*rows, *[none] * (most - len(rows))] for rows in self.rules]
        own = xp.take(xp.asarray(padded, dtype=read.dtype, device=read.device), here, axis=0)
        scores = xp.matmul(own[:, :, :-1], read[:, :, None])[:, :, 0] + own[:, :, -1]
        action = xp.argmax(scores, axis=-1)
        stop = (action == 0) & usable(logits)
        return (here + xp.where(action > 0, action, 1),), stop

    def route(self, state: State, output: Output) -> Array:
        """Return the exit or member ``[n]`` to ask next."""
        return state[0]
