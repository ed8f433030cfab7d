"""How loaders divide rows into train, validation and test: by a hash of seed and row number, the same everywhere."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import manifest

Part = TypeVar("Part")


@dataclass(frozen=True)
class Split(Generic[Part]):
    """Three disjoint parts; `digest` identifies the data (their pinned hashes) and the rows of each part."""

    train: Part
    validation: Part
    test: Part
    digest: str  # 16 hex digits


@dataclass(frozen=True)
class Rows:
    """The row numbers of the source that make up each part, each `[n]`, and their digest."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    digest: str


def shuffled(rows: Iterable[int], seed: int) -> list[int]:
    """The rows in an order that depends on seed and row number only, on no library's random generator."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed} {row}".encode()).digest())


def divide(rows: Iterable[int], train: int, validation: int, test: int, *, seed: int, item: str) -> Rows:
    """Shuffle the rows and take test, then validation, then train, so that asking for less training data moves nothing.

    Raises `ValueError` if there are too few rows.
    """
    order = shuffled(rows, seed)
    if min(train, validation, test) < 0 or train + validation + test > len(order):
        raise ValueError(f"{item} has {len(order)} rows, not {train} + {validation} + {test}")
    held = test + validation
    return labelled(item, order[held : held + train], order[test:held], order[:test])


def labelled(item: str, train: Sequence[int], validation: Sequence[int], test: Sequence[int]) -> Rows:
    """Given parts as `Rows`, with the digest of the item's pinned files and the row numbers."""
    parts = [np.asarray(part, dtype=np.int64) for part in (train, validation, test)]
    digest = hashlib.sha256(source_digest(item).encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part.astype("<i8").tobytes())
    return Rows(parts[0], parts[1], parts[2], digest.hexdigest()[:16])


def source_digest(item: str) -> str:
    """Identifies an item's content: a sha256 over the pinned hashes of all its files."""
    pinned = "\n".join(f"{file.name} {file.sha256}" for file in manifest.get(item).files.values())
    return hashlib.sha256(pinned.encode()).hexdigest()
