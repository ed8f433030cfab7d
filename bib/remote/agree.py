"""One record of what several services say, each field with who said it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from eelit.bib.alike import folded, is_other
from eelit.bib.provenance import differ_line, from_line
from eelit.bib.record import Person
from eelit.bib.remote.said import FIELDS, Said, differing
from eelit.bib.remote.services import ARXIV, CROSSREF, DBLP, OPENALEX, SEMANTIC_SCHOLAR
from eelit.bib.write import tex, tex_names, tex_title, to_block

TRUSTED = (CROSSREF.label, DBLP.label, ARXIV.label, OPENALEX.label, SEMANTIC_SCHOLAR.label)
"""Who is believed first: the publisher's deposit, a bibliography kept by hand, the author, then what is gathered."""
PUBLISHED_ONLY = ("year", "venue", "volume", "number", "pages", "publisher", "type")
"""Fields in which a preprint has no say if there is a published version."""
SMALL = {"a", "an", "the", "on", "of", "for", "in", "to", "and", "with", "by", "via", "from", "towards", "toward"}
SMALL |= {"is", "are", "at", "be", "how", "what", "why", "do", "does", "can", "learning", "efficient", "using"}


@dataclass(frozen=True)
class Proposal:
    """A record as it may be written: plain values, who said each, and where services differ."""

    key: str
    type: str
    title: str
    authors: tuple[Person, ...]
    values: Mapping[str, str]
    by: Mapping[str, list[str]]
    differing: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # who does not say what was chosen
    addresses: Mapping[str, str] = field(default_factory=dict)
    by_way: str = ""  # of a mirror

    def said(self) -> Said:
        """Return the work as one service would tell it."""
        year = self.values.get("year", "")
        doi, arxiv = self.values.get("doi", ""), self.values.get("arxiv", "")
        return Said("", "", self.title, self.authors, int(year) if year else None, doi=doi, arxiv=arxiv)

    def fields(self) -> dict[str, str]:
        """Return the fields of the BibTeX record, in TeX."""
        values = self.values
        venue = "journal" if self.type == "article" else "booktitle"
        venue = {"misc": "howpublished", "phdthesis": "school", "techreport": "institution"}.get(self.type, venue)
        plain = {name: tex(values.get(name, "")) for name in ("volume", "number", "publisher", "year")}
        return {
            **plain,
            "author": tex_names(self.authors),
            "title": tex_title(self.title),
            venue: tex(values.get("venue", "")),
            "pages": tex(values.get("pages", "")).replace("–", "--"),
            "doi": values.get("doi", ""),
            "eprint": values.get("arxiv", ""),
            "archiveprefix": "arXiv" if values.get("arxiv") else "",
        }

    def comments(self, day: str) -> list[str]:
        """Return who told what, and what some tell otherwise, each on one line: comments above the record."""
        others = [differ_line(day, self.by_way, name, said.items()) for name, said in self.others.items()]
        return [from_line(day, self.by_way, self.by), *others]

    def block(self, day: str) -> str:
        """Return the record as BibTeX under comments that say where each field comes from, and who differs."""
        return to_block(self.type, self.key, self.fields(), self.comments(day))


def propose(saids: Sequence[Said], taken: Collection[str], key: str = "", by_way: str = "") -> Proposal:
    """Return the record that services agree on, or that the most trusted of them tells."""
    ranked = sorted(saids, key=lambda said: TRUSTED.index(said.service))
    title, people, values, by = ranked[0].title, ranked[0].authors, {}, {}
    for name in ("title", "authors", "year", "venue", "volume", "number", "pages", "publisher", "doi", "arxiv", "type"):
        said = _chosen(ranked, name)
        if said is None:
            continue
        values[name] = said.text(name)
        by[name] = [other.service for other in ranked if folded(other.text(name)) == folded(said.text(name))]
        title = said.title if name == "title" else title
        people = said.authors if name == "authors" else people
    kind = values.pop("type", "misc")
    by.pop("type", None)
    name = key or free_key(people, values.get("year", ""), title, taken)
    addresses = {said.service: said.address for said in ranked}
    others = _others(ranked, values | {"type": kind})
    return Proposal(name, kind, title, people, values, by, differing(ranked), others, addresses, by_way)


def _others(ranked: Sequence[Said], values: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return what services say otherwise than was chosen: field → service → value.

    A preprint that has no say in a field tells that of another version, which is no difference.
    """
    asked = {name: _with_a_say(ranked, name) for name in FIELDS if values.get(name)}
    found = {
        name: {said.service: said.text(name) for said in saids if is_other(name, said.text(name), values[name])}
        for name, saids in asked.items()
    }
    return {name: others for name, others in found.items() if others}


def _chosen(ranked: Sequence[Said], name: str) -> Said | None:
    """Return who is believed of a field."""
    telling = [said for said in _with_a_say(ranked, name) if said.text(name)]
    if name == "title":  # some deposit titles in capitals
        telling = [said for said in telling if not said.title.isupper()] or telling
    if name == "type":
        telling = [said for said in telling if said.type != "misc"] or telling
    return telling[0] if telling else None


def _with_a_say(ranked: Sequence[Said], name: str) -> Sequence[Said]:
    published = [said for said in ranked if not said.preprint]
    return published if name in PUBLISHED_ONLY and published else ranked


def free_key(people: Sequence[Person], year: str, title: str, taken: Collection[str]) -> str:
    """Return a key that nobody has: surname, year, and a word of the title; empty if none can be made."""
    surname = _letters(people[0].family.split()[-1]) if people and people[0].family else ""
    surname = re.sub(r"\d", "", surname)
    words = [_letters(word) for word in re.findall(r"[\w\-+]+", title)]
    named = re.match(r"([\w.+\-]+)\s*:", title)
    telling = ([_letters(named[1])] if named else []) + [word for word in words if word not in SMALL and len(word) > 2]
    if not surname or not re.fullmatch(r"(19|20)\d\d", year) or not telling:
        return ""
    names = [f"{surname}{year}{word}" for word in telling if word]
    return next((name for name in names if name not in taken), "") or _numbered(names[0], taken)


def _numbered(name: str, taken: Collection[str]) -> str:
    number = 2
    while f"{name}{number}" in taken:
        number += 1
    return f"{name}{number}"


def _letters(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss").replace("ø", "o").replace("ł", "l")).casefold()
    return re.sub(r"[^a-z0-9]", "", plain)
