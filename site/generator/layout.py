"""Where works stand in the interactive graph: computed once, seed fixed, no label upon another.

The unit is a pixel at zoom 1. Pictures have the shape of the canvas on a desktop, so that they fill it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from eelit.bib.graph import Graph

Place = tuple[float, float]
Points = NDArray[np.float64]
SEED = 7
FONT, MARK = 11.0, 13.0
"""Height of letters and of a work's mark."""
LINE = 1.1 * FONT
ROOM = np.array([8.0, 3.5])  # between labels
WIDE, LINES = 8.5, 3
"""Width of a label in heights of its letters, and its lines; what is longer is cut."""
LETTERS = {0.32: " ijlIJ,./'", 0.42: "frt-()", 0.53: "csz", 0.7: "ABCKNRUVXZ", 0.87: "wDGHOQM", 1.0: "mW…"}
WIDTHS = {letter: width for width, letters in LETTERS.items() for letter in letters}
OTHER = 0.64
"""Widths of letters in heights, as in DejaVu Sans: no typeface that the pages ask for is wider."""
SHAPE = 1.66  # width by height
SPREAD = 3.6
"""How much more room connected works have than their labels need, for the edges between them."""
PUSHES = 600
"""How often boxes are pushed apart at most. In a large graph marks may touch: one zooms in."""
LARGE = 500
"""From so many works on, labels are left to zooming in, and marks alone keep apart."""
APART = "not yet connected"


@dataclass(frozen=True)
class Picture:
    """The place of each work's mark, and words that stand among them."""

    places: dict[str, Place]
    heads: list[tuple[str, float, float]]


def width(text: str) -> float:
    """Return about how wide a text is, in heights of its letters."""
    return sum(WIDTHS.get(letter, OTHER) for letter in text)


def label(name: str, wide: float = WIDE, most: int = LINES) -> str:
    """Return what a node shows of a name: at most so many lines so wide, broken at spaces and after hyphens."""
    lines = [""]
    for part in re.findall(r"\S+?-(?=\w)|\S+|\s+", name):
        if lines[-1] and width((lines[-1] + part).rstrip()) > wide:
            lines.append("")
        lines[-1] += part if lines[-1] else part.lstrip()
    lines = [line.rstrip() for line in lines if line.strip()]
    return "\n".join(_cut(line, wide, last=i == most - 1 < len(lines) - 1) for i, line in enumerate(lines[:most]))


def _cut(line: str, wide: float, *, last: bool) -> str:
    """Return a line that fits, with the mark of a cut if it is too long or more would follow."""
    if width(line) <= wide and not last:
        return line
    while line and width(line + "…") > wide:
        line = line[:-1]
    return line.rstrip() + "…"


def boxes(graph: Graph) -> Points:
    """Return width and height ``[n, 2]`` of each node with its label, in the order of the graph's nodes."""
    if len(graph.nodes) >= LARGE:
        return np.full((len(graph.nodes), 2), 2 * MARK)
    texts = [label(node.name).split("\n") for node in graph.nodes.values()]
    widths = [max(MARK, FONT * max(map(width, lines))) for lines in texts]
    found: Points = np.stack([widths, [MARK + 2 + LINE * len(lines) for lines in texts]], axis=1) + ROOM
    return found


def connected(graph: Graph) -> Picture:
    """Place works near those that verified edges connect them with; those without such an edge stand in rows below."""
    keys, size = list(graph.nodes), boxes(graph)
    joined: nx.Graph[str] = nx.Graph()
    edges = graph.verified().edges
    joined.add_edges_from(sorted((edge.source, edge.target) for edge in edges if edge.source != edge.target))
    bound = [i for i, key in enumerate(keys) if key in joined]
    free = sorted((i for i, key in enumerate(keys) if key not in joined), key=lambda i: -size[i, 1])
    room = SPREAD * float(size[bound].prod(axis=1).sum())
    wide = max(((room + float(size[free].prod(axis=1).sum())) * SHAPE) ** 0.5, float(size[:, 0].max()))
    high = max(room / wide, float(size[:, 1].max()))
    found, heads = np.zeros((len(keys), 2)), []
    if bound:
        found[bound] = _apart(_spread(joined, [keys[i] for i in bound]) * (wide, high), size[bound], (wide, high))
    if free:
        low = float((found[bound, 1] + size[bound, 1] / 2).max()) + 2.5 * LINE if bound else 0.0
        found[free] = _rows(size[free], wide, low)
        heads.append((APART, FONT * width(APART) / 2, round(low - LINE, 1)))
    return Picture(_marks(keys, found, size), heads)


def by_year(graph: Graph, order: Mapping[str, Place]) -> Picture:
    """Place works in columns by year, in each in the order of their height in ``order``."""
    keys, size = list(graph.nodes), boxes(graph)
    found, left, columns = np.zeros((len(keys), 2)), 0.0, []
    for year in sorted({node.year for node in graph.nodes.values()}):
        column = [i for i, key in enumerate(keys) if graph.nodes[key].year == year]
        column.sort(key=lambda i: order[keys[i]][1])
        high, wide = size[column, 1], float(size[column, 0].max())
        found[column, 0] = left + wide / 2
        found[column, 1] = high.cumsum() - high / 2 - high.sum() / 2
        columns.append((str(year), round(left + wide / 2, 1)))
        left += wide
    top = round(float((found[:, 1] - size[:, 1] / 2).min()) - LINE, 1)
    return Picture(_marks(keys, found, size), [(year, x, top) for year, x in columns])


def _spread(joined: nx.Graph[str], keys: list[str]) -> Points:
    """Return places between 0 and 1, near to neighbours, that leave no part of the rectangle empty.

    The picture is turned so that the work with most neighbours is in its upper left quarter, where small screens begin.
    """
    few = len(keys) < LARGE
    places = nx.spring_layout(joined, seed=SEED, iterations=200 if few else 40, k=2.2 / len(keys) ** 0.5)
    raw = np.array([places[key] for key in keys])
    ranks = raw.argsort(axis=0).argsort(axis=0) / max(1, len(keys) - 1)
    found: Points = (ranks * 2 + (raw - raw.min(axis=0)) / np.maximum(1e-9, np.ptp(raw, axis=0))) / 3
    most = max(range(len(keys)), key=lambda i: joined.degree(keys[i]))
    return np.where(found[most] > 0.5, 1 - found, found)


def _apart(points: Points, size: Points, bounds: Place) -> Points:
    """Push boxes apart, each pair along the axis on which they overlap less, until none overlap.

    They stay within bounds, which slowly give way in case they are too tight.
    """
    points, reach = points.copy(), float(size.max())
    for push in range(PUSHES):
        points = np.clip(points, size / 2, np.array(bounds) * (1 + push / PUSHES) - size / 2)
        one, other = cKDTree(points).query_pairs(reach, p=np.inf, output_type="ndarray").T
        between = points[one] - points[other]
        overlap = (size[one] + size[other]) / 2 - np.abs(between)
        hit: NDArray[np.bool_] = (overlap > 0).all(axis=1)
        if not hit.any():
            break
        one, other, between, overlap = one[hit], other[hit], between[hit], overlap[hit]
        by = np.where(between < 0, -1.0, 1.0) * (overlap + 0.5) / 2  # of two at one place the later goes back
        across = overlap[:, :1] < overlap[:, 1:]
        by *= np.hstack([across, ~across])
        moved, hits = np.zeros_like(points), np.bincount(np.hstack([one, other]), minlength=len(points))
        np.add.at(moved, one, by)
        np.add.at(moved, other, -by)
        points += moved / np.maximum(1, hits)[:, None] ** 0.5
    return points


def _rows(size: Points, wide: float, top: float) -> Points:
    """Set boxes one after the other, in rows, with their tops in line; the first of a row is its highest."""
    found, x, y, row = np.zeros_like(size), 0.0, top, 0.0
    for i, (across, high) in enumerate(size):
        if x and x + across > wide:
            x, y, row = 0.0, y + row, 0.0
        row = max(row, high)
        found[i] = x + across / 2, y + high / 2
        x += across
    return found


def _marks(keys: list[str], points: Points, size: Points) -> dict[str, Place]:
    """Return where the marks stand in their boxes: at the top, above the label."""
    tops = points[:, 1] - size[:, 1] / 2 + (ROOM[1] + MARK) / 2
    return {key: (round(float(x), 1), round(float(y), 1)) for key, x, y in zip(keys, points[:, 0], tops, strict=True)}
