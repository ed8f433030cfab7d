"""Tables of numbers with a class for each row: what comes with scikit-learn and R's mlbench, and a made one."""

from __future__ import annotations

import lzma
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.derived import arrays
from eelit.methods.data.split import source_digest

SOURCES = ("cube", "breast cancer", "wine", "satellite")
ITEM = "mlbench"


@dataclass(frozen=True)
class Rows:
    """Rows of features ``[N, d]`` and their classes ``[N]``."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """Half of the rows for training, a quarter each for validation and test."""

    train: Rows
    validation: Rows
    test: Rows


def table(source: str, *, rows: int, features: int, noise: float) -> Split:
    """Return a table cut in parts.

    There are ``cube`` (made, see `cube`), ``breast cancer`` or ``wine`` (scikit-learn's),
    ``satellite`` (of mlbench); all but the made one are whole and standardised.
    """
    if source == "cube":
        return _cut(*cube(rows, features, noise, seed=123), standardised=False)
    if source not in SOURCES:
        raise ValueError(f"no table {source!r}; there are {', '.join(SOURCES)}")
    if source == "satellite":
        return _cut(**arrays("table", f"{source} {source_digest(ITEM)}", _satellite), standardised=True)
    from sklearn.datasets import load_breast_cancer, load_wine

    found = (load_wine if source == "wine" else load_breast_cancer)()
    return _cut(found.data, found.target, standardised=True)


def cube(rows: int, features: int, noise: float, *, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return rows ``[N, d]`` and their classes from 0 to 7, which are the corners of a cube.

    The three coordinates of a row's corner, with Gaussian noise, stand at places k, k + 1 and k + 2 in a row of class
    k; all other features are uniform between 0 and 1. Raises `ValueError` for fewer than 10 features.
    """
    if features < 10:
        raise ValueError(
            f"the classes of CUBE stand at places up to 10, so it has at least 10 features, not {features}"
        )
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 2, (rows, 3))
    labels = corners @ np.array([1, 2, 4])
    found = rng.random((rows, features))
    places = labels[:, None] + np.arange(3)
    found[np.arange(rows)[:, None], places] = corners + noise * rng.normal(size=(rows, 3))
    return found, labels


def _satellite() -> dict[str, NDArray[Any]]:
    import rdata  # with pandas, a second to load, and only needed the first time

    written = lzma.decompress((fetch.path(ITEM) / "Satellite.rda").read_bytes())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unknown encoding")  # older files name none; this one is plain ASCII
        found = rdata.conversion.convert(rdata.parser.parse_data(written, extension=".rda"))["Satellite"]
    labels = found["classes"].cat.codes.to_numpy(dtype=np.int64)
    return {"features": found.drop(columns="classes").to_numpy(dtype=np.float64), "labels": labels}


def _cut(features: NDArray[np.float64], labels: NDArray[np.int64], *, standardised: bool) -> Split:
    order = np.random.default_rng(0).permutation(len(labels))
    quarter = len(labels) // 4
    parts = order[2 * quarter :], order[:quarter], order[quarter : 2 * quarter]
    if standardised:
        known = features[parts[0]]
        features = (features - known.mean(axis=0)) / known.std(axis=0)
    return Split(*(Rows(features[part].astype(np.float32), labels[part].astype(np.int64)) for part in parts))
