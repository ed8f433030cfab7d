"""What the text of a work is for a search, and its words without their endings, by one rule wherever one searches.

The rule is SQLite's: letters and digits make words, accents are dropped, and Porter's algorithm takes the endings off.
A word that is looked for loses its ending too, and then finds every word that starts so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from eelit.bib.record import Record
from eelit.catalog.check import broader_terms
from eelit.catalog.query import fold
from eelit.catalog.schema import FACETS, ROLES, Entry, TaxonomyTerm

TOKENIZER = "porter unicode61 remove_diacritics 2"


Synonyms = Mapping[tuple[str, str], list[str]]
"""Facet (or `role`) and term → what else people call it or one of its broader terms."""


def synonyms(terms: Mapping[str, Mapping[str, TaxonomyTerm]]) -> Synonyms:
    """Return the synonyms of all terms of all facets, and of the roles."""
    known = {**terms, "role": {term.term: term for term in ROLES}}
    return {
        (facet, name): [
            said for term in (name, *broader_terms(name, own)) if term in own for said in own[term].synonyms
        ]
        for facet, own in known.items()
        for name in own
    }


def called(entry: Entry, known: Synonyms) -> list[str]:
    """Return the synonyms of everything that an entry carries, each once."""
    carried = [(facet, term) for facet in FACETS for term in getattr(entry, facet)] + [("role", entry.role)]
    return list(dict.fromkeys(said for term in carried for said in known.get(term, [])))


def texts(entry: Entry, record: Record, known: Synonyms) -> tuple[str, str, str, str, str]:
    """Return what full-text search looks through, in falling weight: names, title, authors, idea, the rest."""
    rest = [entry.exit_rule or "", entry.skipped or "", entry.note or "", record.venue, *called(entry, known)]
    rest += [*entry.decides_by.values()]
    rest += entry.datasets + entry.backbones + [term for facet in FACETS for term in getattr(entry, facet)]
    names = " ".join([entry.key, entry.short_name, *entry.aliases])
    return names, record.title, " ".join(map(str, record.authors)), entry.idea, " ".join(rest)


def stems(of: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the different words of each text without their endings, sorted, as SQLite sees them."""
    memory = sqlite3.connect(":memory:")
    memory.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, tokenize='{TOKENIZER}')")
    memory.execute("CREATE VIRTUAL TABLE seen USING fts5vocab(words, 'instance')")
    keys = list(of)
    memory.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", enumerate(map(fold, of.values()), start=1))
    found: dict[str, list[str]] = {key: [] for key in keys}
    for term, row in memory.execute("SELECT DISTINCT term, doc FROM seen ORDER BY term"):
        found[keys[row - 1]].append(term)
    memory.close()
    return found
