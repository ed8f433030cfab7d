"""Ensembles of regression trees (LightGBM): partial scores, and a counter of the trees that are really traversed."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray


def scores(
    booster: lightgbm.Booster, features: NDArray[Any], start: int = 0, stop: int | None = None
) -> NDArray[np.float64]:
    """Return the summed outputs ``[n]`` of trees ``start`` … ``stop - 1`` for rows ``[n, F]``; no others are run."""
    stop = booster.num_trees() if stop is None else stop
    if stop <= start or not len(features):
        return np.zeros(len(features))
    found = booster.predict(features, start_iteration=start, num_iteration=stop - start, raw_score=True, num_threads=1)
    return np.asarray(found, dtype=np.float64)


def probabilities(booster: lightgbm.Booster, features: NDArray[Any]) -> NDArray[np.float64]:
    """Return the probability ``[n]`` of class 1 that a classifier gives for rows ``[n, F]``."""
    return np.asarray(1 / (1 + np.exp(-scores(booster, features))), dtype=np.float64)


class TreeCounter:
    """Context manager that counts, in ``trees``, the row × tree evaluations of all LightGBM boosters inside it.

    It stands in for `lightgbm.Booster.predict` and asks LightGBM for the leaves that the same call reaches: one leaf
    for each row and each tree traversed. So the count does not rest on what the caller claims to have asked for.
    """

    def __init__(self) -> None:
        self.trees = 0

    def __enter__(self) -> TreeCounter:
        self._predict = predict = lightgbm.Booster.predict

        def counted(booster: lightgbm.Booster, data: Any, **options: Any) -> Any:
            leaves = predict(booster, data, **{**options, "raw_score": False, "pred_leaf": True})
            self.trees += np.size(leaves)
            return predict(booster, data, **options)

        lightgbm.Booster.predict = counted
        return self

    def __exit__(self, *error: object) -> None:
        lightgbm.Booster.predict = self._predict
