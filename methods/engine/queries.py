"""Graded queries: candidate documents with features and relevance grades, for learning to rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.examples import withheld

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Queries:
    """``Q`` queries with ``n`` candidate documents in all; the documents of a query are consecutive rows."""

    features: NDArray[np.float32]  # [n, F]
    grades: Integers  # [n], from 0 (irrelevant)
    sizes: Integers  # [Q], documents per query
    plain: (
        Floats  # [n], a score of one number, which a ranker has to beat by its NDCG; made by whoever loads the queries
    )

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
        return Queries(self.features[rows], self.grades[rows], sizes, self.plain[rows])

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

    def without_test(self) -> RankingData:
        """Return the same data with the test queries out of reach: what training and choosing may see."""
        return replace(self, test=withheld())
