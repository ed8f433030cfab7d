"""What the citation graph says as a whole: pairs, the main path, communities, who stands alone.

Pairs are products of sparse matrices and the main path runs over plain lists of numbers, which millions of edges need.
Communities are networkx's, which makes an object of every edge: a million of them take about a gigabyte.
Only citations that were seen count for pairs and path; communities use every verified edge. All of it describes what is
known of the edges, which is far from complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from eelit.bib.graph import Edge, Graph

SEED = 7
MOST_PAIRS = 100_000
MOST_FOR_LOUVAIN = 100_000
"""Edges beyond which Louvain's method would take minutes, and labels are passed along instead."""
EXPLAINED = {
    "co-citation": "Two works are cited together by later works. "
    f"No more than the closest {MOST_PAIRS:,} pairs are kept.",
    "coupling": "Two works cite the same earlier works (bibliographic coupling). "
    f"No more than the closest {MOST_PAIRS:,} pairs are kept.",
    "main path": "The chain of citations that most ways from the oldest to the newest works run through: edges are "
    "weighted by search path count, and the chain with the largest sum is shown. Where works cite each other in a "
    "circle, the edges inside the circle are dropped.",
    "communities": "Works with more edges among themselves than to others (Louvain's method, or in "
    f"graphs of more than {MOST_FOR_LOUVAIN:,} edges label propagation; fixed seed), each marked "
    "by the term that most sets it apart from all other works, with the share of its works and of the others that "
    "carry it. No term marks two communities; a community without such a term has no mark.",
    "alone": "Works without a verified edge: it is not yet known how they are connected.",
}
"""Measure → what it means, in a sentence."""


@dataclass(frozen=True)
class Pair:
    """Two works and the works that join them."""

    one: str
    other: str
    through: tuple[str, ...]


@dataclass(frozen=True)
class Community:
    """Works that belong together, the best connected first, and the term that marks them."""

    members: tuple[str, ...]
    mark: str  # empty if no term is left that sets it apart
    share: float  # of the members that carry the mark
    elsewhere: float  # share of all other works that carry it


@dataclass(frozen=True)
class Measures:
    """Everything at once."""

    co_citation: list[Pair]
    coupling: list[Pair]
    main_path: list[str]  # from the oldest work to the newest
    communities: list[Community]
    alone: list[str]


def measures(graph: Graph, terms: Mapping[str, Collection[str]]) -> Measures:
    """Return all measures; ``terms`` says which terms a work carries, to name communities by."""
    groups = communities(graph)
    return Measures(co_citation(graph), coupling(graph), main_path(graph), marked(groups, terms), alone(graph))


def _citations(graph: Graph) -> list[Edge]:
    return [edge for edge in graph.edges if edge.group == "citation" and edge.verified]


def co_citation(graph: Graph) -> list[Pair]:
    """Return pairs of works that at least two works cite together, those cited together most first."""
    return _pairs((edge.source, edge.target) for edge in _citations(graph))


def coupling(graph: Graph) -> list[Pair]:
    """Return pairs of works that cite at least two works both, those with most in common first."""
    return _pairs((edge.target, edge.source) for edge in _citations(graph))


def _pairs(edges: Iterable[tuple[str, str]]) -> list[Pair]:
    """Return pairs of second ends that share at least two first ends, at most `MOST_PAIRS`."""
    import numpy as np

    from eelit.bib import matrices

    found = set(edges)
    firsts, seconds = (sorted({edge[end] for edge in found}) for end in (0, 1))
    columns, rows = ({key: place for place, key in enumerate(keys)} for keys in (firsts, seconds))
    ends = np.array([(rows[second], columns[first]) for first, second in found], np.int64).reshape(-1, 2)
    matrix = matrices.ones(ends[:, 0], ends[:, 1], (len(rows), len(columns)))
    matrix.sort_indices()
    of = [matrix.indices[start:end] for start, end in pairwise(matrix.indptr)]
    return [
        Pair(seconds[one], seconds[other], tuple(firsts[place] for place in np.intersect1d(of[one], of[other])))
        for one, other, _ in zip(*matrices.shared(matrix, 2, MOST_PAIRS), strict=True)
    ]


def main_path(graph: Graph) -> list[str]:
    """Return the works of the main path, each cited by the next; empty if nobody cites anybody.

    Of paths alike, the one is taken whose newest work comes first in the alphabet, then the work before it.
    """
    import numpy as np

    from eelit.bib.chains import heaviest
    from eelit.bib.matrices import ones

    edges = {(edge.target, edge.source) for edge in _citations(graph)}  # from the cited to the citing
    if not edges:
        return []
    keys = sorted({key for edge in edges for key in edge})
    places = {key: place for place, key in enumerate(keys)}
    ends = np.array([(places[cited], places[citing]) for cited, citing in edges], np.int64)
    return [keys[place] for place in heaviest(ones(ends[:, 0], ends[:, 1], (len(keys), len(keys))))]


def communities(graph: Graph) -> list[list[str]]:
    """Return groups of at least two works, the largest first, in each the best connected first."""
    import networkx

    joined: networkx.Graph[str] = networkx.Graph()
    counts = Counter(tuple(sorted((edge.source, edge.target))) for edge in graph.edges if edge.verified)
    joined.add_weighted_edges_from(
        (one, other, count) for (one, other), count in sorted(counts.items()) if one != other
    )
    few = joined.number_of_edges() <= MOST_FOR_LOUVAIN
    algorithms = networkx.community
    find = algorithms.louvain_communities if few else algorithms.fast_label_propagation_communities
    found = find(joined, weight="weight", seed=SEED)
    inside = [sorted(group, key=lambda key: (-joined.degree(key, weight="weight"), key)) for group in found]
    return sorted((group for group in inside if len(group) > 1), key=lambda group: (-len(group), group[0]))


def marked(groups: Iterable[Collection[str]], terms: Mapping[str, Collection[str]]) -> list[Community]:
    """Name each group by a term of its own: the one whose share inside exceeds its share among all others by most.

    Where several groups ask for a term, the one that it sets apart most gets it, and the others take their next. A term
    that only one work of a group carries says nothing about the group.
    """
    listed = [tuple(group) for group in groups]
    everywhere = Counter(term for own in terms.values() for term in set(own))
    asked = []
    for place, group in enumerate(listed):
        here = Counter(term for key in group for term in set(terms.get(key, ())))
        others = max(1, len(terms) - len(group))
        for term, count in here.items():
            share, elsewhere = count / len(group), (everywhere[term] - count) / others
            if count > 1 and share > elsewhere:
                asked.append((elsewhere - share, term, place, share, elsewhere))
    given: dict[int, tuple[str, float, float]] = {}
    taken: set[str] = set()
    for _, term, place, share, elsewhere in sorted(asked):
        if place not in given and term not in taken:
            given[place] = term, share, elsewhere
            taken.add(term)
    return [Community(group, *given.get(place, ("", 0.0, 0.0))) for place, group in enumerate(listed)]


def alone(graph: Graph) -> list[str]:
    """Return the works without any verified edge, sorted."""
    joined = {key for edge in graph.edges if edge.verified for key in (edge.source, edge.target)}
    return sorted(set(graph.nodes) - joined)
