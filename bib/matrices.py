"""Graphs of millions of edges as sparse matrices: what two works share, and where chance readers end up.

A graph is a matrix of ones, `[N, M]`: row `i` has a one in column `j` where edge `i → j` exists.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import sparse

Indices = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]
AT_ONCE = 20_000_000
"""Products of a block of columns at most, unless one alone has more: what bounds the memory (8 bytes each)."""


def ones(rows: Indices, columns: Indices, shape: tuple[int, int]) -> sparse.csr_array:
    """Return the matrix of these edges; an edge given twice counts once."""
    matrix = sparse.csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def shared(matrix: sparse.csr_array, least: int, most: int) -> tuple[Indices, Indices, Indices]:
    """Return pairs of rows `i < j` with ones in at least so many common columns: `i`, `j`, and how many.

    The pairs with most in common come first, then those with the smallest numbers; at most so many are kept.
    """
    none = np.zeros(0, np.int64)
    kept = (none, none, none)
    for first, product in _products(matrix):
        enough = np.flatnonzero(product.data >= least)  # few: most pairs have one thing in common
        other = np.searchsorted(product.indptr, enough, side="right") - 1
        one, count = product.indices[enough].astype(np.int64), product.data[enough].astype(np.int64)
        upper = other > one
        parts = (one[upper] + first, other[upper] + first, count[upper])
        kept = _closest(tuple(np.concatenate(both) for both in zip(kept, parts, strict=True)), most)
    return kept


def _closest(pairs: tuple[Indices, ...], most: int) -> tuple[Indices, Indices, Indices]:
    one, other, count = pairs
    order = np.lexsort((other, one, -count))[:most]
    return one[order], other[order], count[order]


def _products(matrix: sparse.csr_array) -> Iterator[tuple[int, sparse.csr_array]]:
    """Yield the product of the matrix with its transpose in blocks of columns, each with its first column.

    The product is symmetric, so that the rows of a block start at its own first column. Only the block is transposed:
    where works with many citations make many blocks, the rest would be for each of them.
    """
    work = np.cumsum(matrix @ np.bincount(matrix.indices, minlength=matrix.shape[1]))
    start = 0
    while start < matrix.shape[0]:
        done = work[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(work, done + AT_ONCE, side="right")))
        yield start, matrix[start:] @ matrix[start:end].T.tocsr()
        start = end


def pagerank(matrix: sparse.csr_array, damping: float = 0.85, tolerance: float = 1e-6, most: int = 100) -> Shares:
    """Return the share of time `[N]` that a reader spends at each node who follows edges and at times jumps anywhere.

    As networkx has it: jumps (and the ways on from nodes without edges) lead to every node alike, and the steps end
    when the sum of all changes is below N × tolerance. Raises `ArithmeticError` after so many steps.
    """
    size = matrix.shape[0]
    if size == 0:
        return np.zeros(0)
    degrees = np.diff(matrix.indptr)
    ways = matrix.T.tocsr().astype(np.float64)
    ways.data = 1.0 / degrees[ways.indices]
    ends = degrees == 0
    rank: Shares = np.full(size, 1.0 / size)
    for _ in range(most):
        last = rank
        rank = damping * (ways @ last + last[ends].sum() / size) + (1 - damping) / size
        if np.abs(rank - last).sum() < size * tolerance:
            return rank
    raise ArithmeticError(f"the ranks did not settle in {most} steps; allow more, or a larger tolerance")
