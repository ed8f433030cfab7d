"""Read the BibTeX file into records, and report every fault in it with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pybtex.bibtex.utils import split_name_list
from pybtex.database import Person as TexPerson
from pybtex.database.input.bibtex import LowLevelParser
from pybtex.richtext import Text
from pybtex.scanner import PrematureEOF, PybtexSyntaxError

from eelit.bib.problems import Problem, did_you_mean
from eelit.bib.record import Person, Record

TYPES = ("article", "book", "incollection", "inproceedings", "mastersthesis", "misc", "phdthesis", "techreport")
VENUE_FIELDS = ("journal", "booktitle", "howpublished", "school", "institution")
OTHER_FIELDS = (
    *(
        "address",
        "archiveprefix",
        "articleno",
        "author",
        "doi",
        "edition",
        "editor",
        "eprint",
        "isbn",
        "issn",
        "month",
        "note",
        "numpages",
    ),
    *("acl", "number", "openreview", "pages", "primaryclass", "publisher", "series", "title", "url", "volume", "year"),
)
FIELDS = VENUE_FIELDS + OTHER_FIELDS
REQUIRED = ("author", "title", "year")
LOST_AT = re.compile(rf"[ \t]*({'|'.join(TYPES)})[ \t]*[{{(]\s*([^\s,}}]+)\s*,", re.IGNORECASE)
START = re.compile(rf"^(?:@|{LOST_AT.pattern})", re.MULTILINE | re.IGNORECASE)
TEX = re.compile(r"[\\{}~$%`]|--|''")
KEY = re.compile(r"@\s*(\w+)\s*[{(]\s*([^\s,}]+)\s*")
NO_RECORDS = ("comment", "preamble", "string")


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


class _Scanner(LowLevelParser):  # type: ignore[misc]  # pybtex has no types
    """pybtex's own scanner, which also remembers the line on which each field starts."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.field_lines: list[tuple[str, int]] = []

    def parse_field(self) -> None:
        """Parse one field and note where its name stood."""
        self.eat_whitespace()
        line = self.lineno
        super().parse_field()
        if self.current_field_name:
            self.field_lines.append((self.current_field_name.lower(), line))


def read_bibliography(path: Path) -> Bibliography:
    """Read a BibTeX file; a record with a fault is left out and reported, the others are kept."""
    bibliography = Bibliography(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        bibliography.problems.append(Problem(str(path), 1, f"the bibliography cannot be read: {error}"))
        return bibliography
    for line, chunk in _chunks(text):
        _read_chunk(bibliography, line, chunk)
    return bibliography


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """Cut the file at each line that starts a record, so that an unclosed one does not swallow the next.

    A record that lost its `@` starts one too: BibTeX takes it for a comment, and nobody would miss it.
    """
    starts = [match.start() for match in START.finditer(text)]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        yield text.count("\n", 0, start) + 1, text[start:end]


def _read_chunk(bibliography: Bibliography, line: int, chunk: str) -> None:
    found = KEY.match(chunk)
    key = found[2] if found else ""
    if cause := _spoilt_start(chunk, found):
        key, offset, message = cause
        bibliography.broken.add(key)
        bibliography.problems.append(Problem(str(bibliography.path), line + offset, message))
        return
    scanner = _Scanner(chunk)
    try:
        parsed = list(scanner)
    except PybtexSyntaxError as error:
        bibliography.broken.add(key)
        bibliography.problems.append(_syntax_problem(bibliography.path, line, key, error))
        return
    for command, body in parsed:
        if command.lower() in NO_RECORDS:
            continue
        fields = {name.lower(): " ".join("".join(parts).split()) for name, parts in body[1]}
        lines = {"": line} | {name: line + offset - 1 for name, offset in scanner.field_lines}
        twice = [name for name in fields if [seen for seen, _ in scanner.field_lines].count(name) > 1]
        _add_record(bibliography, command.lower(), body[0], fields, lines, twice)


def _spoilt_start(chunk: str, found: re.Match[str] | None) -> tuple[str, int, str] | None:
    """Return key, line within the chunk and fault of a start that the parser would pass over in silence."""
    if lost := LOST_AT.match(chunk):
        kind, key = lost[1], lost[2]
        return key, 0, f"the record `{key}` has lost its `@`; write `@{kind}{{{key},`"
    if found and found[1].lower() not in NO_RECORDS and chunk[found.end() : found.end() + 1] not in (",", "}", ")"):
        key = found[2]
        return key, chunk.count("\n", 0, found.end(2)), f"a comma is missing after the key `{key}`; add it"
    return None


def _syntax_problem(path: Path, line: int, key: str, error: PybtexSyntaxError) -> Problem:
    if isinstance(error, PrematureEOF):
        return Problem(str(path), line, f"the record `{key}` is never closed; a brace, quote or comma is missing")
    what = str(error).split(": ", 1)[-1]
    return Problem(
        str(path), line + error.lineno - 1, f"the record `{key}` is not valid BibTeX ({what}); mend this line"
    )


def _add_record(
    bibliography: Bibliography, kind: str, key: str, fields: dict[str, str], lines: dict[str, int], twice: list[str]
) -> None:
    path = str(bibliography.path)
    if key in bibliography.records or key in bibliography.broken:
        first = bibliography.line(key)
        message = f"the key `{key}` is already used in line {first}; keep one record, or rename this one"
        bibliography.problems.append(Problem(path, lines[""], message))
        return
    bibliography.lines |= {(key, name): line for name, line in lines.items()}
    faults = [(lines[name], f"`{key}` gives `{name}` twice; keep one") for name in twice]
    faults += [(lines[""], message) for message in _faults_of_record(kind, key, fields)]
    faults += [
        (lines[name], f"`{key}` has an unknown field `{name}`{did_you_mean(name, FIELDS)}")
        for name in fields
        if name not in FIELDS
    ]
    bibliography.problems += [Problem(path, line, message) for line, message in faults]
    if faults:
        bibliography.broken.add(key)
    else:
        bibliography.records[key] = to_record(kind, key, fields)


def _faults_of_record(kind: str, key: str, fields: dict[str, str]) -> Iterator[str]:
    if kind not in TYPES:
        yield f"`{key}` has an unknown type `@{kind}`{did_you_mean(kind, TYPES)}"
    for name in REQUIRED:
        if not fields.get(name):
            yield f"`{key}` has no `{name}`; add it"
    if fields.get("year") and not re.fullmatch(r"(19|20)\d\d", fields["year"]):
        yield f"`{key}` has the year `{fields['year']}`; give four digits"


def to_record(kind: str, key: str, fields: dict[str, str]) -> Record:
    """Make the plain record of a BibTeX entry whose fields are still in TeX."""
    plain = {name: plain_text(value) for name, value in fields.items() if name != "author"}
    is_arxiv = plain.get("archiveprefix", "").lower() == "arxiv"
    return Record(
        key=key,
        type=kind,
        title=plain["title"],
        authors=tuple(_person(name) for name in split_name_list(fields["author"])),
        year=int(plain["year"]),
        venue=next((plain[name] for name in VENUE_FIELDS if plain.get(name)), ""),
        volume=plain.get("volume", ""),
        number=plain.get("number", ""),
        pages=plain.get("pages", ""),
        articleno=plain.get("articleno", ""),
        publisher=plain.get("publisher", ""),
        doi=fields.get("doi", "").replace("\\_", "_"),
        arxiv=fields.get("eprint", "") if is_arxiv else "",
        acl=fields.get("acl", ""),
        openreview=fields.get("openreview", "").replace("\\_", "_"),
        url=fields.get("url", "").replace("\\_", "_"),
        tex=tuple(fields.items()),
    )


def plain_text(tex: str) -> str:
    """Return TeX as plain Unicode: accents resolved, braces gone, `--` as an en dash."""
    if not TEX.search(tex):
        return tex  # most values; decoding takes a hundred times longer
    return str(Text.from_latex(tex)).replace("\xa0", " ")


def _person(name: str) -> Person:
    person = TexPerson(name)
    given = person.first_names + person.middle_names
    family = person.prelast_names + person.last_names
    return Person(*(plain_text(" ".join(part)) for part in (family, given, person.lineage_names)))
