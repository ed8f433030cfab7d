"""Gradient-boosted trees with LightGBM, the same to the last bit on every run, cached as text."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightgbm
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from eelit.methods.engine.method import Bench
from eelit.methods.engine.queries import Queries
from eelit.methods.engine.trees import scores

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
        text = _cached(bench.cache / "trees" / f"{name}.txt", train)
    bench.prepared_seconds += time.perf_counter() - begin
    return lightgbm.Booster(model_str=text)


def lambdamart(queries: Queries, bench: Bench, *, trees: int, rate: float, leaves: int) -> lightgbm.Booster:
    """Train a LambdaMART ranker on graded queries (gain ``2^grade - 1``)."""
    settings = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": 40,
        "learning_rate": rate,
        "num_leaves": leaves,
        "min_data_in_leaf": 50,
        "lambda_l2": 1.0,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
    }
    label = "training the ranker"
    return boosted(
        queries.features, queries.grades, bench, trees=trees, label=label, settings=settings, sizes=queries.sizes
    )


class Labelled(NamedTuple):
    """Rows ``[n, F]``, classes 0 and 1 ``[n]``, and weights ``[n]``."""

    features: NDArray[Any]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]


def best_classifier(
    train: Labelled, held: Labelled, bench: Bench, *, trees: int, trials: Sequence[Mapping[str, Any]]
) -> lightgbm.Booster:
    """Train a classifier of ``trees`` trees for each of the trials' settings; return the one best on ``held``.

    Best is the smallest weighted log loss; the first of equals.
    """
    sign = 2 * held.labels - 1

    def loss(forest: lightgbm.Booster) -> float:
        return float(np.average(np.logaddexp(0, -sign * scores(forest, held.features)), weights=held.weights))

    forests = [
        boosted(
            train.features,
            train.labels,
            bench,
            trees=trees,
            label="training small forests",
            settings={"objective": "binary", **settings},
            weights=train.weights,
        )
        for settings in trials
    ]
    return min(forests, key=loss)


def _cached(path: Path, train: Any) -> str:
    """Return the text at the path, written first if need be: aside, then renamed, by one process only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            return path.read_text(encoding="utf-8")
        text: str = train()
        handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(aside, path)
        finally:
            Path(aside).unlink(missing_ok=True)
        return text


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
