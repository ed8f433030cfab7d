"""Which works to read first: those that the collection leans on most, the older ones first among equals.

Both are computed from verified edges: citations, and relations that say that a work builds on another. Reference lists
are known in part only, so the order is a help for newcomers and no measure of a work's worth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eelit.site.generator.collection import Collection

MOST = 3
"""How many works are named first."""
FEWEST = 4
"""Of fewer works than that none needs to be named first."""


@dataclass(frozen=True)
class Advised:
    """A work to read, and how many works of the collection cite it or build on it."""

    key: str
    leaning: int


@dataclass(frozen=True)
class Step:
    """One step of the path for newcomers."""

    about: str
    key: str
    leaning: int


def first(collection: Collection, keys: Iterable[str], most: int = MOST) -> list[Advised]:
    """Return which of the early-exit works among these to read first; none that no other work leans on."""
    own = (key for key in keys if collection.works[key].entry.role == "early-exit")
    found = [Advised(key, count) for key in own if (count := leaning(collection, key))]
    found.sort(key=lambda one: (-one.leaning, collection.works[one.key].record.year, one.key))
    return found[:most]


def leaning(collection: Collection, key: str) -> int:
    """Return how many works of the collection cite this one or build on it."""
    return sum(later.direct for later in collection.graph.derivative(key))


def path(collection: Collection) -> list[Step]:
    """Return a path for newcomers: the newest survey, then of each policy family the work to read first, by year."""
    surveys = [key for key, work in collection.works.items() if work.entry.kind == "survey"]  # the newest comes first
    steps = [Step("The field as a whole", key, leaning(collection, key)) for key in surveys[:1]]
    named = {step.key for step in steps}
    found: list[Step] = []
    for term in collection.terms["policy"].values():
        if term.depth or len(term.works) < FEWEST:
            continue
        chosen = [advised for advised in first(collection, term.works, len(term.works)) if advised.key not in named]
        if chosen:
            named.add(chosen[0].key)
            found.append(Step(term.definition.label, chosen[0].key, chosen[0].leaning))
    return steps + sorted(found, key=lambda step: (collection.works[step.key].record.year, step.key))
