"""Read the BibTeX file into records, and report every fault in it with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eelit.bib.blocks import TYPES, Block, blocks
from eelit.bib.files import read_file
from eelit.bib.identifiers import EN_DASH, arxiv_id, normal_pages
from eelit.bib.names import Names, read_names
from eelit.bib.problems import Problem, Severity, did_you_mean
from eelit.bib.record import Record
from eelit.bib.tex import read_tex, read_verbatim

VENUE_FIELDS = ("journal", "booktitle", "howpublished", "school", "institution")
VERBATIM_FIELDS = ("acl", "doi", "eprint", "openreview", "url")  # `_` and `%` mean themselves
OTHER_FIELDS = (
    *("address", "archiveprefix", "articleno", "author", "edition", "editor", "isbn", "issn", "month", "note"),
    *("numpages", "number", "pages", "primaryclass", "publisher", "series", "title", "volume", "year"),
)
FIELDS = VENUE_FIELDS + VERBATIM_FIELDS + OTHER_FIELDS
REQUIRED = ("author", "title", "year")
WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
UNDECODED = re.compile("[\udc80-\udcff]")  # what Python makes of bytes that are not UTF-8

Fault = tuple[str, str, Severity]
"""Name of the field, or nothing if the whole record is meant; what is wrong; and how much that matters."""


@dataclass
class Bibliography:
    """All records by key, the line of each field, and what was wrong with the file."""

    path: Path
    records: dict[str, Record] = field(default_factory=dict)
    lines: dict[tuple[str, str], int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def line(self, key: str, name: str = "") -> int:
        """Return the line of a field, or of the record if it has no such field."""
        return self.lines.get((key, name)) or self.lines.get((key, "")) or 1


def read_bibliography(path: Path) -> Bibliography:
    """Read a BibTeX file; a record with a fault is left out and reported, the others are kept."""
    bibliography = Bibliography(path)
    text = _read_text(bibliography)
    for block in blocks(text):
        _add_block(bibliography, block)
    if text and not bibliography.records and not bibliography.problems:
        _report(bibliography, 1, "the file holds no record; restore it or fill it in")
    return bibliography


def _report(bibliography: Bibliography, line: int, message: str, severity: Severity = "error") -> None:
    message = message.encode("utf-8", errors="replace").decode("utf-8")  # bytes that are no text cannot be printed
    bibliography.problems.append(Problem(str(bibliography.path), line, message, severity))


def _read_text(bibliography: Bibliography) -> str:
    """Return the text of the file without a byte-order mark; bytes that are not UTF-8 are kept, to be told apart."""
    try:
        content = read_file(bibliography.path)
    except OSError as error:
        _report(bibliography, 1, f"the bibliography cannot be read: {error}")
        return ""
    if content[:2] in WIDE_MARKS or b"\0" in content[:2]:  # the mark may be left out
        _report(bibliography, 1, "the file is UTF-16; save it as UTF-8")
        return ""
    text = content.decode("utf-8-sig", errors="surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        _report(bibliography, 1, "the file is empty; restore it or fill it in")
    return text


def _add_block(bibliography: Bibliography, block: Block) -> None:
    key = block.key
    if block.fault:
        _report(bibliography, block.line, block.fault, block.severity)
        if block.severity == "error" and key:
            bibliography.broken.add(key)
            bibliography.lines.setdefault((key, ""), block.line)
        return
    if key in bibliography.records or key in bibliography.broken:
        first = bibliography.line(key)
        message = f"the key `{key}` is already used in line {first}; keep one record, or rename this one"
        _report(bibliography, block.line, message)
        return
    lines = {"": block.line} | dict(block.lines)
    bibliography.lines |= {(key, name): line for name, line in lines.items()}
    fields = dict(block.fields)
    names = read_names(fields["author"]) if fields.get("author") else Names()
    faults = list(_faults(block, fields, names))
    for name, message, severity in faults:
        _report(bibliography, lines.get(name, block.line), message, severity)
    if any(severity == "error" for _, _, severity in faults):
        bibliography.broken.add(key)
    else:
        bibliography.records[key] = to_record(block.kind, key, fields, names)


def _faults(block: Block, fields: Mapping[str, str], names: Names) -> Iterator[Fault]:
    """Yield what is wrong with a record that is sound BibTeX."""
    key, seen = block.key, [name for name, _ in block.lines]
    for name in dict.fromkeys(seen):
        if seen.count(name) > 1:
            yield name, f"`{key}` gives `{name}` twice; keep one", "error"
    if block.kind not in TYPES:
        yield "", f"`{key}` has an unknown type `@{block.kind}`{did_you_mean(block.kind, TYPES)}", "error"
    for name in REQUIRED:
        if not fields.get(name):
            yield "", f"`{key}` has no `{name}`; add it", "error"
    if fields.get("title") and not read_tex(fields["title"]).text:
        yield "title", f"the title of `{key}` is empty, or cannot be read as text; write it", "error"
    if fields.get("year") and not re.fullmatch(r"(19|20)\d\d", fields["year"]):
        yield "year", f"`{key}` has the year `{fields['year']}`; give four digits", "error"
    for name in fields:
        if name not in FIELDS:
            yield name, f"`{key}` has an unknown field `{name}`{did_you_mean(name, FIELDS)}", "error"
    for message, severity in names.faults:
        yield "author", f"the authors of `{key}`: {message}", severity
    if fields.get("editor"):
        for message, severity in read_names(fields["editor"]).faults:
            yield "editor", f"the editors of `{key}`: {message}", severity
    for name, value in fields.items():
        yield from _faults_of_value(key, name, value)


def _faults_of_value(key: str, name: str, value: str) -> Iterator[Fault]:
    if UNDECODED.search(value):
        yield name, f"`{name}` of `{key}` holds bytes that are not UTF-8; save the file as UTF-8", "error"
        return
    unread = (read_verbatim if name in VERBATIM_FIELDS else read_tex)(value).unread
    if unread:
        told = ", ".join(f"`{command}`" for command in unread)
        message = f"`{name}` of `{key}` holds {told}, which cannot be read as text; write what it stands for"
        yield name, message, "warning"
    if name == "pages":
        normal, told_so = normal_pages(read_tex(value).text)
        if not told_so or EN_DASH in value:
            written = normal.replace(EN_DASH, "--")
            yield name, f"the pages of `{key}` are written `{value}`; write `{written}`", "warning"


def to_record(kind: str, key: str, fields: Mapping[str, str], names: Names) -> Record:
    """Make the plain record of a BibTeX entry whose fields are still in TeX."""
    plain = {
        name: (read_verbatim if name in VERBATIM_FIELDS else read_tex)(value).text
        for name, value in fields.items()
        if name != "author"
    }
    return Record(
        key=key,
        type=kind,
        title=plain["title"],
        authors=names.people,
        et_al=names.others,
        year=int(plain["year"]),
        venue=next((plain[name] for name in VENUE_FIELDS if plain.get(name)), ""),
        volume=plain.get("volume", ""),
        number=plain.get("number", ""),
        pages=normal_pages(plain.get("pages", ""))[0],
        articleno=plain.get("articleno", ""),
        publisher=plain.get("publisher", ""),
        doi=plain.get("doi", ""),
        arxiv=arxiv_id(plain),
        acl=plain.get("acl", ""),
        openreview=plain.get("openreview", ""),
        url=plain.get("url", ""),
        tex=tuple(fields.items()),
    )
