"""Works that resemble each other: by the terms they share, rare ones counting more, and by what both cite."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from eelit.catalog.schema import FACETS, Facet
from eelit.site.generator.collection import Collection, Work

MOST = 6
"""How many are shown."""
CITATION = 1.0
"""What one work that both cite weighs, in the unit of terms: that of a term which one work in e has."""


@dataclass(frozen=True)
class Similar:
    """A work like another, and why."""

    key: str
    terms: tuple[tuple[Facet, str], ...]  # shared, the rarest first
    cited: tuple[str, ...]  # works of the catalogue that both cite


class Similarity:
    """Who has which term and cites whom, counted once for all works."""

    def __init__(self, collection: Collection) -> None:
        works = collection.works
        self.terms = {key: _terms(work) for key, work in works.items()}
        self.cited = {key: {edge.cited for edge in work.cites if edge.is_citation} for key, work in works.items()}
        carriers: dict[tuple[Facet, str], list[str]] = {}
        for key, own in self.terms.items():
            for term in own:
                carriers.setdefault(term, []).append(key)
        self.carriers = carriers
        self.weights = {term: math.log(len(works) / len(keys)) for term, keys in carriers.items()}
        self.citing: dict[str, list[str]] = {}
        for key, others in self.cited.items():
            for other in others:
                self.citing.setdefault(other, []).append(key)

    def of(self, key: str) -> list[Similar]:
        """Return the works most like this one, the nearest first; those with nothing rare in common are left out."""
        scores: defaultdict[str, float] = defaultdict(float)
        for term in self.terms[key]:
            for other in self.carriers[term]:
                scores[other] += self.weights[term]
        for cited in self.cited[key]:
            for other in self.citing[cited]:
                scores[other] += CITATION
        scores.pop(key, None)
        ranked = sorted(scores.items(), key=lambda pair: (-round(pair[1], 9), pair[0]))
        return [self._why(key, other) for other, score in ranked[:MOST] if score > 1]

    def _why(self, key: str, other: str) -> Similar:
        shared = sorted(self.terms[key] & self.terms[other], key=lambda term: (-self.weights[term], term))
        return Similar(other, tuple(shared[:4]), tuple(sorted(self.cited[key] & self.cited[other])))


def _terms(work: Work) -> set[tuple[Facet, str]]:
    own: Mapping[Facet, list[str]] = {facet: getattr(work.entry, facet) for facet in FACETS}
    return {(facet, name) for facet, names in own.items() for name in names}
