"""What the text of a work is for a search, and its words without their endings, by one rule wherever one searches.

The rule is SQLite's: letters and digits make words, accents are dropped, and Porter's algorithm takes the endings off.
A word that is looked for loses its ending too, and then finds every word that starts so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from eelit.bib.record import Record
from eelit.catalog.query import fold
from eelit.catalog.schema import FACETS, Entry

TOKENIZER = "porter unicode61 remove_diacritics 2"


def texts(entry: Entry, record: Record) -> tuple[str, str, str, str, str]:
    """Return what full-text search looks through, in falling weight: names, title, authors, idea, the rest."""
    rest = [entry.exit_rule or "", entry.skipped or "", entry.note or "", record.venue]
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
