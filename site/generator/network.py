"""The citation graph: which edges there are, where the works are drawn, and the picture as SVG.

Works stand in columns by year, so that labels cannot overlap and time runs from left to right; within a column they are
ordered so that edges cross little. The order is computed, not chosen: the same data give the same picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx
from markupsafe import Markup

from eelit.bib.graph import Edge, Graph
from eelit.bib.graph_formats import to_graphml, to_json
from eelit.site.generator import layout
from eelit.site.generator.collection import Collection, Method, Work
from eelit.site.generator.reports import FAILED, PASSED, State

COLUMN, ROW, NODE_WIDTH, NODE_HEIGHT = 192, 42, 144, 34
MARGIN, HEAD = 12, 34
SIGN = 14  # room for the sign of a mark at the left of a box
SWEEPS = 12
LARGE = 500
SEED = 7
WIDE, LINES, LINE = 10.0, 2, 13
"""A name in its box: how wide in heights of its letters, on how many lines, and how far these are apart."""

MARKS: dict[str, tuple[str, str, tuple[State, ...]]] = {
    "star": ("★", "passed its last test", PASSED),
    "triangle": ("▲", "failed its last test", FAILED),
    "diamond": ("◆", "can be run, not tested here", ("not-run", "never-run")),
    "ellipse": ("●", "catalogued only", ()),
}
"""Shape of a work's mark → the same as a sign, what it means, and the states of methods that have it."""
SHAPES = {state: shape for shape, (_, _, states) in MARKS.items() for state in states}
KINDS = {
    "cites": "cites, seen in its reference list or text",
    "builds": "builds on or extends",
    "compares": "compares itself with",
    "other": "another relation: same policy or training, criticises, surveys",
    "unverified": "recalled, not verified: never counted",
}
RELATION_KINDS = {"builds-on": "builds", "extends": "builds", "superseded-by": "builds", "compares-with": "compares"}


def shape(method: Method | None) -> str:
    """Return the shape of a work's mark."""
    return SHAPES[method.badge.state] if method else "ellipse"


def kind(edge: Edge) -> str:
    """Return which of `KINDS` an edge is drawn as."""
    if not edge.verified:
        return "unverified"
    return {"citation": "cites", "comparison": "compares"}.get(edge.group) or RELATION_KINDS.get(edge.kind, "other")


def downloads(graph: Graph) -> dict[str, str]:
    """Return the graph as files by name: GraphML for graph tools, JSON for programs."""
    return {"graph.json": to_json(graph) + "\n", "graph.graphml": to_graphml(graph) + "\n"}


def alone(known: Graph) -> list[str]:
    """Return the works that no edge leads to or from, by year."""
    ends = {end for edge in known.edges for end in (edge.source, edge.target)}
    return sorted(known.nodes.keys() - ends, key=lambda key: (known.nodes[key].year, key))


def places(known: Graph) -> dict[str, tuple[float, float]]:
    """Return the centre of each work: its column by year, its row by the mean height of its verified neighbours.

    Works `alone` have none, unless all are.
    """
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(sorted(known.nodes.keys() - set(alone(known))) or sorted(known.nodes))
    graph.add_edges_from(sorted((edge.source, edge.target) for edge in known.verified().edges))
    rounds = 50 if len(graph) < LARGE else 10  # a start for the sweeps; a large graph cannot be seen as a whole anyway
    height = {key: float(place[1]) for key, place in nx.spring_layout(graph, seed=SEED, iterations=rounds).items()}
    columns: dict[int, list[str]] = {}
    for key in graph:
        columns.setdefault(known.nodes[key].year, []).append(key)
    for _ in range(SWEEPS):
        for column in columns.values():
            column.sort(key=lambda key: _mean([height[other] for other in graph[key]], height[key]))
            for row, key in enumerate(column):
                height[key] = row - (len(column) - 1) / 2
    tallest = max(len(column) for column in columns.values())
    return {
        key: (MARGIN + NODE_WIDTH / 2 + COLUMN * index, HEAD + MARGIN + ROW * (height[key] + tallest / 2))
        for index, year in enumerate(sorted(columns))
        for key in columns[year]
    }


def _mean(values: list[float], alone: float) -> float:
    return sum(values) / len(values) if values else alone


def draw(collection: Collection) -> Markup:
    """Return the graph as an SVG element whose works are links to their pages."""
    where = places(collection.graph)
    edges = sorted(collection.graph.edges, key=lambda edge: edge.verified)  # the verified ones on top
    width = max(x for x, _ in where.values()) + NODE_WIDTH / 2 + MARGIN
    height = max(y for _, y in where.values()) + ROW
    parts = [
        Markup('<svg class="ee-graph" width="{0:g}" height="{1:g}" viewBox="0 0 {0:g} {1:g}" role="group"').format(
            width, height
        ),
        Markup('aria-labelledby="graph-title graph-desc">'),
        Markup('<title id="graph-title">Works by year and how they are connected</title>'),
        Markup('<desc id="graph-desc">The table below holds the same data.</desc>'),
        *_years(collection, where),
        *(_edge(edge, where) for edge in edges),
        *(_node(collection, work, *where[work.key]) for work in collection.works.values() if work.key in where),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _years(collection: Collection, where: dict[str, tuple[float, float]]) -> Iterator[Markup]:
    columns = {collection.works[key].record.year: x for key, (x, _) in where.items()}
    for year, x in sorted(columns.items()):
        yield Markup('<text class="year" x="{:g}" y="22" text-anchor="middle">{}</text>').format(x, year)


def _edge(edge: Edge, where: dict[str, tuple[float, float]]) -> Markup:
    (x1, y1), (x2, y2) = where[edge.source], where[edge.target]
    half = NODE_WIDTH / 2
    if x1 == x2:  # the same year: a bow on the right side of the column
        start, end, bend = x1 + half, x2 + half, 24 + abs(y1 - y2) / 12
        path = f"M{start:g} {y1:g}C{start + bend:g} {y1:g} {end + bend:g} {y2:g} {end:g} {y2:g}"
    else:
        sign = 1 if x2 > x1 else -1
        start, end = x1 + sign * half, x2 - sign * half
        bend = sign * max(24, abs(end - start) / 2.4)
        path = f"M{start:g} {y1:g}C{start + bend:g} {y1:g} {end - bend:g} {y2:g} {end:g} {y2:g}"
    return Markup('<path class="edge {}" data-a="{}" data-b="{}" d="{}"/>').format(
        kind(edge), edge.source, edge.target, path
    )


def _node(collection: Collection, work: Work, x: float, y: float) -> Markup:
    method = collection.methods.get(work.key)
    sign, meaning, _ = MARKS[shape(method)]
    lines = layout.label(work.entry.short_name, WIDE, LINES).split("\n")
    top = y + 4 - LINE * (len(lines) - 1) / 2
    middle = x + SIGN / 2
    label = Markup("").join(
        Markup('<tspan x="{:g}" y="{:g}">{}</tspan>').format(middle, top + LINE * i, line)
        for i, line in enumerate(lines)
    )
    return Markup(
        '<a class="{}" data-key="{}" href="papers/{}.html"><title>{}, {} ({}); {}</title>'
        '<rect x="{:g}" y="{:g}" width="{}" height="{}" rx="4"/>'
        '<text class="sign" x="{:g}" y="{:g}" text-anchor="middle">{}</text><text text-anchor="middle">{}</text></a>'
    ).format(
        f"node {work.entry.role}" + (" runs" if method else ""),
        *(work.key, work.key, work.record.title, work.record.short_authors(), work.record.year, meaning),
        *(x - NODE_WIDTH / 2, y - NODE_HEIGHT / 2, NODE_WIDTH, NODE_HEIGHT),
        *(x - NODE_WIDTH / 2 + SIGN / 2 + 3, y + 4, sign, label),
    )
