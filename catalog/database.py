"""Build the catalogue database: one SQLite file, written aside and put in place in one step.

This module alone imports SQLModel. Questions are asked through `eelit.catalog.query`, which knows the same tables.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from sqlalchemy import URL, Connection, Engine, Index
from sqlalchemy.exc import DBAPIError
from sqlmodel import Field, SQLModel, create_engine, insert

from eelit.bib.citations import Citation
from eelit.bib.problems import Problem
from eelit.bib.provenance import Told, provenance
from eelit.bib.record import Record
from eelit.catalog import words
from eelit.catalog.check import broader_terms, check_loaded, losses
from eelit.catalog.faults import INTERRUPTED, RUN_FAILED, CatalogueFault, NotWritten, not_written
from eelit.catalog.fresh import fingerprint, own_path
from eelit.catalog.load import load
from eelit.catalog.query import FORMAT, MARK, fold
from eelit.catalog.schema import FACETS, ROLES, Entry, ExternalTarget, Taxonomy, TaxonomyTerm
from eelit.catalog.seal import seal
from eelit.catalog.sources import Sources, as_text, checkout

BATCH = 5_000
HEADER = 100
"""Bytes in front of every SQLite file; the application's mark is among them."""
UNWRITABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
REMEDY = "name another place with --db or EELIT_DB, or another cache folder with EELIT_CACHE"
LEFTOVER_AGE = 3_600  # seconds; younger files beside the database may belong to a build that still runs


class MetaRow(SQLModel, table=True):
    """What the build notes about itself."""

    __tablename__ = "meta"
    name: str = Field(primary_key=True)
    value: str


class TermRow(SQLModel, table=True):
    """A term; ids follow the reading order of the taxonomy."""

    __tablename__ = "term"
    id: int = Field(primary_key=True)
    facet: str
    term: str
    label: str
    definition: str
    broader: str | None
    example: str | None
    synonyms: str  # JSON


class WorkRow(SQLModel, table=True):
    """What a list of works shows; ids follow the default order."""

    __tablename__ = "work"
    id: int = Field(primary_key=True)
    key: str = Field(unique=True)
    short_name: str
    year: int
    authors: str
    title: str
    venue: str
    role: str
    kind: str
    placement: str
    training: str
    policy: str
    domain: str
    implemented: bool
    fidelity: str
    idea: str
    folded_venue: str
    sort_author: str
    sort_title: str


class DocumentRow(SQLModel, table=True):
    """Entry and record in full, and what services told of the record's fields, as JSON."""

    __tablename__ = "document"
    work_id: int = Field(primary_key=True, foreign_key="work.id")
    entry: str
    record: str
    told: str


class NameRow(SQLModel, table=True):
    """The names a work answers to."""

    __tablename__ = "name"
    __table_args__ = {"sqlite_with_rowid": False}  # SQLAlchemy reads it as it stands
    folded: str = Field(primary_key=True)
    work_id: int = Field(primary_key=True, foreign_key="work.id")
    name: str
    is_key: bool


class AuthorRow(SQLModel, table=True):
    """An author of a work."""

    __tablename__ = "author"
    __table_args__ = {"sqlite_with_rowid": False}
    work_id: int = Field(primary_key=True, foreign_key="work.id")
    position: int = Field(primary_key=True)
    folded: str


class WorkTermRow(SQLModel, table=True):
    """A work carries a term, by itself or through a narrower one; the table is its own covering index."""

    __tablename__ = "work_term"
    __table_args__ = (Index("work_term_by_work", "work_id", "term_id"), {"sqlite_with_rowid": False})
    term_id: int = Field(primary_key=True, foreign_key="term.id")
    work_id: int = Field(primary_key=True, foreign_key="work.id")


class TermPairRow(SQLModel, table=True):
    """How many works carry both terms: the counts of the next step for a search by one term."""

    __tablename__ = "term_pair"
    __table_args__ = {"sqlite_with_rowid": False}
    term_a: int = Field(primary_key=True, foreign_key="term.id")
    term_b: int = Field(primary_key=True, foreign_key="term.id")
    works: int


class CitationRow(SQLModel, table=True):
    """An edge of `citations.csv`."""

    __tablename__ = "citation"
    id: int = Field(primary_key=True)
    citing_id: int = Field(foreign_key="work.id", index=True)
    cited_id: int = Field(foreign_key="work.id", index=True)
    kind: str
    evidence: str


class RelationRow(SQLModel, table=True):
    """A relation of an entry, to a work of the catalogue or to one outside."""

    __tablename__ = "relation"
    id: int = Field(primary_key=True)
    source_id: int = Field(foreign_key="work.id", index=True)
    type: str
    target_id: int | None = Field(foreign_key="work.id", index=True)
    title: str
    year: int | None
    identifier: str | None
    evidence: str
    url: str | None
    note: str | None


FULL_TEXT = f"""CREATE VIRTUAL TABLE work_text USING fts5(
    names, title, authors, idea, rest, content='', tokenize='{words.TOKENIZER}')"""
TERM_PAIRS = """INSERT INTO term_pair SELECT a.term_id, b.term_id, count(*)
    FROM work_term AS a JOIN work_term AS b ON b.work_id = a.work_id GROUP BY a.term_id, b.term_id"""


@dataclass(frozen=True)
class Content:
    """What goes into a database; works come in the default order."""

    taxonomy: Taxonomy
    works: Iterable[tuple[Entry, Record]]
    citations: list[Citation] = field(default_factory=list)
    told: dict[str, list[Told]] = field(default_factory=dict)  # key → what services told of its record
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a build made, and the problems that did not prevent it."""

    path: Path
    works: int
    seconds: float
    problems: list[Problem]


def build(path: Path, sources: Sources, *, shipped: bool = False) -> Report:
    """Build the database from the sources. A file that was there before survives any failure.

    A part that cannot be read, or a record without an entry, stops the build, since a work would be missing without a
    word; for a database to be shipped any error does.
    """
    start = time.perf_counter()
    root = checkout() or ""
    mark = fingerprint(root) if root else ""  # before reading: what changes meanwhile is noticed next time
    loaded = load(sources)
    problems = check_loaded(loaded)
    stopping = [problem for problem in problems if problem.severity == "error"] if shipped else losses(loaded)
    if stopping:
        more = f" (and {len(stopping) - 1} more; `eelit check` lists them)" if len(stopping) > 1 else ""
        raise CatalogueFault(f"the catalogue was not built: {min(stopping)}{more}")
    assert loaded.taxonomy is not None, "a taxonomy that cannot be read is a problem and stops the build"
    records = loaded.bibliography.records
    works = [(entry, records[key]) for key, entry in loaded.entries.items()]
    works.sort(key=lambda work: (-work[1].year, work[0].key))
    meta = {"root": "" if shipped else as_text(root), "fingerprint": "" if shipped else mark}
    meta["complete_lists"] = str(len(loaded.lists.complete))
    told: dict[str, list[Told]] = {}
    for key, _, each in provenance(loaded.bibliography):
        told.setdefault(key, []).append(each)
    write(path, Content(loaded.taxonomy, works, loaded.citations.edges, told, meta))
    return Report(path, len(works), time.perf_counter() - start, problems)


def write(path: Path, content: Content) -> None:
    """Write the database aside and put it in place in one step."""
    name = ""
    try:
        _demand_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        handle, name = mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        _fill(Path(name), content)
        seal(name, time.time_ns())
        os.chmod(name, 0o644)  # mkstemp gives it to its owner alone
        os.replace(name, path)
    except OSError as error:
        raise not_written(path, error, REMEDY) from error
    except DBAPIError as error:
        if not isinstance(error.orig, sqlite3.OperationalError) or error.orig.sqlite_errorcode & 0xFF not in UNWRITABLE:
            raise
        full = error.orig.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
        raise not_written(path, OSError(errno.ENOSPC if full else errno.EACCES, str(error.orig)), REMEDY) from error
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def _demand_replaceable(path: Path) -> None:
    """See that nothing of value lies there. Raises `NotWritten` for what is neither a catalogue nor empty."""
    if not path.exists() or (path.is_file() and str(path) == own_path()):
        return
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(HEADER)
        if not head or (head.startswith(b"SQLite format 3") and int.from_bytes(head[68:72], "big") == MARK):
            return
    raise NotWritten(f"{path} is something else than a catalogue of eelit and was left alone; name another place")


def _remove_leftovers(path: Path) -> None:
    """Remove what builds that were killed left behind."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp*"):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE:
            leftover.unlink(missing_ok=True)


def _fill(path: Path, content: Content) -> None:
    engine: Engine = create_engine(URL.create("sqlite", database=str(path)))  # as text, `?` or `%` would mean something
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = OFF")  # nobody sees the file before it is whole
            SQLModel.metadata.create_all(connection)
            connection.exec_driver_sql(FULL_TEXT)
            numbers = _write_terms(connection, content.taxonomy)
            keys, relations = _write_works(connection, content, numbers)
            _write_edges(connection, content.citations, relations, keys)
            connection.exec_driver_sql(TERM_PAIRS)
            meta = content.meta | {"works": str(len(keys))}
            _insert(connection, MetaRow, ({"name": name, "value": value} for name, value in meta.items()))
            connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT}")
            connection.exec_driver_sql(f"PRAGMA application_id = {MARK}")
        with engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
    finally:
        engine.dispose()


def _insert(connection: Connection, table: type[SQLModel], rows: Iterable[dict[str, Any]]) -> None:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            connection.execute(insert(table), batch)
            batch = []
    if batch:
        connection.execute(insert(table), batch)


def _write_terms(connection: Connection, taxonomy: Taxonomy) -> dict[tuple[str, str], list[int]]:
    """Write the terms; return for each the ids of itself and of all broader ones."""
    facets: dict[str, list[TaxonomyTerm]] = {facet: getattr(taxonomy, facet) for facet in FACETS} | {"role": ROLES}
    listed = [(facet, term) for facet, terms in facets.items() for term in terms]
    ids = {(facet, term.term): number for number, (facet, term) in enumerate(listed, start=1)}
    rows = (
        {"id": ids[facet, term.term], "facet": facet}
        | term.model_dump()
        | {"synonyms": json.dumps(term.synonyms, ensure_ascii=False)}
        for facet, term in listed
    )
    _insert(connection, TermRow, rows)
    by_name = {facet: {term.term: term for term in terms} for facet, terms in facets.items()}
    return {
        (facet, term.term): [ids[facet, name] for name in (term.term, *broader_terms(term.term, by_name[facet]))]
        for facet, term in listed
    }


def _write_works(
    connection: Connection, content: Content, numbers: dict[tuple[str, str], list[int]]
) -> tuple[dict[str, int], list[tuple[int, Entry]]]:
    """Write the works; return ids by key, and the entries that have relations."""
    keys: dict[str, int] = {}
    known = words.synonyms({facet: {term.term: term for term in getattr(content.taxonomy, facet)} for facet in FACETS})
    related: list[tuple[int, Entry]] = []
    rows: dict[type[SQLModel], list[dict[str, Any]]] = {}
    texts: list[tuple[Any, ...]] = []

    def flush() -> None:
        for table, batch in rows.items():
            _insert(connection, table, batch)
        if texts:
            connection.exec_driver_sql(
                "INSERT INTO work_text (rowid, names, title, authors, idea, rest) VALUES (?, ?, ?, ?, ?, ?)", texts
            )
        rows.clear()
        texts.clear()

    for number, (entry, record) in enumerate(content.works, start=1):
        keys[entry.key] = number
        if entry.relations:
            related.append((number, entry))
        for table, row in _rows_of_work(number, entry, record, numbers, content.told.get(entry.key, [])):
            rows.setdefault(table, []).append(row)
        texts.append((number, *map(fold, words.texts(entry, record, known))))
        if number % BATCH == 0:
            flush()
    flush()
    return keys, related


def _rows_of_work(
    number: int, entry: Entry, record: Record, numbers: dict[tuple[str, str], list[int]], told: list[Told]
) -> Iterator[tuple[type[SQLModel], dict[str, Any]]]:
    """Yield the rows of one work, table by table."""
    yield WorkRow, _work_row(number, entry, record)
    said = [each.to_dict() for each in told]
    plain = {"record": record.to_dict(), "told": said}
    documents = {name: json.dumps(data, ensure_ascii=False) for name, data in plain.items()}
    yield DocumentRow, {"work_id": number, "entry": entry.model_dump_json()} | documents
    names = {fold(name): name for name in [*entry.aliases, entry.short_name, entry.key]}
    for folded, name in names.items():
        yield NameRow, {"folded": folded, "work_id": number, "name": name, "is_key": name == entry.key}
    for position, person in enumerate(record.authors):
        yield AuthorRow, {"work_id": number, "position": position, "folded": fold(str(person))}
    carried = [(facet, term) for facet in FACETS for term in getattr(entry, facet)] + [("role", entry.role)]
    for term_id in sorted({above for name in carried for above in numbers[name]}):
        yield WorkTermRow, {"term_id": term_id, "work_id": number}


def _work_row(number: int, entry: Entry, record: Record) -> dict[str, Any]:
    return {
        "id": number,
        "key": entry.key,
        "short_name": entry.short_name,
        "year": record.year,
        "authors": record.short_authors(),
        "title": record.title,
        "venue": record.venue,
        "role": entry.role,
        "kind": entry.kind,
        **{facet: " ".join(getattr(entry, facet)) for facet in FACETS},
        "implemented": entry.implementation is not None,
        "fidelity": entry.implementation.fidelity if entry.implementation else "",
        "idea": entry.idea,
        "folded_venue": fold(record.venue),
        "sort_author": fold(record.authors[0].family),
        "sort_title": fold(record.title),
    }


def _write_edges(
    connection: Connection, citations: list[Citation], related: list[tuple[int, Entry]], keys: dict[str, int]
) -> None:
    """Write citations and relations; edges to a work that is unknown are left to `eelit check`."""
    _insert(
        connection,
        CitationRow,
        (
            {"citing_id": keys[edge.citing], "cited_id": keys[edge.cited], "kind": edge.kind, "evidence": edge.evidence}
            for edge in citations
            if edge.citing in keys and edge.cited in keys
        ),
    )
    _insert(connection, RelationRow, (row for number, entry in related for row in _relation_rows(number, entry, keys)))


def _relation_rows(number: int, entry: Entry, keys: dict[str, int]) -> Iterator[dict[str, Any]]:
    for relation in entry.relations:
        row: dict[str, Any] = {"target_id": None, "title": "", "year": None, "identifier": None}
        if isinstance(relation.target, ExternalTarget):
            external = relation.target.external
            row |= {"title": external.title, "year": external.year, "identifier": external.id}
        elif relation.target in keys:
            row |= {"target_id": keys[relation.target]}
        else:
            continue
        yield {"source_id": number} | row | relation.model_dump(include={"type", "evidence", "url", "note"})


def main() -> int:
    """Build the database named on the command line: `python -m eelit.catalog.database PATH [--shipped]`."""
    from eelit.catalog.sources import sources

    try:
        report = build(Path(sys.argv[1]), sources(), shipped="--shipped" in sys.argv)
    except CatalogueFault as fault:
        print(f"eelit: {fault}", file=sys.stderr)
        return fault.code
    except KeyboardInterrupt:
        return INTERRUPTED  # whoever started this was interrupted too, and says so
    except Exception as error:
        said = " ".join(str(error).split()) or "no further message"
        print(f"eelit: the catalogue was not built: {type(error).__name__}: {said}", file=sys.stderr)
        return RUN_FAILED
    print(f"eelit: built the catalogue of {report.works} works in {report.seconds:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
