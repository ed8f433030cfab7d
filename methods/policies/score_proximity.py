"""Stop whoever is too far behind the k-th best of the same query (cambazoglu2010early, rule EPT)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, exact, settle, values_of


@dataclass(frozen=True)
class ScoreProximity:
    """Stop the candidates whose score is smaller than the ``k``-th best score minus ``distance``.

    The rule sees all candidates of one query at once. ``distance`` 0 keeps exactly those that score at least the k-th
    best (all of them if there are no more than k); an infinite one keeps everybody, minus infinity nobody.
    A score that is not finite is nobody's rival, and its candidate stays.
    """

    distance: float
    k: int = 10

    def __post_init__(self) -> None:
        settle(self, "distance")
        settle(self, "k", whole=True, least=1)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Take the partial scores ``[n]`` of all candidates of a query that are still running."""
        scores = exact(values_of(output))
        xp = array_namespace(scores)
        if not scores.shape[0]:
            return (), scores < 0
        known = xp.isfinite(scores)
        best = xp.sort(xp.where(known, scores, -math.inf), descending=True)[min(self.k, scores.shape[0]) - 1]
        best = xp.maximum(best, xp.min(xp.where(known, scores, math.inf)))  # where fewer than k have a score, the worst
        return (), scores < best - self.distance
