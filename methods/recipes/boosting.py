"""Gradient-boosted trees with LightGBM, the same to the last bit on every run, cached as text."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from eelit.methods.method import Bench

ALWAYS = {"verbosity": -1, "num_threads": 1, "deterministic": True, "force_row_wise": True}


def boosted(
    features: NDArray[np.float32],
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

    ``settings`` are LightGBM's parameters, ``weights`` ``[n]`` those of the rows, ``sizes`` the number of consecutive rows
    of each query (for ranking objectives). The name in the cache is a hash of all of this, the seed and LightGBM's version.
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
        h.update(b"none" if array is None else str((array.dtype, array.shape)).encode() + np.ascontiguousarray(array).tobytes())
    return h.hexdigest()
