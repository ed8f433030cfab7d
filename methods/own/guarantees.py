"""Promises about what leaving early loses: most probably (Learn then Test), or on average (conformal risk control).

Candidates are settings in a fixed order, from the safest to the boldest, made without the samples whose losses
``[K, n]`` are looked at here: those are exchangeable with what comes. Losses are in [0, 1]. Where samples form groups,
a loss is the mean of a group, since groups are what is exchangeable.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.policies.learn_then_test import PValue, binomial_cdf, hoeffding_bentkus, learn_then_test

Losses = NDArray[Any]


def binomial(mean: float, n: int, risk: float) -> float:
    """Return the p-value of "the expected loss is above the risk" for losses that are 0 or 1: it is exact.

    That is the probability of no more losses among ``n`` than were seen, ``P[Binomial(n, risk) <= n mean]``. Bentkus's
    bound, which serves any losses in [0, 1], is e times as large.
    """
    return binomial_cdf(round(n * mean), n, risk)


def p_value_of(groups: NDArray[np.int64] | None) -> PValue:
    """Return the p-value for losses of samples, which are 0 or 1, or for means of groups, which may lie between."""
    return binomial if groups is None else hoeffding_bentkus


def proved(
    losses: Losses, risk: float, delta: float, correction: str = "fixed-sequence", p_value: PValue = hoeffding_bentkus
) -> int | None:
    """Return the boldest candidate whose expected loss is at most ``risk``, but for a probability ``delta``.

    ``p_value`` is `binomial` for losses that can be nothing but 0 or 1. ``fixed-sequence`` tests one candidate after
    the other, each at the whole ``delta``, until one fails; ``bonferroni`` tests all at ``delta / K``. None if nothing
    is proved.
    """
    if correction == "fixed-sequence":
        return learn_then_test(losses, risk, delta, p_value)
    if correction != "bonferroni":
        raise ValueError(f"correction is `fixed-sequence` or `bonferroni`, not {correction!r}")
    passed = [k for k, row in enumerate(losses) if p_value(float(row.mean()), len(row), risk) <= delta / len(losses)]
    return passed[-1] if passed else None


def controlled(losses: Losses, risk: float) -> int | None:
    """Return the boldest candidate whose expected loss is at most ``risk``, on average over the draw of the samples.

    Conformal risk control needs losses that rise with boldness, so that of a candidate is the largest up to it:
    ``(n R + 1) / (n + 1) <= risk``. None if not even the safest may be taken.
    """
    n = losses.shape[1]
    worst = np.maximum.accumulate(losses, axis=0).mean(axis=1, dtype=np.float64)
    good = np.flatnonzero((n * worst + 1) / (n + 1) <= risk + 1e-12)
    return int(good[-1]) if len(good) else None


def rejecting(scores: NDArray[Any], share: float) -> float:
    """Return the score below which an answer is refused, so that a new one is with probability ``share`` at most.

    It is the ``floor((n + 1) share)``-th smallest; minus infinity, by which nobody is refused, if that is none.
    """
    rank = math.floor((len(scores) + 1) * share + 1e-9)
    return float(np.sort(scores)[rank - 1]) if 1 <= rank <= len(scores) else -math.inf


def least_samples(risk: float, delta: float | None = None) -> int:
    """Return how many samples without any loss are needed before a risk can be promised at all."""
    if delta is None:
        return math.ceil(1 / risk - 1 - 1e-9)
    return math.ceil(math.log(delta) / math.log1p(-risk) - 1e-9)


def least_risk(losses: Losses, delta: float | None = None, p_value: PValue = hoeffding_bentkus) -> float:
    """Return the least risk that could be promised of one candidate with losses ``[n]``."""
    n, mean = len(losses), float(losses.mean())
    if delta is None:
        return (n * mean + 1) / (n + 1)
    low, high = mean, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if 0 < middle < 1 and p_value(mean, n, middle) <= delta:
            high = middle
        else:
            low = middle
    return high


def by_group(values: NDArray[Any], groups: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """Return the means of values ``[..., n]`` over groups ``[n]``, ``[..., G]``; as they are without groups."""
    if groups is None:
        return np.asarray(values, dtype=np.float64)
    _, place = np.unique(groups, return_inverse=True)
    sizes = np.bincount(place)
    flat = np.asarray(values, dtype=np.float64).reshape(-1, values.shape[-1])
    found = np.stack([np.bincount(place, weights=row, minlength=len(sizes)) / sizes for row in flat])
    return found.reshape(*values.shape[:-1], len(sizes))
