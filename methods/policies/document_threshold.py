"""Stop the documents that score or rank too badly among those of their query that still run (cambazoglu2010early)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import (
    Array,
    Output,
    PerExit,
    State,
    choose,
    exact,
    quiet,
    settle,
    threshold_at,
    values_of,
)  # fmt: skip

RULES = ("score", "capacity", "rank", "proximity")


@quiet
def criterion(rule: str, scores: Array, k: int) -> Array:
    """Return what is compared with the threshold ``[n]``, from the partial scores of all that still run of one query.

    By ``score`` it is -s; by ``capacity`` 1 + the earlier candidates that are better, as in a heap that is filled while
    they come one by one; by ``rank`` 1 + all that are better; by ``proximity`` the k-th best score (the worst, where
    there are fewer) less s. Equal scores are not better than each other. NaN stands nowhere, and is nobody's rival.
    """
    scores = exact(values_of(scores))
    xp = array_namespace(scores)
    if rule == "score" or not scores.shape[0]:
        return -scores
    known = xp.isfinite(scores)
    if rule == "proximity":
        best = xp.sort(xp.where(known, scores, -math.inf), descending=True)[min(k, scores.shape[0]) - 1]
        return xp.maximum(best, xp.min(xp.where(known, scores, math.inf))) - scores
    better = scores[None, :] > scores[:, None]
    if rule == "capacity":
        better = xp.tril(better)
    ahead = xp.astype(xp.sum(xp.astype(better, xp.int64), axis=1), scores.dtype)
    return xp.where(known, 1 + ahead, math.nan)


@dataclass(frozen=True)
class DocumentThreshold:
    """Stop the candidates whose `criterion` is strictly above the threshold.

    The rule sees all candidates of one query at once. So ``threshold`` is minus the least score (EST), the capacity of
    the heap (ECT), the last rank (ERT), or the distance to the ``k``-th best (EPT). Infinity keeps everybody, minus
    infinity nobody.
    """

    rule: str
    threshold: PerExit  # one for all exits, or one per exit
    k: int = 10

    def __post_init__(self) -> None:
        choose(self, "rule", RULES)
        settle(self, "threshold", per_exit=True)
        settle(self, "k", whole=True, least=1)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Take the partial scores ``[n]`` of all candidates of a query that are still running, in their order."""
        behind = criterion(self.rule, output, self.k)
        state, threshold = threshold_at(state, self.threshold, behind)
        return state, behind > threshold
