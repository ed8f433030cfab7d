"""Where the fields of a record are from, and what services say otherwise: lines of comment above it, written and read.

`% 2026-12-03: title, year from Crossref, DBLP; pages from Crossref` names who told what stands in the record, and
`% 2026-12-03: pages differ: “12–20” at DBLP` what is told otherwise. A line of any other form is a person's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from eelit.bib.decided import comment_lines

if TYPE_CHECKING:
    from eelit.bib.read import Bibliography

HEAD = re.compile(r"(?P<day>\d{4}-\d\d-\d\d)(?:, by way of (?P<by_way>\S+))?: (?P<said>.+)")
FROM = re.compile(r"([\w, ]+) from ([\w, ]+)(?:; |$)")
DIFFER = re.compile(r"(?P<field>\w+) differs?: (?P<values>.+)")
VALUE = re.compile(r"“(.+?)” at ([\w, ]+)(?:; (?=“)|$)")
AT, AT_WRITTEN = "@", "\\u0040"
"""BibTeX knows no comments: a bare `@` in one would start a record."""


@dataclass(frozen=True)
class Told:
    """What services told of a field on one day: the value of the record, or another one."""

    field: str
    services: tuple[str, ...]
    day: str
    by_way: str = ""  # the address of a mirror
    other: str = ""  # empty: the value that stands in the record

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self) | {"services": list(self.services)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Told:
        """Return what `to_dict` wrote."""
        return cls(**(data | {"services": tuple(data["services"])}))


def from_line(day: str, by_way: str, by: Mapping[str, Sequence[str]]) -> str:
    """Return the comment that says who told which fields; ``by_way`` is as `Manners` has it."""
    fields: dict[str, list[str]] = {}
    for name, services in by.items():
        fields.setdefault(", ".join(services), []).append(name)
    return _head(day, by_way) + "; ".join(f"{', '.join(names)} from {who}" for who, names in fields.items())


def differ_line(day: str, by_way: str, name: str, others: Iterable[tuple[str, str]]) -> str:
    """Return the comment that says which services (each with its value) tell a field otherwise."""
    values: dict[str, list[str]] = {}
    for service, value in others:
        values.setdefault(" ".join(value.replace(AT, AT_WRITTEN).split()), []).append(service)
    verb = "differ" if name in ("pages", "authors") else "differs"
    told = "; ".join(f"“{value}” at {', '.join(who)}" for value, who in values.items())
    return f"{_head(day, by_way)}{name} {verb}: {told}"


def _head(day: str, by_way: str) -> str:
    return f"{day}{',' if by_way else ''}{by_way}: "


def told_by(comment: str) -> list[Told]:
    """Return what a line of comment says of fields; nothing if it is a person's."""
    head = HEAD.fullmatch(comment)
    if head is None:
        return []
    day, by_way, said = head["day"], head["by_way"] or "", head["said"]
    if (found := DIFFER.fullmatch(said)) and _is_all(VALUE, found["values"]):
        return [
            Told(found["field"], tuple(who.split(", ")), day, by_way, value.replace(AT_WRITTEN, AT))
            for value, who in VALUE.findall(found["values"])
        ]
    if not _is_all(FROM, said):
        return []
    return [
        Told(name, tuple(who.split(", ")), day, by_way)
        for names, who in FROM.findall(said)
        for name in names.split(", ")
    ]


def _is_all(pattern: re.Pattern[str], text: str) -> bool:
    """Tell whether matches that follow each other make up the whole text."""
    place = 0
    while place < len(text) and (found := pattern.match(text, place)):
        place = found.end()
    return place == len(text)


def provenance(bibliography: Bibliography) -> Iterator[tuple[str, int, Told]]:
    """Yield what services told of the fields of each record: its key, the line of the comment, and what it says."""
    for key, line, comment in comment_lines(bibliography):
        for told in told_by(comment):
            yield key, line, told


def comments_of_people(bibliography: Bibliography) -> dict[str, str]:
    """Return what people wrote above each record: key → all their lines of comment as one text."""
    found: dict[str, list[str]] = {key: [] for key in bibliography.records}
    for key, _, said in comment_lines(bibliography):
        found[key] += [] if told_by(said) else [said]
    return {key: " ".join(lines) for key, lines in found.items()}
