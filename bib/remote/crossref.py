"""Crossref: what publishers have deposited, with the list of references if they gave one."""

from __future__ import annotations

from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eelit.bib.identifiers import normal_pages
from eelit.bib.record import Person
from eelit.bib.remote.said import ARXIV_DOI, Said, bare_doi, plain
from eelit.bib.remote.services import CROSSREF
from eelit.bib.remote.web import Answered, Web

TYPES = {
    "journal-article": "article",
    "proceedings-article": "inproceedings",
    "book-chapter": "incollection",
    "book": "book",
    "monograph": "book",
    "dissertation": "phdthesis",
    "report": "techreport",
}


class _Part(BaseModel):
    model_config = ConfigDict(populate_by_name=True)


class _Author(_Part):
    given: str = ""
    family: str = ""
    name: str = ""
    suffix: str = ""


class _Date(_Part):
    parts: list[list[int | None]] = Field(default=[], alias="date-parts")


class Reference(_Part):
    """One line of a list of references, as far as it was deposited."""

    doi: str = Field(default="", alias="DOI")
    article: str = Field(default="", alias="article-title")
    volume: str = Field(default="", alias="volume-title")
    unstructured: str = ""
    author: str = ""
    year: str = ""

    @property
    def title(self) -> str:
        """What the work is called, if the line tells."""
        return plain(self.article or self.volume)


class Work(_Part, Answered):
    """A work as Crossref tells it."""

    doi: str = Field(alias="DOI")
    type: str = ""
    title: list[str] = []
    subtitle: list[str] = []
    container: list[str] = Field(default=[], alias="container-title")
    author: list[_Author] = []
    issued: _Date = _Date()
    volume: str = ""
    issue: str = ""
    page: str = ""
    publisher: str = ""
    count: int | None = Field(default=None, alias="reference-count")
    reference: list[Reference] | None = None

    @model_validator(mode="after")
    def _holds_what_it_counts(self) -> Work:
        if self.count and not self.reference:
            raise ValueError(f"{self.count} references are counted and none is given")
        return self


class _One(Answered):
    message: Work


class _Items(BaseModel):
    items: list[Work]


class _Many(Answered):
    message: _Items


def by_doi(web: Web, doi: str) -> Said | None:
    """Return what Crossref says of a DOI, were it of another one. Those of arXiv are registered elsewhere."""
    found = work(web, doi)
    return said(web, found) if found else None


def work(web: Web, doi: str) -> Work | None:
    """Return the work of a DOI with its references, or None if Crossref does not know it.

    It may have another DOI: the work may have been registered twice, or the answer be wrong. See that it is the same.
    """
    if doi.lower().startswith(ARXIV_DOI):
        return None
    found = web.get(CROSSREF, _path(doi), {}, _One)
    if not found:
        return None
    found.message.said_on = found.said_on
    return found.message


def by_title(web: Web, title: str) -> list[Said]:
    """Return the works that come nearest to a title; the first is always something."""
    found = web.get(CROSSREF, "/works", {"query.bibliographic": title, "rows": "3"}, _Many)
    return [said(web, item) for item in found.message.items if item.title] if found else []


def address(web: Web, doi: str) -> str:
    """Return where a DOI is described."""
    return web.address(CROSSREF, _path(doi))


def said(web: Web, found: Work) -> Said:
    """Return a work in the words of the bibliography."""
    title = ": ".join(plain(part) for part in [*found.title[:1], *found.subtitle[:1]] if plain(part))
    if found.title and found.subtitle and plain(found.subtitle[0]) in plain(found.title[0]):
        title = plain(found.title[0])
    date = found.issued.parts[0] if found.issued.parts else []
    return Said(
        CROSSREF.label,
        address(web, found.doi),
        title,
        tuple(_person(author) for author in found.author if author.family or author.name),
        date[0] if date else None,
        TYPES.get(found.type, "misc"),
        plain(found.container[0]) if found.container else "",
        plain(found.volume),
        plain(found.issue),
        normal_pages(plain(found.page))[0],
        plain(found.publisher),
        bare_doi(found.doi),
    )


def _person(author: _Author) -> Person:
    if author.name and not author.family:
        return Person(plain(author.name), corporate=True)
    return Person(plain(author.family), plain(author.given), plain(author.suffix))


def _path(doi: str) -> str:
    return f"/works/{quote(doi.lower(), safe='')}"
