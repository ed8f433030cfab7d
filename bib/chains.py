"""The heaviest chain of a citation graph by search path count, in time that grows with the edges.

The count of an edge is the number of ways from any source to any sink that take it. Counts double with every fork, so
that those of a long history have more digits than there are works: they are kept as a fraction and a power of two.
Whole numbers below 2**53 are exact so, and chains that weigh alike are then told exactly; beyond, what differs by less
than one part in `ALIKE` counts as alike, since rounding differs by as much. Of chains alike the one is taken whose last
work has the smaller number, then the work before it, and so on.
"""

from __future__ import annotations

from math import frexp, ldexp

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from eelit.bib.matrices import ones

EXACT = 2.0**53
ALIKE = 1e12
ROOM = 900
"""Powers of two up to which weights are added as they are; a sum of as many as there are edges stays a number."""

Counts = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
"""Numbers of ways [N]: fractions from a half to one, and powers of two."""


def heaviest(flow: sparse.csr_array) -> list[int]:
    """Return the nodes of the heaviest chain of a graph `[N, N]` of ones, from source to sink; empty without edges.

    Edges between nodes of a circle are dropped first.
    """
    _, circle = connected_components(flow, connection="strong")
    edges = flow.tocoo()
    kept = circle[edges.row] != circle[edges.col]
    onward = ones(edges.row[kept], edges.col[kept], flow.shape)
    if not onward.nnz:
        return []
    back = onward.T.tocsr()
    for matrix in (onward, back):
        matrix.sort_indices()
    order = _order(onward)
    weights, rounded = _weights(back, _ways(order, back), _ways(order[::-1], onward))
    return _chain(order, back, weights, rounded)


def _order(onward: sparse.csr_array) -> list[int]:
    """Return all nodes, each before those that it leads to."""
    links, start = onward.indices.tolist(), onward.indptr.tolist()
    waiting = np.bincount(onward.indices, minlength=onward.shape[0]).tolist()
    order = [node for node, count in enumerate(waiting) if not count]
    for node in order:
        for other in links[start[node] : start[node + 1]]:
            waiting[other] -= 1
            if not waiting[other]:
                order.append(other)
    return order


def _ways(order: list[int], back: sparse.csr_array) -> Counts:
    """Return how many ways lead to each node from where there is no way back; one to those themselves."""
    links, start = back.indices.tolist(), back.indptr.tolist()
    parts, powers = [0.5] * len(order), [1] * len(order)
    for node in order:
        near = links[start[node] : start[node + 1]]
        if len(near) == 1:
            parts[node], powers[node] = parts[near[0]], powers[near[0]]
        elif near:
            power = max([powers[other] for other in near])
            parts[node], more = frexp(sum([ldexp(parts[other], powers[other] - power) for other in near]))
            powers[node] = power + more
    return np.array(parts), np.array(powers)


def _weights(back: sparse.csr_array, before: Counts, after: Counts) -> tuple[list[float], bool]:
    """Return the counts of all edges, in the order of the matrix and in one unit, and whether that is larger than 1.

    What becomes 0 by that is on no heaviest chain: as many ways lead into a work as out of it.
    """
    later = np.repeat(np.arange(back.shape[0]), np.diff(back.indptr))
    powers = before[1][back.indices] + after[1][later]
    unit = max(0, int(powers.max()) - ROOM)
    return np.ldexp(before[0][back.indices] * after[0][later], powers - unit).tolist(), unit > 0


def _chain(order: list[int], back: sparse.csr_array, weights: list[float], rounded: bool) -> list[int]:
    links, start = back.indices.tolist(), back.indptr.tolist()
    heavy, via = [0.0] * len(order), [-1] * len(order)
    for node in order:
        first, last = start[node], start[node + 1]
        if last > first:
            sums = [heavy[other] + weight for other, weight in zip(links[first:last], weights[first:last], strict=True)]
            heavy[node] = max(sums)
            via[node] = links[first + _first(sums, heavy[node], rounded)]
    chain = [_first(heavy, max(heavy), rounded)]
    while via[chain[-1]] >= 0:
        chain.append(via[chain[-1]])
    return chain[::-1]


def _first(sums: list[float], most: float, rounded: bool) -> int:
    """Return the first place where the sum is the largest, or alike where sums are rounded."""
    if not rounded and most < EXACT:
        return sums.index(most)
    return next(place for place, each in enumerate(sums) if each >= most * (1 - 1 / ALIKE))
