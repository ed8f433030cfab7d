"""The graph of the whole collection: citations from the bibliography, typed relations from the entries."""

from __future__ import annotations

from eelit.bib.graph import Edge, Graph, Node, citation_edges
from eelit.catalog.query import Catalogue, Query, Relation


def collection(catalogue: Catalogue) -> Graph:
    """Return all works with all edges among them; relations to works outside are left to the works' own pages."""
    works = catalogue.find(Query()).works
    nodes = [Node(work["key"], work["short_name"], work["year"], work["title"]) for work in works]
    relations = [_edge(relation) for relation in catalogue.relations() if relation.target]
    edges = [*citation_edges(catalogue.citations()), *relations]
    return Graph(nodes, edges, complete_lists=catalogue.complete_lists())


def _edge(relation: Relation) -> Edge:
    evidence = relation.url or relation.evidence
    verified = relation.evidence != "unverified"
    return Edge(relation.source, relation.target or "", relation.type, "relation", evidence, verified)
