"""Which combinations of placement, policy and training have been tried, and which nobody in the catalogue has.

Works carry several terms of a facet, so they count in several cells. Broader terms stand for their narrower ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

Carried = Mapping[str, Mapping[Any, Collection[str]]]
"""Work → facet → its terms, those above them included."""
LEAST = 2
"""How many works must join every two of three terms before it counts as a gap that nobody joins all three."""


@dataclass(frozen=True)
class Cell:
    """The works that carry two terms (and perhaps a third), and those of them that run here."""

    works: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gap:
    """Three terms that no work joins, though works join every two of them."""

    placement: str
    policy: str
    training: str
    pairs: tuple[int, int, int]  # works that join placement and policy, placement and training, policy and training


def above(terms: Iterable[str], broader: Mapping[str, str | None]) -> set[str]:
    """Return the terms with all that stand above them."""
    found: set[str] = set()
    for term in terms:
        current: str | None = term
        while current and current not in found:
            found.add(current)
            current = broader.get(current)
    return found


def cells(
    carried: Carried, runs: Collection[str], rows: Iterable[str], columns: Iterable[str], training: str = ""
) -> dict[tuple[str, str], Cell]:
    """Return a cell for every placement and policy, of works that carry the training term too if one is given."""
    chosen = [key for key, own in carried.items() if not training or training in own["training"]]
    found = {}
    for placement, policy in product(rows, columns):
        works = tuple(
            key for key in chosen if placement in carried[key]["placement"] and policy in carried[key]["policy"]
        )
        found[placement, policy] = Cell(works, tuple(key for key in works if key in runs))
    return found


def gaps(
    carried: Carried,
    placements: Iterable[str],
    policies: Iterable[str],
    trainings: Iterable[str],
    broader: Mapping[Any, Mapping[str, str | None]],
) -> list[Gap]:
    """Return the combinations that nobody tried though each two of their terms were joined, the likeliest first.

    `broader` names the term above each, by facet. What follows from a gap between broader terms is not told again.
    """
    holders = {
        (facet, term): {key for key, own in carried.items() if term in own[facet]}
        for facet, terms in (("placement", placements), ("policy", policies), ("training", trainings))
        for term in terms
    }
    by_facet = {
        facet: [term for kind, term in holders if kind == facet] for facet in ("placement", "policy", "training")
    }
    found = []
    for where, rule, how in product(*by_facet.values()):
        a, b, c = holders["placement", where], holders["policy", rule], holders["training", how]
        pairs = len(a & b), len(a & c), len(b & c)
        if min(pairs) >= LEAST and not a & b & c:
            found.append(Gap(where, rule, how, pairs))
    found = [gap for gap in found if not _follows(gap, found, broader)]
    return sorted(found, key=lambda gap: (-min(gap.pairs), -sum(gap.pairs), gap.placement, gap.policy, gap.training))


def _follows(gap: Gap, others: Iterable[Gap], broader: Mapping[Any, Mapping[str, str | None]]) -> bool:
    """Whether another gap has the same terms or broader ones in every place."""
    reach = {
        facet: above([getattr(gap, facet)], broader.get(facet, {})) for facet in ("placement", "policy", "training")
    }
    return any(
        other != gap and all(getattr(other, facet) in terms for facet, terms in reach.items()) for other in others
    )
