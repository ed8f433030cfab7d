"""OpenAlex: an identifier for nearly every work, the works that it refers to, and those that cite it.

An empty list of references is no list. A work has one DOI, the published one; its preprint may be a work of its own.
Works are looked up one by one: that is free, while lists of works (`filter=doi:…|…`) are paid for from a small daily
budget, which is kept for what only lists can tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from pydantic import BaseModel, Field

from eelit.bib.remote.said import ARXIV_DOI, Said, bare_arxiv, bare_doi, person, plain
from eelit.bib.remote.services import OPENALEX
from eelit.bib.remote.web import Answered, Web

TYPES = {"article": "article", "book": "book", "book-chapter": "incollection", "dissertation": "phdthesis"}
PER_PAGE = 100
SHOWN = "id,doi,title,publication_year,authorships,referenced_works"


class _Name(BaseModel):
    display_name: str | None = None
    type: str | None = None


class _Authorship(BaseModel):
    author: _Name


class _Location(BaseModel):
    landing_page_url: str | None = None
    source: _Name | None = None


class _Biblio(BaseModel):
    volume: str | None = None
    issue: str | None = None
    first_page: str | None = None
    last_page: str | None = None


class Work(Answered):
    """A work as OpenAlex tells it."""

    id: str
    title: str | None
    doi: str | None = None
    publication_year: int | None = None
    type: str | None = None
    authorships: list[_Authorship] = Field(default=[])
    primary_location: _Location | None = None
    locations: list[_Location] = Field(default=[])
    biblio: _Biblio = _Biblio()
    referenced_works: list[str]
    is_retracted: bool = False

    @property
    def number(self) -> str:
        """The bare identifier: `W2102931473`."""
        return self.id.rsplit("/", 1)[-1].upper()

    @property
    def references(self) -> list[str]:
        """The bare identifiers of what it refers to."""
        return [address.rsplit("/", 1)[-1].upper() for address in self.referenced_works]


class _Meta(BaseModel):
    count: int | None = None
    next_cursor: str | None = None


class Page(Answered):
    """Some of the works that were asked for; `meta.count` tells how many there are."""

    meta: _Meta
    results: list[Work]


def by_doi(web: Web, doi: str) -> Said | None:
    """Return what OpenAlex says of a DOI, also of that which arXiv registers."""
    found = work(web, doi)
    return said(web, found) if found else None


def by_arxiv(web: Web, arxiv: str) -> Said | None:
    """Return what OpenAlex says of a preprint."""
    return by_doi(web, f"{ARXIV_DOI}{arxiv}")


def by_number(web: Web, number: str) -> Said | None:
    """Return what OpenAlex says of a work that it calls so: `W2102931473`."""
    found = web.get(OPENALEX, f"/works/{number}", {}, Work)
    return said(web, found) if found else None


def work(web: Web, doi: str) -> Work | None:
    """Return the work that has this DOI, with its references."""
    return web.get(OPENALEX, f"/works/doi:{quote(doi.lower(), safe='/')}", {}, Work)


def by_title(web: Web, title: str) -> list[Said]:
    """Return the works whose titles hold these words."""
    words = " ".join(re.findall(r"\w+", title))
    page = web.get(OPENALEX, "/works", {"filter": f"title.search:{words}", "per_page": "3"}, Page)
    return [said(web, found) for found in page.results if found.title] if page else []


def works_by_title(web: Web, title: str) -> list[Work]:
    """Return the works whose titles hold these words, with their references."""
    words = " ".join(re.findall(r"\w+", title))
    page = web.get(OPENALEX, "/works", {"filter": f"title.search:{words}", "per_page": "3"}, Page)
    for found in page.results if page else ():
        found.said_on = page.said_on if page else ""
    return page.results if page else []


def citing(web: Web, numbers: Sequence[str], pages: int) -> Iterator[Page]:
    """Yield at most so many pages of works that cite one of these; cursors are for those who have a key."""
    params = {"filter": f"cites:{'|'.join(numbers)}", "per_page": str(PER_PAGE), "select": SHOWN}
    keyed = OPENALEX.name in web.manners.keys
    cursor: str | None = "*"
    for number in range(1, pages + 1):
        place = {"cursor": cursor} if keyed and cursor else {"page": str(number)}
        page = web.get(OPENALEX, "/works", params | place, Page)
        if page is None:
            return
        yield page
        cursor = page.meta.next_cursor
        if not page.results or (not cursor if keyed else len(page.results) < PER_PAGE):
            return  # a page of those that have a cursor may be short, though more follow


def address(web: Web, found: Work) -> str:
    """Return where a work is described."""
    return web.address(OPENALEX, f"/works/{found.number}")


def said(web: Web, found: Work) -> Said:
    """Return a work in the words of the bibliography."""
    place = found.primary_location or _Location()
    ids = [bare_arxiv(location.landing_page_url) for location in [place, *found.locations]]
    doi = bare_doi(found.doi)
    if doi.startswith(ARXIV_DOI):
        ids, doi = [doi.removeprefix(ARXIV_DOI), *ids], ""
    venue = plain(place.source.display_name) if place.source else ""
    is_preprint = "arxiv" in venue.casefold() or not (doi or venue)
    first, last = plain(found.biblio.first_page), plain(found.biblio.last_page)
    kind = (
        "inproceedings" if place.source and place.source.type == "conference" else TYPES.get(found.type or "", "misc")
    )
    return Said(
        OPENALEX.label,
        address(web, found),
        plain(found.title),
        tuple(person(name.author.display_name) for name in found.authorships if name.author.display_name),
        found.publication_year,
        "misc" if is_preprint else kind,
        "" if is_preprint else venue,
        plain(found.biblio.volume),
        plain(found.biblio.issue),
        first if first == last or not last else f"{first}–{last}",
        "",
        doi,
        next((name for name in ids if name), ""),
        found.number,
        is_preprint,
    )
