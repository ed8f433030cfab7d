"""What the interactive graph is made from: one script of data, read by `assets/explorer.js`."""

from __future__ import annotations

import json
import re
from typing import Any

from eelit.bib.graph import Neighbour
from eelit.bib.measures import EXPLAINED, measures
from eelit.catalog.schema import FACETS
from eelit.site.generator import layout, network
from eelit.site.generator.collection import Collection, Work

FILE = "graph-data.js"
SCRIPTS = ["assets/vendor/cytoscape-3.35.0.min.js", FILE, "assets/explorer.js"]
IDEA = 260  # letters of an idea on a card, unless its first sentence has more
COLOURS = 8
"""Colours that the style sheet has for the terms of a facet; the rarest terms share the last."""
PAIRS = 12
"""Most pairs that the page's tables show, the closest."""


def script(collection: Collection) -> str:
    """Return the data as a script that a page opened from disk can load."""
    return f"window.eelitGraph = {json.dumps(data(collection), ensure_ascii=False, separators=(',', ':'))};\n"


def data(collection: Collection) -> dict[str, Any]:
    """Return nodes with their two places, edges, and the terms to colour by."""
    graph = collection.graph
    near = layout.connected(graph)
    years = layout.by_year(graph, near.places)
    tops = {facet: _colours(collection, facet) for facet in FACETS}
    nodes = [
        _node(collection, work, tops) | {"at": [near.places[key], years.places[key]]}
        for key, work in collection.works.items()
    ]
    edges = [
        {"a": edge.source, "b": edge.target, "kind": network.kind(edge), "verb": edge.verb}
        for edge in graph.edges
        if edge.source != edge.target
    ]
    terms = collection.terms
    labels = {facet: [terms[facet][name].definition.label for name in names] for facet, names in tops.items()}
    return {
        "nodes": nodes,
        "edges": edges,
        "heads": near.heads,
        "years": [[year, x] for year, x, _ in years.heads],
        "colours": labels,
        "font": layout.FONT,
        "mark": layout.MARK,
        "many": len(nodes) >= layout.LARGE,
    }


def _colours(collection: Collection, facet: Any) -> list[str]:
    """Return the broadest terms of a facet that colours are given to, the commonest first."""
    broad = [term for term in collection.terms[facet].values() if term.depth == 0 and term.works]
    return [term.name for term in sorted(broad, key=lambda term: -len(term.works))[: COLOURS - 1]]


def _node(collection: Collection, work: Work, tops: dict[Any, list[str]]) -> dict[str, Any]:
    entry, record, method = work.entry, work.record, collection.methods.get(work.key)
    idea = beginning(entry.idea)
    colour = {}
    for facet, names in tops.items():
        own = [names.index(name) for name in collection.expanded(work, facet) if name in names]
        colour[facet] = own[0] if own else None
    return {
        "key": work.key,
        "name": entry.short_name,
        "label": layout.label(entry.short_name),
        "title": record.title,
        "who": f"{record.short_authors()} {record.year}",
        "idea": idea,
        "more": idea != " ".join(entry.idea.split()),
        "terms": [collection.terms[facet][name].definition.label for facet in FACETS for name in getattr(entry, facet)],
        "runs": method is not None,
        "shape": network.shape(method),
        "said": method.badge.words if method else work.without_method,
        "colour": colour,
        "curve": _curve(collection, work.key),
        "prior": [_neighbour(one) for one in collection.graph.prior(work.key)],
        "next": [_neighbour(one) for one in collection.graph.derivative(work.key)],
    }


def beginning(text: str, most: int = IDEA) -> str:
    """Return as many whole sentences from the start of a text as fit, but at least one."""
    first, *rest = re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!al\.)(?<!vs\.) (?=[^a-z])", " ".join(text.split()))
    for sentence in rest:
        if len(first) + 1 + len(sentence) > most:
            break
        first += f" {sentence}"
    return first


def _neighbour(one: Neighbour) -> list[Any]:
    """Return a key, how it is linked, and through how many shared works."""
    return [one.node.key, one.link, len(one.shared)]


def _curve(collection: Collection, key: str) -> dict[str, Any] | None:
    """Return the mean curve of the method's first variant on a track, if one was measured, and what its quality is."""
    rows = (row for board in collection.boards.values() for row in board.rows if row.key == key and not row.rule)
    row = next(rows, None)
    if row is None:
        return None
    return {"quality": row.quality, "points": [(round(x, 3), round(y, 4)) for x, y in row.points]}


def values(collection: Collection) -> dict[str, Any]:
    """Return what the page's template needs beside the picture and the table."""
    terms = {key: [name for f in FACETS for name in getattr(work.entry, f)] for key, work in collection.works.items()}
    found = measures(collection.graph, terms)
    labels = {name: term.definition.label for named in collection.terms.values() for name, term in named.items()}
    return {
        "measures": found,
        "explained": EXPLAINED,
        "labels": labels,
        "pairs": PAIRS,
        "marks": network.MARKS,
        "scripts": SCRIPTS,
    }
