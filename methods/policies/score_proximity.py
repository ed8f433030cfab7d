"""Stop whoever is too far behind the k-th best of the same query (cambazoglu2010early, rule EPT)."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, said


@dataclass(frozen=True)
class ScoreProximity:
    """Stop the candidates whose score is smaller than the ``k``-th best score minus ``distance``.

    The rule sees all candidates of one query at once. ``distance`` 0 keeps exactly those that score at least the k-th
    best (all of them if there are no more than k); an infinite one keeps everybody, minus infinity nobody.
    """

    distance: float
    k: int = 10

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Take the partial scores ``[n]`` of all candidates of a query that are still running."""
        scores = said(output)
        xp = array_namespace(scores)
        best = xp.sort(scores, descending=True)
        return (), ~(scores >= best[min(self.k, scores.shape[0]) - 1] - self.distance)
