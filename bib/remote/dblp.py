"""DBLP: clean names of venues and authors. Preprint and published version are two records; the latter is preferred."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, Field, field_validator, model_validator

from eelit.bib.blocks import blocks
from eelit.bib.identifiers import normal_pages
from eelit.bib.remote.said import Said, bare_arxiv, bare_doi, person, plain
from eelit.bib.remote.services import DBLP
from eelit.bib.remote.web import Answered, Web
from eelit.bib.tex import read_tex

TYPES = {
    "Journal Articles": "article",
    "Conference and Workshop Papers": "inproceedings",
    "Parts in Books or Collections": "incollection",
    "Books and Theses": "book",
}
CORR = "CoRR"


class _Author(BaseModel):
    text: str


class _Authors(BaseModel):
    author: list[_Author] = []

    @field_validator("author", mode="before")
    @classmethod
    def _one_is_no_list(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]


class _Info(BaseModel):
    title: str
    authors: _Authors = _Authors()
    venue: str | list[str] = ""
    volume: str = ""
    number: str = ""
    pages: str = ""
    year: str
    type: str = ""
    key: str
    doi: str = ""
    ee: str | list[str] = ""


class _Hit(BaseModel):
    info: _Info


class _Hits(BaseModel):
    total: int = Field(alias="@total")
    hit: list[_Hit] = []  # left out if there is none

    @model_validator(mode="after")
    def _holds_what_it_counts(self) -> _Hits:
        if self.total > 0 and not self.hit:
            raise ValueError(f"{self.total} hits are counted and none is given")
        return self


class _Result(BaseModel):
    hits: _Hits


class _Found(Answered):
    result: _Result = Field()


def by_doi(web: Web, doi: str) -> Said | None:
    """Return what DBLP says of a DOI."""
    return next((said for said in _search(web, doi) if said.doi == doi.lower()), None)


def by_key(web: Web, key: str) -> Said | None:
    """Return what DBLP says of a record, `conf/icpr/Doe16`. It is found by its title: only BibTeX has an address."""
    response = web.text(DBLP, f"/rec/{quote(key)}.bib", {})
    if response is None:
        return None
    titles = [dict(block.fields).get("title", "") for block in blocks(response.content.decode("utf-8", "replace"))]
    if not titles:
        raise web.not_understood(DBLP, response, "no BibTeX")
    web.understood(DBLP)
    return next((said for said in by_title(web, read_tex(titles[0]).text) if said.id == key), None)


def by_title(web: Web, title: str) -> list[Said]:
    """Return the records whose titles hold these words, preprints last."""
    return _search(web, " ".join(re.findall(r"\w+", title)))


def _search(web: Web, words: str) -> list[Said]:
    found = web.get(DBLP, "/search/publ/api", {"q": words, "format": "json", "h": "10", "c": "0"}, _Found)
    saids = [_said(web, hit.info) for hit in found.result.hits.hit] if found else []
    return sorted(saids, key=lambda said: said.preprint)


def _said(web: Web, info: _Info) -> Said:
    venues = info.venue if isinstance(info.venue, list) else [info.venue]
    places = info.ee if isinstance(info.ee, list) else [info.ee]
    is_preprint = CORR in venues
    doi = bare_doi(info.doi)
    arxiv = next(
        (name for place in [doi, *places, info.volume.removeprefix("abs/")] if (name := bare_arxiv(place))), ""
    )
    return Said(
        DBLP.label,
        web.address(DBLP, f"/rec/{info.key}"),
        plain(info.title).removesuffix("."),
        tuple(person(author.text) for author in info.authors.author),
        int(info.year) if info.year.isdecimal() else None,
        "misc" if is_preprint else TYPES.get(info.type, "misc"),
        "" if is_preprint else plain(venues[0]),
        "" if is_preprint else plain(info.volume),
        "" if is_preprint else plain(info.number),
        normal_pages(plain(info.pages))[0],
        "",
        "" if bare_arxiv(doi) else doi,
        arxiv,
        info.key,
        is_preprint,
    )
