"""Questions to the catalogue database. Standard library only, so that a search does not wait for imports."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from eelit.catalog import seal
from eelit.catalog.faults import CatalogueFault, Damaged, Unavailable, UnknownName

if TYPE_CHECKING:
    from eelit.bib.citations import Citation
    from eelit.bib.provenance import Told
    from eelit.bib.record import Record

FORMAT = 5  # raised whenever tables, entries or the seal change; stored as SQLite's user_version
MARK = 0x65656C69  # "eeli": SQLite's application_id, by which a catalogue is told from other people's databases
FACETS = ("placement", "training", "policy", "domain")
COUNTED = (*FACETS, "role")
FIDELITIES = ("checked-against-code", "from-paper", "reconstructed")
WORK_FIELDS = (
    *("key", "short_name", "year", "authors", "title", "venue", "role", "kind"),
    *("placement", "training", "policy", "domain", "implemented", "fidelity", "idea"),
)
# Works are numbered in the default order (newest first, then by key), so sorting by `id` costs nothing.
SORTS = {
    "year": "work.id",
    "key": "work.key",
    "name": "work.short_name COLLATE NOCASE, work.id",
    "author": "work.sort_author, work.id",
    "title": "work.sort_title",
    "venue": "work.venue COLLATE NOCASE, work.id",
}
MOST_WORDS = 32
"""Words of one search; thousands of them take minutes."""
LARGEST = 2**63 - 1
"""What SQLite takes for a number."""
UNREADABLE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)
"""What SQLite says of a file that went bad after it was opened."""
RELEVANCE = "bm25(work_text, 8, 6, 4, 2, 1)"  # names, title, authors, idea, the rest


@dataclass(frozen=True)
class Query:
    """What to look for: terms are alternatives within a facet and add up across facets."""

    terms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    text: str = ""
    first_year: int | None = None
    last_year: int | None = None
    author: str = ""
    venue: str = ""
    runnable: bool = False
    fidelity: tuple[str, ...] = ()  # of the implementation; several are alternatives
    sort: str = ""
    limit: int = 0


@dataclass(frozen=True)
class Found:
    """How many works match, those shown, and for each facet how many of them carry a term."""

    total: int
    works: list[dict[str, Any]]
    counts: dict[str, list[tuple[str, int]]]


class Term(NamedTuple):
    """A term of a facet, with the number of works that carry it or a narrower one."""

    facet: str
    term: str
    label: str
    definition: str
    broader: str | None
    example: str | None
    works: int
    synonyms: list[str]


class Relation(NamedTuple):
    """A typed edge; a target outside the catalogue has a title instead of a key."""

    source: str
    type: str
    target: str | None
    title: str
    year: int | None
    identifier: str | None
    evidence: str
    url: str | None
    note: str | None


@dataclass(frozen=True)
class Work:
    """Everything the catalogue says of a work. `entry` is the entry as JSON, with defaults filled in."""

    key: str
    entry: dict[str, Any]
    record: Record
    cites: list[Citation]
    cited_by: list[Citation]
    relations: list[Relation]
    related_from: list[Relation]
    told: list[Told]  # by services of the fields of the record


class Catalogue:
    """A read-only view of one database file."""

    def __init__(self, path: str, *, immutable: bool = False) -> None:
        """Open the file and see that it is as it was built; raises `Damaged` if it is not.

        `immutable` promises that nobody writes to it (a database inside an installed package).
        """
        self.path = os.path.abspath(path)
        self._immutable = immutable
        self._connection = self._opened()

    def _opened(self) -> sqlite3.Connection:
        if not os.path.isfile(self.path):
            raise Unavailable(f"there is no catalogue at {self.path}; `eelit build` makes one")
        connection = _connected(self.path, immutable=self._immutable)
        try:
            mark, found = (
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            )
        except sqlite3.DatabaseError as error:
            what = "damaged" if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT else "no catalogue of eelit"
            raise self._damaged(f"is {what} ({error})") from error
        if mark != MARK:
            raise self._damaged("is no catalogue of eelit")
        if found != FORMAT:
            raise CatalogueFault(f"{self.path} was built by another version of eelit; run `eelit build`")
        if reason := seal.fault(self.path):
            raise self._damaged(f"is damaged ({reason})")
        return connection

    def _damaged(self, reason: str) -> Damaged:
        remedy = "install eelit again" if self._immutable else "name another file with --db or EELIT_DB"
        return Damaged(self.path, reason, remedy)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in UNREADABLE:
                raise
            raise self._damaged(f"is damaged ({error})") from error

    def meta(self, name: str) -> str:
        """Return what the build noted under this name."""
        rows = self._rows("SELECT value FROM meta WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else ""

    def complete_lists(self) -> int:
        """Return of how many works every reference is known."""
        return int(self.meta("complete_lists") or 0)

    def find(self, query: Query) -> Found:
        """Return the works that match, with counts for the next step."""
        term_ids = {facet: self._term_ids(facet, terms) for facet, terms in query.terms.items() if terms}
        where, values = _conditions(query, term_ids)
        counts = self._counts(where, values, term_ids)
        total = counts.pop(0)
        order = SORTS.get(query.sort) or (RELEVANCE if query.text else SORTS["year"])
        source = "work JOIN work_text ON work_text.rowid = work.id" if query.text else "work"
        limit = min(query.limit, LARGEST) if query.limit > 0 else -1
        columns = ", ".join(f"work.{name}" for name in WORK_FIELDS)
        sql = f"SELECT {columns} FROM {source} WHERE {where} ORDER BY {order} LIMIT {limit}"
        works = [_row(dict(zip(WORK_FIELDS, row, strict=True))) for row in self._rows(sql, values)]
        return Found(total, works, self._by_facet(counts))

    def _term_ids(self, facet: str, terms: tuple[str, ...]) -> list[int]:
        found = dict(self._rows("SELECT term, id FROM term WHERE facet = ?", (facet,)))
        for term in terms:
            if term not in found:
                raise UnknownName(f"`{term}` is not a term of {facet}{self._hint(facet, term, tuple(found))}")
        return [found[term] for term in terms]

    def _hint(self, facet: str, term: str, known: tuple[str, ...]) -> str:
        """Return what somebody may have meant who asked for a term that there is not."""
        from eelit.bib.problems import did_you_mean

        said = fold(term).replace("-", " ")
        for meant in self.taxonomy(facet):
            if any(fold(name).replace("-", " ") == said for name in meant.synonyms):
                return f"; it is called `{meant.term}` here"
        return did_you_mean(term, known) or f"; `eelit taxonomy {facet}` lists them"

    def _counts(self, where: str, values: list[Any], term_ids: dict[str, list[int]]) -> dict[int, int]:
        """Return works per term among the matches, and their total under 0."""
        asked = [number for numbers in term_ids.values() for number in numbers]
        if where == "1":
            ((total,),) = self._rows("SELECT count(*) FROM work")
            rows = self._rows("SELECT term_b, works FROM term_pair WHERE term_a = term_b")
        elif len(asked) == 1 and where == _has_one_of(asked):
            # The commonest question; its counts were worked out by the build.
            counts = dict(self._rows("SELECT term_b, works FROM term_pair WHERE term_a = ?", asked))
            return {0: counts.get(asked[0], 0)} | counts
        else:
            source = "work_text JOIN work ON work.id = work_text.rowid" if "MATCH" in where else "work"
            matched = f"SELECT work.id FROM {source} WHERE {where}"
            ((total,),) = self._rows(f"SELECT count(*) FROM ({matched})", values)
            sql = f"SELECT term_id, count(*) FROM work_term WHERE work_id IN ({matched}) GROUP BY term_id"
            rows = self._rows(sql, values)
        return {0: total} | dict(rows)

    def _by_facet(self, counts: dict[int, int]) -> dict[str, list[tuple[str, int]]]:
        by_facet: dict[str, list[tuple[str, int]]] = {facet: [] for facet in COUNTED}
        for number, facet, term in self._rows("SELECT id, facet, term FROM term ORDER BY id"):
            if number in counts:
                by_facet[facet].append((term, counts[number]))
        return {facet: sorted(terms, key=lambda term: -term[1]) for facet, terms in by_facet.items()}

    def keys(self, prefix: str = "") -> list[str]:
        """Return all keys that start so, in alphabetical order."""
        sql = "SELECT key FROM work WHERE substr(key, 1, ?) = ? ORDER BY key"
        return [key for (key,) in self._rows(sql, (len(prefix), prefix))]

    def names(self, *, runnable: bool = False) -> list[str]:
        """Return every key, short name and alias that a work answers to; or only those of works that run here."""
        sql = "SELECT DISTINCT name FROM name JOIN work ON work.id = work_id WHERE implemented OR NOT ? ORDER BY name"
        return [name for (name,) in self._rows(sql, (runnable,))]

    def resolve(self, name: str) -> str:
        """Return the key of the work with this key, short name or alias, without regard to case."""
        sql = "SELECT key FROM name JOIN work ON work.id = work_id WHERE folded = ? ORDER BY is_key DESC, key"
        keys = [key for (key,) in self._rows(sql, (fold(name),))]
        if len(keys) == 1 or fold(name) in keys:
            return str(keys[0])
        if keys:
            raise UnknownName(f"`{name}` is the name of several works: {', '.join(keys)}; give the key")
        import difflib

        folded = {fold(known): known for known in self.names()}
        close = difflib.get_close_matches(fold(name), folded, n=3, cutoff=0.65)
        hint = f"; did you mean {' or '.join(folded[known] for known in close)}?" if close else ""
        raise UnknownName(f"no work is called `{name}`{hint}")

    def record(self, key: str) -> Record:
        """Return the bibliographic record of a work."""
        from eelit.bib.record import Record

        return Record.from_dict(self._document(key)[1])

    def _document(self, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return entry and record."""
        rows = self._rows("SELECT entry, record FROM document JOIN work ON work.id = work_id WHERE key = ?", (key,))
        if not rows:
            raise UnknownName(f"no work has the key `{key}`")
        entry, record = rows[0]
        return json.loads(entry), json.loads(record)

    def work(self, key: str) -> Work:
        """Return everything about one work."""
        return Work(
            key=key,
            entry=self._document(key)[0],
            record=self.record(key),
            cites=list(self._citations("citing.key = ?", key)),
            cited_by=list(self._citations("cited.key = ?", key)),
            relations=list(self._relations("source.key = ?", key)),
            related_from=list(self._relations("target.key = ?", key)),
            told=self._told(key),
        )

    def _told(self, key: str) -> list[Told]:
        from eelit.bib.provenance import Told

        rows = self._rows("SELECT told FROM document JOIN work ON work.id = work_id WHERE key = ?", (key,))
        return [Told.from_dict(data) for (text,) in rows for data in json.loads(text)]

    def works(self) -> Iterator[Work]:
        """Yield all works, newest first."""
        for (key,) in self._rows("SELECT key FROM work ORDER BY id"):
            yield self.work(key)

    def citations(self) -> list[Citation]:
        """Return all edges of `citations.csv`, baseline comparisons among them."""
        return list(self._citations("?", True))

    def _citations(self, where: str, value: object) -> Iterator[Citation]:
        from eelit.bib.citations import Citation

        sql = f"""SELECT citing.key, cited.key, evidence, citation.kind FROM citation
            JOIN work AS citing ON citing.id = citing_id JOIN work AS cited ON cited.id = cited_id
            WHERE {where} ORDER BY citing.key, cited.key"""
        return (Citation(*row) for row in self._rows(sql, (value,)))

    def relations(self) -> list[Relation]:
        """Return all relations of all entries."""
        return list(self._relations("?", True))

    def _relations(self, where: str, value: object) -> Iterator[Relation]:
        sql = f"""SELECT source.key, type, target.key, coalesce(target.title, relation.title),
                coalesce(target.year, relation.year), identifier, evidence, url, note
            FROM relation JOIN work AS source ON source.id = source_id LEFT JOIN work AS target ON target.id = target_id
            WHERE {where} ORDER BY relation.id"""
        return (Relation(*row) for row in self._rows(sql, (value,)))

    def taxonomy(self, facet: str = "") -> list[Term]:
        """Return the terms of a facet, or of all, in reading order."""
        sql = """SELECT facet, term, label, definition, broader, example,
                coalesce((SELECT works FROM term_pair WHERE term_a = term.id AND term_b = term.id), 0), synonyms
            FROM term WHERE facet = ?1 OR ?1 = '' ORDER BY id"""
        return [Term._make((*row[:-1], json.loads(row[-1]))) for row in self._rows(sql, (facet,))]


def made_from(path: str) -> str:
    """Return the root of the checkout that a database was built from, as far as a damaged one still tells it."""
    try:
        connection = _connected(path)
        with closing(connection):
            found = connection.execute("SELECT value FROM meta WHERE name = 'root'").fetchone()
    except sqlite3.DatabaseError:
        return ""
    return str(found[0]) if found else ""


def _connected(path: str, *, immutable: bool = False) -> sqlite3.Connection:
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    how = "mode=ro&immutable=1" if immutable else "mode=ro"
    return sqlite3.connect(f"file://{quoted}?{how}", uri=True)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    for facet in FACETS:
        row[facet] = row[facet].split()
    row["implemented"] = bool(row["implemented"])
    return {name: row[name] for name in WORK_FIELDS}


def _has_one_of(term_ids: list[int]) -> str:
    return f"work.id IN (SELECT work_id FROM work_term WHERE term_id IN ({', '.join(map(str, sorted(term_ids)))}))"


def _conditions(query: Query, term_ids: dict[str, list[int]]) -> tuple[str, list[Any]]:
    """Return the WHERE clause and its values."""
    parts: list[tuple[str, list[Any]]] = [(_has_one_of(numbers), []) for numbers in term_ids.values()]
    checks: list[tuple[object, str, list[Any]]] = [
        (query.text, "work_text MATCH ?", [_match(query.text)]),
        (query.first_year is not None, "work.year >= ?", [query.first_year]),
        (query.last_year is not None, "work.year <= ?", [query.last_year]),
        (query.author, "work.id IN (SELECT work_id FROM author WHERE instr(folded, ?))", [fold(query.author)]),
        (query.venue, "instr(work.folded_venue, ?)", [fold(query.venue)]),
        (query.runnable, "work.implemented", []),
        (query.fidelity, f"work.fidelity IN ({', '.join('?' * len(query.fidelity))})", list(query.fidelity)),
    ]
    parts += [(sql, values) for asked, sql, values in checks if asked]
    return " AND ".join(sql for sql, _ in parts) or "1", [value for _, values in parts for value in values]


def _match(text: str) -> str:
    """Return an FTS5 expression for works that hold all words, the ends of which may be left off."""
    words = dict.fromkeys("".join(letter if letter.isalnum() else " " for letter in fold(text)).split())
    if text and not words:
        raise UnknownName(f"`{text}` holds no word to look for")
    if len(words) > MOST_WORDS:
        raise UnknownName(f"{len(words)} different words are too many for one search; give at most {MOST_WORDS}")
    return " ".join(f'"{word}"*' for word in words)


def fold(text: str) -> str:
    """Return the text without case and accents, as names are compared."""
    if text.isascii():
        return text.casefold()
    import unicodedata

    text = text.casefold().translate(str.maketrans("łøđı", "lodi"))  # letters that Unicode does not take apart
    return "".join(
        letter for letter in unicodedata.normalize("NFKD", text).casefold() if not unicodedata.combining(letter)
    )
