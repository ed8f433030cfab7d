"""Conformal thresholds: leave early only where, with a chosen probability, the full model would say the same.

Any score will do, even a random one: a poor one costs layers, not the guarantee. Fitting only, in numpy; the thresholds
found here are those of `ScoreThreshold`. Source: schuster2021cats.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from eelit.methods.policies.base import checked

Fit = Callable[[NDArray[np.floating], NDArray[np.bool_], float], float | tuple[float, ...]]
"""From scores and consistency ``[E - 1, n]`` of calibration examples and a tolerance to the threshold or thresholds."""


def _said(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return scores with -inf for those that are not finite: nobody stops by them, so they mislead nobody."""
    wide = np.asarray(scores, dtype=np.float64)
    return np.where(np.isfinite(wide), wide, -np.inf)


def worst_misleading(scores: NDArray[np.floating], consistent: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the largest score that each example gave to an exit that was inconsistent.

    ``scores`` and ``consistent`` are ``[E - 1, n]``, exits before the last. Examples without an inconsistent exit
    cannot be misled and are left out, so that the threshold holds for those that can: ``[at most n]``.
    """
    worst = np.where(consistent, -np.inf, _said(scores)).max(axis=0)
    return worst[~consistent.all(axis=0)]


def conformal_threshold(scores: NDArray[np.floating], tolerance: float) -> float:
    """Return the ``⌈(n + 1)(1 - tolerance)⌉``-th smallest of the ``n`` scores and infinity.

    A new score, exchangeable with these, is above it with probability ``tolerance`` at most. Tolerance 0 gives
    infinity, 1 minus infinity. Raises `ValueError` for any other than from 0 to 1, here and below.
    """
    checked("conformal_threshold", "tolerance", tolerance, least=0, most=1)
    ordered = np.sort(np.append(_said(scores), np.inf))
    rank = math.ceil(len(ordered) * (1 - tolerance) - 1e-9)  # 10 * (1 - 0.7) is a little above 3
    return float(ordered[rank - 1]) if rank > 0 else -math.inf


def shared_threshold(scores: NDArray[np.floating], consistent: NDArray[np.bool_], tolerance: float) -> float:
    """Return one threshold for all exits, from scores and consistency ``[E - 1, n]`` of fresh examples."""
    return conformal_threshold(worst_misleading(scores, consistent), tolerance)


def independent_thresholds(
    scores: NDArray[np.floating], consistent: NDArray[np.bool_], tolerance: float
) -> tuple[float, ...]:
    """Return one threshold per exit, each with its part of the tolerance (Bonferroni): valid, but more cautious.

    Each comes from the examples on which this exit was inconsistent. Tolerance 1 still stops all at the first exit.
    """
    checked("independent_thresholds", "tolerance", tolerance, least=0, most=1)
    each = tolerance / len(scores) if tolerance < 1 else 1.0
    pairs = zip(scores, consistent, strict=True)
    return tuple(conformal_threshold(at_exit[~same], each) for at_exit, same in pairs)


def naive_threshold(tolerance: float) -> float:
    """Take the score at its word: stop where it is at least ``1 - tolerance``. Nothing is calibrated or promised."""
    checked("naive_threshold", "tolerance", tolerance, least=0, most=1)
    return math.nextafter(1 - tolerance, -math.inf)


def kept(
    scores: NDArray[np.floating], consistent: NDArray[np.bool_], threshold: float | tuple[float, ...]
) -> tuple[float, float]:
    """Return the share of examples answered as by the full model, and their mean exit (from 1)."""
    stops = np.isfinite(scores) & (scores > np.reshape(np.asarray(threshold), (-1, 1)))
    exits = np.where(stops.any(axis=0), stops.argmax(axis=0), len(scores))
    same = np.concatenate([consistent, np.ones_like(consistent[:1])])[exits, np.arange(len(exits))]
    return float(same.mean()), float(exits.mean()) + 1


def resampled(
    scores: NDArray[np.floating],
    consistent: NDArray[np.bool_],
    tolerance: float,
    fit: Fit = shared_threshold,
    *,
    seed: int = 0,
    repeats: int = 100,
) -> tuple[float, float]:
    """Return the means of what `kept` gives over random splits: calibrated on four fifths, tried on the last fifth."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(repeats):
        order = rng.permutation(scores.shape[1])
        ours, others = np.split(order, [int(0.8 * len(order))])
        threshold = fit(scores[:, ours], consistent[:, ours], tolerance)
        found.append(kept(scores[:, others], consistent[:, others], threshold))
    same, exits = np.mean(found, axis=0).tolist()
    return same, exits
