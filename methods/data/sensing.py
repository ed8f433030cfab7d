"""Sparse codes that are measured by a matrix, with noise: made ones, and those of sounds and pictures.

The code of a moment of recorded speech is its cosine transform: a voice has few frequencies at a time, others each
time. So is that of one of scikit-learn's pictures of digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import recordings
from eelit.methods.data.memory_cache import in_memory

Floats = NDArray[np.float32]
NOISES = (20.0, 30.0, 40.0)
"""Ratios of signal to noise in dB, of which each measurement has one, drawn at random."""
CONDITION = 5.0
"""Largest singular value of the made matrix ÷ the least, before its columns are normalised."""
PRESENT = 0.1
"""Probability of an entry of a made code not to be 0; a code of digits has as large a mean square."""


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

    For ``speech`` and ``digits`` it is a random one, by which n samples or 8×8 pixels are measured, times the cosines
    that codes are made of. Raises `ValueError` for anything else.
    """
    rng = np.random.default_rng(7)
    if source == "made":
        u, _, v = np.linalg.svd(rng.normal(size=(m, n)), full_matrices=False)
        found = (u * np.logspace(0, -np.log10(CONDITION), m)) @ v
        return (found / np.linalg.norm(found, axis=0)).astype(np.float32)
    if source not in ("speech", "digits"):
        raise ValueError(f"no measurements of {source!r}; there are made, speech and digits")
    if source == "digits" and n != 64:
        raise ValueError(f"a picture of digits has 64 coefficients, not {n}")
    parts = cosines(n) if source == "speech" else np.kron(cosines(8), cosines(8))
    return (rng.normal(size=(m, n)) / np.sqrt(m) @ parts.T).astype(np.float32)


@in_memory()
def cosines(n: int) -> NDArray[np.float64]:
    """Return the orthonormal cosine transform ``[n, n]``: this times n samples is their code."""
    i = np.arange(n)
    return np.cos(np.pi * (2 * i[None] + 1) * i[:, None] / (2 * n)) * np.sqrt(np.where(i == 0, 1, 2)[:, None] / n)


def compressed_sensing(source: str, *, m: int, n: int, train: int, held: int) -> Split:
    """Return ``train`` measurements and twice ``held``.

    The parts have other recordings of ``speech``. Of ``digits`` half of the pictures are for training; a picture may be
    measured more than once, each time with other noise, but none is in two parts.
    """
    a, rng = matrix(source, m, n), np.random.default_rng(0)
    sizes = (train, held, held)
    if source == "made":
        codes = [(rng.random((size, n)) < PRESENT) * rng.normal(size=(size, n)) for size in sizes]
    elif source == "speech":
        codes = [moments.astype(np.float64) @ cosines(n).T for moments in recordings.moments(n, sizes)]
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

    found: NDArray[np.float64] = load_digits().data @ np.kron(cosines(8), cosines(8)).T
    return found
