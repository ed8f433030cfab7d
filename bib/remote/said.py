"""What one service says of one work, in the words of the bibliography; and whether two speak of the same work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import unescape

from eelit.bib.alike import folded, mark
from eelit.bib.identifiers import ARXIV
from eelit.bib.names import read_names
from eelit.bib.record import Person, Record

YEARS_APART = 2
"""Years between a preprint and its version of record that leave no doubt."""
FIELDS = ("type", "title", "authors", "year", "venue", "volume", "number", "pages", "publisher", "doi", "arxiv")
"""What services are asked for, in the order in which it is shown."""
ARXIV_DOI = "10.48550/arxiv."
INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TAGS = (
    r"(?:jats|mml):[\w-]+|i|b|u|em|strong|italic|bold|underline|sub|sup|inf|sc|scp|tt|br|p|span|font|title|"
    r"inline-formula|tex-math|alternatives|math|m(?:i|n|o|s|row|sup|sub|subsup|text|frac|sqrt|over|under|style|space)|"
    r"semantics|annotation"
)
MARKUP = re.compile(rf"</?(?:{TAGS})(?:\s[^<>]*)?/?>", re.IGNORECASE)
"""What services mark up titles with. Other things between `<` and `>`, such as `</think>`, belong to the title."""


@dataclass(frozen=True)
class Said:
    """What a service says of a work; what it does not say is empty."""

    service: str
    address: str
    title: str
    authors: tuple[Person, ...] = ()
    year: int | None = None
    type: str = ""
    venue: str = ""
    volume: str = ""
    number: str = ""
    pages: str = ""
    publisher: str = ""
    doi: str = ""
    arxiv: str = ""
    id: str = ""  # of the service
    preprint: bool = False  # it speaks of the preprint, of which venue, pages and year may differ

    def text(self, field: str) -> str:
        """Return a field as it is shown."""
        value = getattr(self, field)
        return "; ".join(map(str, value)) if field == "authors" else str(value or "")


def plain(text: str | None) -> str:
    """Return a text of a service on one line, without markup and HTML's names of letters."""
    seen = INVISIBLE.sub(" ", MARKUP.sub("", unescape(unescape(text or ""))))
    return " ".join(seen.split()).replace("‐", "-")


def person(name: str) -> Person:
    """Return an author whose name is one text: `Ada van Example`; DBLP's number of a namesake is dropped."""
    name = re.sub(r"\s\d{4}$", "", plain(name))
    people = read_names(re.sub(r"[{}\\%&#$~^_]", "", name)).people
    return people[0] if len(people) == 1 else Person(name, corporate=True)


def bare_doi(text: str | None) -> str:
    """Return a DOI in small letters, without an address; empty if it is none."""
    found = re.sub(r"^(?:https?://(?:dx\.)?doi\.org/|doi:\s*)", "", (text or "").strip(), flags=re.IGNORECASE)
    return found.lower() if re.fullmatch(r"10\.\d{4,9}/\S+", found) else ""


def bare_arxiv(text: str | None) -> str:
    """Return an arXiv id without its version, wherever it stands alone or in an address; empty if there is none."""
    shape = rf"^(?:https?://(?:www\.|export\.)?arxiv\.org/(?:abs|pdf|html|src|e-print)/|(?:https?://(?:dx\.)?doi\.org/|doi:)?{re.escape(ARXIV_DOI)}|arxiv:\s*)?({ARXIV.pattern})(?:v[1-9]\d*)?(?:\.pdf)?/?$"
    found = re.match(shape, (text or "").strip(), flags=re.IGNORECASE)
    return found[1] if found else ""


def same(title: str, people: Iterable[Person], year: int | None, said: Said) -> bool:
    """Tell whether a service speaks of this work: the same title and first author, in nearly the same year.

    What is not known on one side is no difference, but the title has to be.
    """
    if folded(title) != folded(said.title) or not folded(title):
        return False
    first, other = next(iter(people), None), next(iter(said.authors), None)
    if first and other and folded(first.family) != folded(other.family) and not _holds(first, other):
        return False
    return year is None or said.year is None or abs(year - said.year) <= YEARS_APART


def _holds(one: Person, other: Person) -> bool:
    """Tell whether one's family is among the words of the other: services cut names in different places."""
    words = [{folded(word) for word in str(each).split()} for each in (one, other)]
    return folded(one.family) in words[1] or folded(other.family) in words[0]


def is_same(record: Record, said: Said) -> bool:
    """Tell whether a service speaks of the work of a record."""
    return same(record.title, record.authors, record.year, said)


def differing(saids: Sequence[Said]) -> Mapping[str, Mapping[str, str]]:
    """Return the fields in which services differ: field → service → what it says. Case and marks are no difference."""
    found: dict[str, dict[str, str]] = {}
    for field in FIELDS:
        values = {said.service: said.text(field) for said in saids if said.text(field)}
        if field == "type":  # of a preprint there is no more to say
            values = {service: value for service, value in values.items() if value != "misc"}
        if len({mark(field, value) for value in values.values()}) > 1:
            found[field] = values
    return found


def grouped(told: Iterable[tuple[str, str]]) -> str:
    """Return what services say, each answer once with all who give it; case and marks are no difference."""
    found: dict[str, tuple[str, list[str]]] = {}
    for says, who in told:
        names = found.setdefault(folded(says), (says, []))[1]
        names += [who] if who not in names else []
    return "; ".join(f"{says} at {', '.join(who)}" for says, who in found.values())
