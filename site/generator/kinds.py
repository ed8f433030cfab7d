"""To which kind of exit policy a row of a leaderboard belongs, and by what rows and methods are filtered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eelit.catalog.schema import Facet
from eelit.methods.harness.summary import Row
from eelit.site.generator.collection import Collection

ABLATION = "ablation"
"""The kind of variants that leave out or replace their paper's own idea."""
FACET_OF: Mapping[str, Facet] = {"family": "policy", "task": "domain"}
"""What one filters by → the facet whose terms it has."""
Sifted = Mapping[str, list[str]]
"""What one filters by → what a row has of it."""


@dataclass(frozen=True)
class Choice:
    """One thing to filter by: its values, each as it is called, how deep it lies in its tree, and for how many rows."""

    name: str
    values: list[tuple[str, str, int, int]]


def kind(collection: Collection, row: Row) -> str:
    """Return the kind of a row in words: its policy family, or that it is a baseline or an ablation."""
    if row.rule:
        return f"{row.rule}, baseline"
    work = collection.works.get(row.key)
    if is_ablation(collection, row):
        return ABLATION
    return family(collection, work.entry.policy[0]) if work and work.entry.policy else "no exit policy"


def is_ablation(collection: Collection, row: Row) -> bool:
    """Return whether a row leaves out or replaces its paper's own idea."""
    work = collection.works.get(row.key)
    made = work.entry.implementation if work else None
    return not row.rule and made is not None and row.variant in made.ablations


def family(collection: Collection, term: str) -> str:
    """Return the label of the broadest term above one of the facet policy."""
    terms = collection.terms["policy"]
    while broader := terms[term].definition.broader:
        term = broader
    return terms[term].definition.label


def sifted(collection: Collection, key: str) -> Sifted:
    """Return what a method is found by: terms with all broader ones, how it was checked, and its tracks."""
    work = collection.works.get(key)
    found = {name: collection.expanded(work, facet) if work else [] for name, facet in FACET_OF.items()}
    made = work.entry.implementation if work else None
    return found | {"fidelity": [made.fidelity] if made else [], "track": collection.tracks(key)}


def choices(collection: Collection, names: Iterable[str], rows: Iterable[Sifted]) -> list[Choice]:
    """Return what these rows can be filtered by; what tells none of them from another is left out."""
    listed = list(rows)
    found = []
    for name in names:
        counts = Counter(value for row in listed for value in row[name])
        values = [(value, label, depth, counts[value]) for value, label, depth in _values(collection, name, counts)]
        if any(count < len(listed) for *_, count in values):
            found.append(Choice(name, values))
    return found


def _values(collection: Collection, name: str, counts: Mapping[str, int]) -> Iterable[tuple[str, str, int]]:
    """Yield the values that occur, with label and depth, in the order of the taxonomy or of the tracks."""
    if name in FACET_OF:
        terms = collection.terms[FACET_OF[name]].values()
        return ((term.name, term.definition.label, term.depth) for term in terms if term.name in counts)
    order = list(collection.boards) if name == "track" else sorted(counts)
    return ((value, value.replace("-", " ") if name == "fidelity" else value, 0) for value in order if value in counts)
