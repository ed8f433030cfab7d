"""The graph of the collection: who cites whom, and whatever typed edges the catalogue adds.

networkx is imported only when a graph is walked, since most commands never do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

from eelit.bib.citations import Citation, completeness

if TYPE_CHECKING:
    from networkx import MultiDiGraph

Group = Literal["citation", "comparison", "relation"]
Link = Literal["built", "cited", "shared"]
"""How a prior or derivative work is linked, the closest first: one builds on the other, cites it, or shares works."""


class NoPath(Exception):
    """Two works are not connected by any edge that is known."""


@dataclass(frozen=True)
class Node:
    """A work as the graph shows it."""

    key: str
    name: str
    year: int
    title: str


@dataclass(frozen=True)
class Edge:
    """An edge between works of the collection; only verified ones are counted or walked along."""

    source: str
    target: str
    kind: str
    group: Group
    evidence: str
    verified: bool = True

    @property
    def verb(self) -> str:
        """Return how the edge reads between the names of its two works."""
        return {"citation": "cites", "comparison": "compares with"}.get(self.group, self.kind.replace("-", " "))


@dataclass(frozen=True)
class Neighbour:
    """A prior or derivative work: linked directly, or only through works that both share."""

    node: Node
    link: Link
    shared: tuple[str, ...] = ()

    @property
    def direct(self) -> bool:
        """Return whether one of the two works builds on the other or cites it."""
        return self.link != "shared"


class Graph:
    """Works and typed edges; parts of it are graphs again."""

    def __init__(
        self, nodes: Iterable[Node], edges: Iterable[Edge], whole: Graph | None = None, *, complete_lists: int = 0
    ) -> None:
        """Keep the edges whose two ends are among the nodes.

        `whole` is the graph that this is a part of; of how many works the list of references is complete, only the
        whole need be told.
        """
        self.nodes = {node.key: node for node in nodes}
        self.edges = [edge for edge in edges if edge.source in self.nodes and edge.target in self.nodes]
        self._cites: dict[str, list[str]] = {}
        self._cited: dict[str, list[str]] = {}
        self._onto: dict[str, list[str]] = {}
        self._under: dict[str, list[str]] = {}
        for edge in self.edges:
            if edge.group == "citation":
                self._cites.setdefault(edge.source, []).append(edge.target)
                self._cited.setdefault(edge.target, []).append(edge.source)
            elif edge.verified and edge.kind in ("builds-on", "extends", "superseded-by"):
                later, earlier = edge.source, edge.target
                if edge.kind == "superseded-by":  # the one relation that an older work states of a newer one
                    later, earlier = earlier, later
                self._onto.setdefault(later, []).append(earlier)
                self._under.setdefault(earlier, []).append(later)
        self.complete_lists: int = whole.complete_lists if whole else complete_lists
        self.citations: int = whole.citations if whole else sum(edge.group == "citation" for edge in self.edges)

    def to_networkx(self) -> MultiDiGraph[str]:
        """Return the graph for networkx, with names, years and kinds as attributes."""
        import networkx

        graph: MultiDiGraph[str] = networkx.MultiDiGraph()
        for node in self.nodes.values():
            graph.add_node(node.key, name=node.name, year=node.year, title=node.title)
        for edge in self.edges:
            attributes = {"kind": edge.kind, "group": edge.group, "evidence": edge.evidence, "verified": edge.verified}
            graph.add_edge(edge.source, edge.target, **attributes)
        return graph

    def verified(self) -> Graph:
        """Return the graph without the edges that no source confirmed."""
        return Graph(self.nodes.values(), (edge for edge in self.edges if edge.verified), self)

    def around(self, key: str, depth: int) -> Graph:
        """Return the works at most so many verified edges away, whichever way these point, and all edges among them."""
        import networkx

        undirected = self.verified().to_networkx().to_undirected()
        near = networkx.single_source_shortest_path_length(undirected, key, cutoff=depth)
        return Graph((self.nodes[found] for found in near), self.edges, self)

    def path(self, start: str, end: str) -> list[Edge]:
        """Return a shortest chain of verified edges between two works; raises `NoPath`."""
        import networkx

        graph = self.verified()
        try:
            keys = networkx.shortest_path(graph.to_networkx().to_undirected(), start, end)
        except networkx.NetworkXNoPath as error:
            raise NoPath(f"no chain of known edges leads from {start} to {end}") from error
        return [graph._edge_between(one, other) for one, other in pairwise(keys)]

    def _edge_between(self, one: str, other: str) -> Edge:
        """Return the edge that joins two works; a citation says most."""
        edges = [edge for edge in self.edges if {edge.source, edge.target} == {one, other}]
        return min(edges, key=lambda edge: edge.group != "citation")

    def cited_by(self, key: str) -> list[str]:
        """Return the works of the collection that this one cites."""
        return self._cites.get(key, [])

    def citing(self, key: str) -> list[str]:
        """Return the works of the collection that cite this one."""
        return self._cited.get(key, [])

    def prior(self, key: str) -> list[Neighbour]:
        """Return works that came before: this one builds on them or cites them, or later works cite both together."""
        direct = _closest(self._onto.get(key, []), self.cited_by(key))
        after = {*self._under.get(key, []), *self.citing(key)}
        return self._neighbours(key, direct, _shared(self.citing(key), self.cited_by), after, earlier=True)

    def derivative(self, key: str) -> list[Neighbour]:
        """Return works that came after: they build on this one or cite it, or both cite the same works (coupling)."""
        direct = _closest(self._under.get(key, []), self.citing(key))
        before = {*self._onto.get(key, []), *self.cited_by(key)}
        return self._neighbours(key, direct, _shared(self.cited_by(key), self.citing), before, earlier=False)

    def _neighbours(
        self,
        key: str,
        direct: Mapping[str, Link],
        shared: Mapping[str, tuple[str, ...]],
        opposite: Collection[str],
        *,
        earlier: bool,
    ) -> list[Neighbour]:
        """Put the closest first, then those that share most; one shared work alone says too little."""
        year = self.nodes[key].year
        found = [Neighbour(self.nodes[other], link, shared.get(other, ())) for other, link in direct.items()]
        for other, common in shared.items():
            in_time = self.nodes[other].year <= year if earlier else self.nodes[other].year >= year
            if other not in (key, *direct, *opposite) and len(common) > 1 and in_time:
                found.append(Neighbour(self.nodes[other], "shared", common))
        order: tuple[Link, ...] = get_args(Link)
        return sorted(found, key=lambda one: (order.index(one.link), -len(one.shared), one.node.year, one.node.key))

    def note(self) -> str:
        """Return what a reader must know of how complete the edges are."""
        return completeness(self.citations, self.complete_lists)


def _closest(built: Iterable[str], cited: Iterable[str]) -> dict[str, Link]:
    """Return the works that are linked directly, each with its closest link."""
    return {**dict.fromkeys(cited, "cited"), **dict.fromkeys(built, "built")}


def _shared(middles: Iterable[str], onward: Callable[[str], list[str]]) -> dict[str, tuple[str, ...]]:
    """Return the works one step on from these, each with those of these that lead to it."""
    found: dict[str, set[str]] = {}
    for middle in middles:
        for other in onward(middle):
            found.setdefault(other, set()).add(middle)
    return {other: tuple(sorted(through)) for other, through in found.items()}


def citation_edges(citations: Iterable[Citation]) -> list[Edge]:
    """Return the edges of `citations.csv`; comparisons with a baseline are kept apart from citations."""
    return [
        Edge(
            citation.citing,
            citation.cited,
            citation.kind,
            "citation" if citation.is_citation else "comparison",
            citation.evidence,
        )
        for citation in citations
    ]
