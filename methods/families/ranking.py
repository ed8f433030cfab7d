"""An additive ensemble of trees ranks the candidates of a query; at a sentinel tree a policy sends candidates away.

What leaves is a document of a query. Those that leave keep their partial score and are placed below all that were scored
to the end, which are ordered by their full score. Cost is the number of trees traversed per document, whatever decides at
the sentinel included. The full model is the whole ensemble on every document.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import ClassVar

import lightgbm
import numpy as np
from numpy.typing import NDArray

from eelit.methods.method import Bench, Method, Split
from eelit.methods.policies.base import Policy
from eelit.methods.results import Execution, OperatingPoint
from eelit.methods.trees import TreeCounter, scores

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Queries:
    """Queries with their candidate documents: features ``[n, F]``, grades ``[n]`` from 0, documents per query ``[Q]``.

    The documents of a query are consecutive rows.
    """

    features: NDArray[np.float32]
    grades: Integers
    sizes: Integers

    def __len__(self) -> int:
        return len(self.sizes)

    def head(self, n: int | None) -> Queries:
        """Return the first ``n`` queries (all if None)."""
        return self if n is None else self.part(0, n)

    def part(self, start: int, stop: int) -> Queries:
        """Return queries ``start`` … ``stop - 1``."""
        sizes = self.sizes[start:stop]
        first = int(self.sizes[:start].sum())
        rows = slice(first, first + int(sizes.sum()))
        return Queries(self.features[rows], self.grades[rows], sizes)

    def spans(self) -> Iterator[slice]:
        """Yield the rows of each query."""
        return spans(self.sizes)


def spans(sizes: Integers) -> Iterator[slice]:
    """Yield the rows of each query, given the number of documents of each."""
    ends = np.cumsum(sizes)
    return (slice(int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True))


@dataclass(frozen=True)
class RankingData:
    """Train queries for the ranker, validation queries for what decides and for knobs, test queries."""

    train: Queries
    validation: Queries
    test: Queries
    digest: str


def positions(values: Floats) -> Integers:
    """Return the position ``[n]`` (0 = best) of each document of one query by value; of equal ones the later is first."""
    found = np.empty(len(values), dtype=np.int64)
    found[np.argsort(values, kind="stable")[::-1]] = np.arange(len(values))
    return found


def placed(partial: Floats, full: Floats, gone: NDArray[np.bool_]) -> Integers:
    """Return the positions ``[n]`` in one query's result: survivors by full score, then the others by partial score.

    The full score of those that left is not looked at.
    """
    order = np.lexsort((np.where(gone, partial, full), ~gone))[::-1]
    found = np.empty(len(gone), dtype=np.int64)
    found[order] = np.arange(len(gone))
    return found
