"""Stop when the exits' predictions have hardly changed for some layers in a row (gao2023pfberxit)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, choose, exact, log_softmax, logits_of, quiet, settle

Distance = Literal["kl", "rekl", "bikl", "js"]


@quiet
def kl(log_p: Array, log_q: Array) -> Array:
    """Kullback-Leibler divergence ``KL(p || q)`` in nats ``[n]``, from logarithms of probabilities ``[n, C]``.

    A class that p excludes adds nothing; one that q alone excludes makes it infinite.
    """
    xp = array_namespace(log_p, log_q)
    p = xp.exp(log_p)
    return xp.sum(p * xp.where(p == 0, 0.0, log_p - log_q), axis=-1)


@quiet
def js(log_p: Array, log_q: Array) -> Array:
    """Jensen-Shannon divergence ``[n]``: the mean divergence of p and q from their mean; at most ``ln 2``."""
    xp = array_namespace(log_p, log_q)
    middle = xp.logaddexp(log_p, log_q) - math.log(2)  # finite even where both probabilities underflow
    return (kl(log_p, middle) + kl(log_q, middle)) / 2


DISTANCES: Mapping[Distance, Callable[[Array, Array], Array]] = {
    "kl": kl,
    "rekl": lambda log_p, log_q: kl(log_q, log_p),
    "bikl": lambda log_p, log_q: kl(log_p, log_q) + kl(log_q, log_p),
    "js": js,
}
"""From the logarithms of the previous and of the present exit's probabilities to their distance ``[n]``."""


@dataclass(frozen=True)
class FlexiblePatience:
    """Stop when neighbouring exits' distributions were strictly closer than ``threshold``, ``patience`` times in a row.

    The counter is 0 at the first exit, so the earliest exit (counted from 0) is number ``patience``. A threshold of 0
    never stops, as no distance is negative; an infinite one stops everything at that earliest exit, unless a distance
    is infinite (a class masked at one exit only). Each sample has its own counter, which logits that are not finite set
    to 0.
    """

    threshold: float
    patience: int
    distance: Distance = "kl"

    def __post_init__(self) -> None:
        settle(self, "threshold")
        settle(self, "patience", whole=True, least=0)
        choose(self, "distance", DISTANCES)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the distribution of logits ``[n, C]`` with the one before."""
        log_p = log_softmax(logits_of(output))
        xp = array_namespace(log_p)
        if not state:
            count = xp.zeros((log_p.shape[0],), dtype=xp.int64, device=log_p.device)
        else:
            previous, before = state
            far = DISTANCES[self.distance](previous, log_p)
            far = xp.where(far < 0, 0.0, far)  # rounding can make it negative
            count = xp.where(exact(far) < self.threshold, before + 1, xp.zeros_like(before))
        return (log_p, count), (count >= self.patience) & ~xp.isnan(log_p[:, 0])  # all classes are NaN, or none is
