"""Where works stand in the interactive graph: computed once, seed fixed, no label upon another."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from eelit.bib.graph import Graph

Place = tuple[float, float]
Points = NDArray[np.float64]
SEED = 7
LETTER, LINE = 7.4, 46.0
"""Widest mean letter of a label at its size, and height of mark and label together, in the unit of the picture."""
ROOM = 14.0  # between labels
LONGEST = 22
"""Letters that a label shows; a longer name is cut."""
WIDTH = 1500.0  # about; what does not fit grows downwards
PUSHES = 400
"""How often boxes are pushed apart at most. In a large graph marks may touch: one zooms in."""
LARGE = 500
"""From so many works on, labels are left to zooming in, and marks alone keep apart."""


def label(name: str) -> str:
    """Return what a node shows of a name."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1].rstrip() + "…"


def boxes(graph: Graph) -> Points:
    """Return width and height ``[n, 2]`` of each node with its label, in the order of the graph's nodes."""
    if len(graph.nodes) >= LARGE:
        return np.full((len(graph.nodes), 2), 26.0)
    widths = [max(26.0, LETTER * len(label(node.name))) for node in graph.nodes.values()]
    return np.stack([np.array(widths) + ROOM, np.full(len(widths), LINE)], axis=1)


def connected(graph: Graph) -> dict[str, Place]:
    """Place works near those they are connected with; those without an edge stand in rows below."""
    keys, size = list(graph.nodes), boxes(graph)
    joined: nx.Graph[str] = nx.Graph()
    joined.add_edges_from(sorted((edge.source, edge.target) for edge in graph.edges if edge.source != edge.target))
    bound = [i for i, key in enumerate(keys) if key in joined]
    free = [i for i, key in enumerate(keys) if key not in joined]
    found = np.zeros((len(keys), 2))
    if bound:
        spread = nx.spring_layout(
            joined, seed=SEED, iterations=200 if len(bound) < LARGE else 40, k=2.2 / max(1.0, len(bound)) ** 0.5
        )
        raw = np.array([spread[keys[i]] for i in bound])
        area = float((size[bound, 0] * size[bound, 1]).sum())
        raw *= (area * 2.2) ** 0.5 / 2 / np.abs(raw).max(axis=0) * np.array([1.9, 0.55])
        found[bound] = _apart(raw, size[bound])
    if free:
        low = float(found[bound, 1].max()) + LINE * 1.6 if bound else 0.0
        left, right = (float(found[bound, 0].min()), float(found[bound, 0].max())) if bound else (0.0, WIDTH)
        found[free] = _rows(size[free], left, max(right, left + WIDTH / 2), low)
    return _named(keys, found)


def by_year(graph: Graph, order: Mapping[str, Place]) -> dict[str, Place]:
    """Place works in columns by year, in each in the order of their height in ``order``."""
    keys, size = list(graph.nodes), boxes(graph)
    years = sorted({node.year for node in graph.nodes.values()})
    found, left = np.zeros((len(keys), 2)), 0.0
    for year in years:
        column = [i for i, key in enumerate(keys) if graph.nodes[key].year == year]
        column.sort(key=lambda i: order[keys[i]][1])
        wide = float(size[column, 0].max())
        for row, i in enumerate(column):
            found[i] = left + wide / 2, (row - (len(column) - 1) / 2) * LINE
        left += wide + ROOM
    return _named(keys, found)


def _apart(points: Points, size: Points) -> Points:
    """Push boxes apart, each pair along the axis on which they overlap less, until none overlap."""
    points, reach = points.copy(), float(size.max())
    for _ in range(PUSHES):
        one, other = cKDTree(points).query_pairs(reach, p=np.inf, output_type="ndarray").T
        between = points[one] - points[other]
        overlap = (size[one] + size[other]) / 2 - np.abs(between)
        hit: NDArray[np.bool_] = (overlap > 0).all(axis=1)
        if not hit.any():
            break
        one, other, between, overlap = one[hit], other[hit], between[hit], overlap[hit]
        push = np.where(between < 0, -1.0, 1.0) * (overlap + 0.5) / 2  # of two at one place the later goes back
        across = overlap[:, :1] < overlap[:, 1:]
        push *= np.hstack([across, ~across])
        moved, hits = np.zeros_like(points), np.bincount(np.hstack([one, other]), minlength=len(points))
        np.add.at(moved, one, push)
        np.add.at(moved, other, -push)
        points += moved / np.maximum(1, hits)[:, None] ** 0.5
    return points


def _rows(size: Points, left: float, right: float, top: float) -> Points:
    """Set boxes one after the other, in rows."""
    found, x, y = np.zeros_like(size), left, top
    for i, (wide, high) in enumerate(size):
        if x + wide > right and x > left:
            x, y = left, y + high
        found[i] = x + wide / 2, y
        x += wide
    return found


def _named(keys: list[str], points: Points) -> dict[str, Place]:
    return {key: (round(float(x), 1), round(float(y), 1)) for key, (x, y) in zip(keys, points, strict=True)}
