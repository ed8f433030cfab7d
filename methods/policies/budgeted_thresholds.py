"""Exit thresholds from a budget for a whole batch: how many may leave where follows from the costs of the exits.

Fitting only: the thresholds found here are those of `MaxConfidence`. Arrays are numpy's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eelit.methods.policies.base import checked


def exit_shares(ratio: float, exits: int) -> NDArray[np.float64]:
    """Return the share ``[E]`` of samples to leave at each exit, a geometric series: share k goes with ``ratio**k``.

    ``ratio = 1 - q`` is the paper's form, where each exit releases a share q of those that reach it:
    ``(1 - q)**(k - 1) * q``, scaled to sum 1. Above 1 more leave late than early, as in the released code. 0 sends all
    to the first exit, infinity all to the last. Raises `ValueError` for a ratio below 0, or NaN.
    """
    checked("exit_shares", "ratio", ratio, least=0)
    checked("exit_shares", "exits", exits, whole=True, least=1)
    if ratio == 0 or math.isinf(ratio):
        return np.eye(exits)[0 if ratio == 0 else -1]
    powers = np.arange(exits) * math.log(ratio)
    shares: NDArray[np.float64] = np.exp(powers - powers.max())
    return shares / shares.sum()


def ratio_within(budget: float, costs: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the largest ratio whose shares cost at most ``budget`` per sample, given the rising costs of the exits.

    0 if even the first exit costs as much as the budget, infinity if the last costs no more. Raises `ValueError` for
    a budget that is NaN.
    """
    checked("ratio_within", "budget", budget)
    cost = np.asarray(costs, dtype=np.float64)
    if budget <= cost[0]:
        return 0.0
    if budget >= cost[-1]:
        return math.inf
    low, high = -60.0, 60.0  # logarithms of the ratio; at either end all but 1e-26 of the samples leave at one exit
    for _ in range(100):
        middle = (low + high) / 2
        if exit_shares(math.exp(middle), len(cost)) @ cost <= budget:
            low = middle
        else:
            high = middle
    return math.exp(low)


def thresholds_for(confidence: NDArray[np.floating], shares: NDArray[np.float64]) -> tuple[float, ...]:
    """Return thresholds for all exits but the last, so that held-out samples leave in the given shares ``[E]``.

    ``confidence [E, N]`` is what held-out samples reach at each exit. From the first exit on, the threshold is the
    ``floor(N * share)``-th largest confidence among the samples that have not left yet; where this is none, or more
    than are left, nobody leaves (infinity). A sample leaves when its confidence is at least the threshold, so that ties
    leave together. A confidence that is not finite never leaves.
    """
    n = confidence.shape[1]
    inside = np.ones(n, dtype=bool)
    thresholds: list[float] = []
    for at_exit, share in zip(confidence[:-1], shares, strict=False):
        out = math.floor(n * share + 1e-9)
        known = np.isfinite(at_exit)
        left = np.sort(at_exit[inside & known])[::-1]
        threshold = float(left[out - 1]) if 1 <= out <= len(left) else math.inf
        inside &= ~known | (at_exit < threshold)
        thresholds.append(threshold)
    return tuple(thresholds)
