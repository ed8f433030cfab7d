"""Learn then Test: choose a threshold so that, with high probability, the mean loss stays below a tolerance.

Each candidate is tested on held-out sequences: a small p-value rejects the hypothesis that its expected loss is above
the tolerance. Candidates are tried one after the other, from the safest on, until the first is not proved safe; in this
fixed order every test may use the whole error level. Numpy alone; losses are in [0, 1]. Source: schuster2022calm.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from eelit.methods.policies.base import checked

PValue = Callable[[float, int, float], float]
"""From the mean loss of ``n`` sequences, ``n`` and the tolerance to a p-value."""


def hoeffding(mean: float, n: int, tolerance: float) -> float:
    """Hoeffding's p-value for "the expected loss is above the tolerance": ``exp(-2 n max(0, tolerance - mean)²)``."""
    return float(np.exp(-2 * n * max(0.0, tolerance - mean) ** 2))


def hoeffding_bentkus(mean: float, n: int, tolerance: float) -> float:
    """Return the smaller of a sharper Hoeffding bound and Bentkus's, never above 1.

    ``exp(-n KL(min(mean, tolerance), tolerance))`` with KL between two coins, and
    ``e P[Binomial(n, tolerance) <= ⌈n mean⌉]``.
    """
    a, b = min(mean, tolerance), tolerance
    divergence = (1 - a) * np.log((1 - a) / (1 - b)) + (a * np.log(a / b) if a > 0 else 0.0)
    bentkus = np.e * binomial_cdf(int(np.ceil(n * mean)), n, tolerance)
    return float(min(np.exp(-n * divergence), bentkus, 1.0))


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return the probability of at most ``k`` successes in ``n`` trials with probability ``0 < p < 1`` each."""
    i = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_terms = log_factorial[n] - log_factorial[i] - log_factorial[n - i] + i * np.log(p) + (n - i) * np.log1p(-p)
    return float(min(1.0, np.exp(log_terms[: k + 1]).sum()))


def learn_then_test(
    losses: NDArray[np.floating], tolerance: float, error: float, p_value: PValue = hoeffding
) -> int | None:
    """Return the index of the last candidate proved safe, or None if not even the first one is.

    Args:
        losses: ``[K, n]``, the losses of K candidates, from the safest to the boldest, on the same n sequences.
        tolerance: what the expected loss must not exceed (δ).
        error: the probability with which that may fail over the draw of the sequences (ε).
        p_value: `hoeffding` as in the paper, or `hoeffding_bentkus`, which is sharper.

    A candidate behind the first one not proved safe is never returned, however small its own loss. One of which a loss
    is not finite is not proved safe. Raises `ValueError` unless tolerance and error are from 0 to 1.
    """
    checked("learn_then_test", "tolerance", tolerance, least=0, most=1)
    checked("learn_then_test", "error", error, least=0, most=1)
    best = None
    for k, row in enumerate(losses):
        mean = float(row.mean())
        if not math.isfinite(mean) or p_value(mean, len(row), tolerance) > error:
            break
        best = k
    return best


def share_missed(
    losses: NDArray[np.floating],
    tolerance: float,
    error: float,
    *,
    seed: int = 0,
    repeats: int = 200,
    p_value: PValue = hoeffding,
) -> float:
    """Return how often a candidate chosen on one half of the sequences loses more than tolerated on the other half.

    ``losses [K, n]`` as in `learn_then_test`; the halves are random. Where nothing is proved safe, nothing is missed:
    the full model is used. The share should be at most about ``error``.
    """
    rng = np.random.default_rng(seed)
    missed = 0
    for _ in range(repeats):
        order = rng.permutation(losses.shape[1])
        ours, others = np.array_split(order, 2)
        chosen = learn_then_test(losses[:, ours], tolerance, error, p_value)
        missed += chosen is not None and not float(losses[chosen, others].mean()) <= tolerance  # NaN is a miss
    return missed / repeats
