"""Ask every service for one work, and keep apart what they say of another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from eelit.bib.record import Record
from eelit.bib.remote import arxiv, crossref, dblp, openalex, semanticscholar
from eelit.bib.remote.said import ARXIV_DOI, YEARS_APART, Said, bare_arxiv, bare_doi, folded, same
from eelit.bib.remote.services import ARXIV, CROSSREF, DBLP
from eelit.bib.remote.web import Unanswered, Web

DOI_WITHIN = re.compile(r"10\.\d{4,9}/[^\s?#]+")
ACL = "aclanthology.org"
ACL_DOI = "10.18653/v1/"


class Given(NamedTuple):
    """What a user gave to look for."""

    kind: Literal["doi", "arxiv", "title"]
    value: str


class NoWork(Exception):
    """What was given names no work; the message says what to give."""


@dataclass
class Gathered:
    """What services say of a work, what they answered that is another work, and which could not be asked."""

    saids: list[Said] = field(default_factory=list)
    others: list[Said] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


def given(text: str) -> Given:
    """Return what a text names: a DOI, an arXiv id, an address that holds one of them, or else a title."""
    text = " ".join(text.split())
    if found := bare_arxiv(text):
        return Given("arxiv", found)
    if found := bare_doi(text):
        return Given("doi", found)
    if re.match(r"https?://", text, re.IGNORECASE):
        return _in_address(text)
    if len(folded(text)) < 4:
        raise NoWork(f"`{text}` is too short for a title; give a DOI, an arXiv id, an address or the whole title")
    return Given("title", text)


def _in_address(text: str) -> Given:
    parts = urlsplit(text)
    path = unquote(parts.path)
    if (parts.hostname or "").endswith(ACL) and path.strip("/"):
        return Given("doi", f"{ACL_DOI}{path.strip('/').removesuffix('.pdf')}".lower())
    if found := DOI_WITHIN.search(path):
        return Given("doi", re.sub(r"/(?:full|pdf|abstract|epdf)$|\.pdf$", "", found[0].rstrip("/")).lower())
    raise NoWork(f"the address {text} holds neither a DOI nor an arXiv id; give one of them, or the title")


def duplicates(records: Iterable[Record], doi: str, arxiv_id: str, title: str) -> list[str]:
    """Return the keys of the works that have this DOI, arXiv id or title."""
    mark = folded(title)
    return [
        record.key
        for record in records
        if (doi and record.doi.lower() == doi.lower())
        or (arxiv_id and arxiv_id in (record.arxiv, record.doi.lower().removeprefix(ARXIV_DOI)))
        or (mark and folded(record.title) == mark)
    ]


def gather(web: Web, wanted: Given, *, person_has: str = "") -> Gathered:
    """Ask for a work by what was given, then by what the answers add to it.

    `person_has` is a title that is known: what speaks of another is set aside.
    """
    found = Gathered()
    if wanted.kind == "title":
        _by_title(web, wanted.value, found)
    elif wanted.kind == "doi":
        _by_doi(web, wanted.value, found)
    else:
        _by_arxiv(web, wanted.value, found)
    _follow(web, found)
    _set_apart(found, person_has or (wanted.value if wanted.kind == "title" else ""))
    return found


def _asked(found: Gathered, asks: Iterable[Callable[[], Said | list[Said] | None]]) -> Iterator[Said]:
    for ask in asks:
        try:
            answer = ask()
        except Unanswered as error:
            if str(error) not in found.troubles:
                found.troubles.append(str(error))
            continue
        yield from answer if isinstance(answer, list) else [answer] if answer else []


def _by_title(web: Web, title: str, found: Gathered) -> None:
    services = (crossref, arxiv, openalex, dblp, semanticscholar)
    asks = [lambda service=service: service.by_title(web, title) for service in services]
    for said in _asked(found, asks):
        fits = folded(said.title) == folded(title)
        (found.saids if fits and _new(said, found.saids) else found.others).append(said)
    found.others = [said for said in found.others if folded(said.title) != folded(title)]


def _by_doi(web: Web, doi: str, found: Gathered) -> None:
    if preprint := bare_arxiv(doi):
        _by_arxiv(web, preprint, found)
        return
    asks = [lambda service=service: service.by_doi(web, doi) for service in (crossref, openalex, dblp, semanticscholar)]
    found.saids += _asked(found, asks)


def _by_arxiv(web: Web, preprint: str, found: Gathered) -> None:
    asks = [lambda service=service: service.by_arxiv(web, preprint) for service in (arxiv, openalex, semanticscholar)]
    found.saids += _asked(found, asks)


def _follow(web: Web, found: Gathered) -> None:
    """Ask for the published version of a preprint, for the preprint of a published one, and DBLP for the venue."""
    doi = next((said.doi for said in found.saids if said.doi), "")
    preprint = next((said.arxiv for said in found.saids if said.arxiv), "")
    asks: list[Callable[[], Said | list[Said] | None]] = []
    if doi and not any(said.service == CROSSREF.label for said in found.saids):
        asks.append(lambda: crossref.by_doi(web, doi))
    if preprint and not any(said.service == ARXIV.label for said in found.saids):
        asks.append(lambda: arxiv.by_arxiv(web, preprint))
    title = found.saids[0].title if found.saids else ""
    if title and not any(said.service == DBLP.label for said in found.saids):
        asks.append(lambda: [said for said in dblp.by_title(web, title) if folded(said.title) == folded(title)][:1])
    found.saids += _asked(found, asks)


def _set_apart(found: Gathered, title: str) -> None:
    """Leave among what is said of the work only what agrees with the first (or with a title that is known)."""
    first = next((said for said in found.saids if not title or folded(said.title) == folded(title)), None)
    if first is None:
        found.others, found.saids = found.saids + found.others, []
        return
    agreeing = [said for said in found.saids if said is first or _agrees(first, said)]
    found.others = [said for said in found.saids if said not in agreeing] + found.others
    found.saids = agreeing


def _agrees(first: Said, said: Said) -> bool:
    """Tell whether both may be the same work: equal titles, or a retitled version by the same first author."""
    if same(first.title, first.authors, first.year, said):
        return True
    linked = (first.doi and first.doi == said.doi) or (first.arxiv and first.arxiv == said.arxiv)
    alike = first.authors and said.authors and folded(first.authors[0].family) == folded(said.authors[0].family)
    near = first.year is None or said.year is None or abs(first.year - said.year) <= YEARS_APART
    return bool(linked and alike and near)


def _new(said: Said, known: Iterable[Said]) -> bool:
    """One answer per service is enough, the first."""
    return said.service not in {other.service for other in known}
