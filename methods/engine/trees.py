"""Ensembles of regression trees with LightGBM: training, partial scores, a counter of the trees really traversed.

What is trained is the same to the last bit on every run, and cached as text, which LightGBM sees only if it is whole: a
model that was cut short makes it abort the process.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from eelit.methods.data.cache import keep, kept
from eelit.methods.data.progress import say
from eelit.methods.engine.method import Bench

ALWAYS = {"verbosity": -1, "num_threads": 1, "deterministic": True, "force_row_wise": True}


def boosted(
    features: NDArray[Any],
    labels: NDArray[Any],
    bench: Bench,
    *,
    trees: int,
    label: str,
    settings: Mapping[str, Any],
    weights: NDArray[np.float64] | None = None,
    sizes: NDArray[np.int64] | None = None,
) -> lightgbm.Booster:
    """Train ``trees`` trees on rows ``[n, F]`` with labels ``[n]``, unless the cache already has them.

    ``settings`` are LightGBM's parameters, ``weights`` ``[n]`` those of the rows, ``sizes`` the number of consecutive
    rows of each query (for ranking objectives). The name in the cache is a hash of all of this, the seed and LightGBM's
    version.
    """
    lightgbm.register_logger(_OnStderr())
    begin = time.perf_counter()
    chosen = {**ALWAYS, "seed": bench.seed, **settings}

    def train() -> str:
        bench.prepared_from_cache = False
        rows = lightgbm.Dataset(features, labels, weight=weights, group=sizes, params=chosen)
        report = [lambda env: bench.progress(label, (env.iteration + 1) / trees)]
        return lightgbm.train(chosen, rows, num_boost_round=trees, callbacks=report).model_to_string()

    if bench.cache is None:
        text = train()
    else:
        facts = [trees, chosen, lightgbm.__version__]
        name = _digest(facts, features, labels, weights, sizes)
        text = _cached(bench.cache / "trees" / f"{name}.kept", train)
    bench.prepared_seconds += time.perf_counter() - begin
    return lightgbm.Booster(model_str=text)


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


class _OnStderr:
    """Tells LightGBM's warnings on stderr: it would print them on stdout, where they would stand amid JSON."""

    def info(self, text: str) -> None:
        """Tell what the library itself says if it is a warning; all that it says comes this way."""
        if "[Warning]" in text:
            self.warning(text)

    def warning(self, text: str) -> None:
        """Tell a warning in one line."""
        say(" ".join(text.split()))


def _cached(path: Path, train: Callable[[], str]) -> str:
    """Return the text at the path, made first if need be, by one process only."""
    known = kept(path)
    if known is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            known = kept(path)  # another process may have made it while this one waited
            if known is None:
                known = train().encode()
                keep(path, known)
    return known.decode()


def _digest(facts: object, *arrays: NDArray[Any] | None) -> str:
    h = hashlib.blake2b(digest_size=16)
    h.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for array in arrays:
        h.update(
            b"none"
            if array is None
            else str((array.dtype, array.shape)).encode() + np.ascontiguousarray(array).tobytes()
        )
    return h.hexdigest()
