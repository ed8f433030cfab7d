"""Sparse codes that are measured by a matrix, with noise: made ones, and those of pictures.

A picture's code is its cosine transform, which has few large coefficients. Pictures are pieces of photographs, or
scikit-learn's digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import photographs
from eelit.methods.data.memory_cache import in_memory

Floats = NDArray[np.float32]
NOISES = (20.0, 30.0, 40.0)
"""Ratios of signal to noise in dB, of which each measurement has one, drawn at random."""
CONDITION = 5.0
"""Largest singular value of the made matrix ÷ the least, before its columns are normalised."""
PRESENT = 0.1
"""Probability of an entry of a made code not to be 0; codes of pictures have as large a mean square."""


@dataclass(frozen=True)
class Measured:
    """Measurements ``y [N, m]`` of codes ``x [N, n]``."""

    y: Floats
    x: Floats


@dataclass(frozen=True)
class Split:
    """Measurements for training, validation and test, all by one `matrix`."""

    train: Measured
    validation: Measured
    test: Measured


@in_memory()
def matrix(source: str, m: int, n: int) -> Floats:
    """Return the matrix ``[m, n]``: random, of a known condition, for ``made`` codes.

    For ``photographs`` and ``digits`` it is a random one, by which square pictures of ``n`` pixels are measured, times
    the cosines that codes are made of. Raises `ValueError` for anything else.
    """
    rng = np.random.default_rng(7)
    if source in ("photographs", "digits"):
        side = isqrt(n)
        if side * side != n or (source == "digits" and n != 64):
            raise ValueError(f"a picture of {source} has {64 if source == 'digits' else 'a square of'} pixels, not {n}")
        return (rng.normal(size=(m, n)) / np.sqrt(m) @ cosines(side).T).astype(np.float32)
    if source != "made":
        raise ValueError(f"no measurements of {source!r}; there are made, photographs and digits")
    u, _, v = np.linalg.svd(rng.normal(size=(m, n)), full_matrices=False)
    found = (u * np.logspace(0, -np.log10(CONDITION), m)) @ v
    return (found / np.linalg.norm(found, axis=0)).astype(np.float32)


@in_memory()
def cosines(side: int) -> NDArray[np.float64]:
    """Return the orthonormal cosine transform of square pictures: a code is this, ``[n, n]``, times the n pixels."""
    i = np.arange(side)
    one = np.cos(np.pi * (2 * i[None] + 1) * i[:, None] / (2 * side)) * np.sqrt(np.where(i == 0, 1, 2)[:, None] / side)
    return np.kron(one, one)


def compressed_sensing(source: str, *, m: int, n: int, train: int, held: int) -> Split:
    """Return ``train`` measurements and twice ``held``.

    Pieces of ``photographs`` come from other photographs in each part, and have mean 0 and one contrast. Of ``digits``
    half of the pictures are for training; a picture may be measured more than once, each time with other noise, but
    none is in two parts.
    """
    a, rng = matrix(source, m, n), np.random.default_rng(0)
    sizes = (train, held, held)
    if source == "made":
        codes = [(rng.random((size, n)) < PRESENT) * rng.normal(size=(size, n)) for size in sizes]
    elif source == "photographs":
        pieces = [each.reshape(len(each), n).astype(np.float64) for each in photographs.pieces(isqrt(n), sizes)]
        even = [each - each.mean(axis=1, keepdims=True) for each in pieces]
        codes = [np.sqrt(PRESENT) * each / each.std(axis=1, keepdims=True) @ cosines(isqrt(n)).T for each in even]
    else:
        pool = _digit_codes()
        order, quarter = rng.permutation(len(pool)), len(pool) // 4
        parts = order[2 * quarter :], order[:quarter], order[quarter : 2 * quarter]
        mean, spread = pool[parts[0]].mean(axis=0), np.sqrt(pool[parts[0]].var(axis=0).mean() / PRESENT)
        codes = [(pool[np.resize(part, size)] - mean) / spread for part, size in zip(parts, sizes, strict=True)]
    return Split(*(_measure(a, x, rng) for x in codes))


def _measure(a: Floats, x: NDArray[np.float64], rng: np.random.Generator) -> Measured:
    y = x @ a.T
    level = 10 ** (-rng.choice(NOISES, len(x)) / 20)
    noise = rng.normal(size=y.shape) * (y.std(axis=1, ddof=1) * level)[:, None]
    return Measured((y + noise).astype(np.float32), x.astype(np.float32))


def _digit_codes() -> NDArray[np.float64]:
    from sklearn.datasets import load_digits

    found: NDArray[np.float64] = load_digits().data @ cosines(8).T
    return found
