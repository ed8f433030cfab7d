"""Semantic Scholar: works by any identifier, and lists of references in pages. Without a key it is often busy.

Its data are under ODC-BY: edges and identifiers are named with their source.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, Field, model_validator

from eelit.bib.remote.said import ARXIV_DOI, Said, bare_arxiv, bare_doi, person, plain
from eelit.bib.remote.services import SEMANTIC_SCHOLAR
from eelit.bib.remote.web import Answered, Unanswered, Web

ASKED = "paperId,externalIds,title,year,venue,authors"
REFERENCES = "title,year,authors,externalIds"
AT_ONCE = 500
"""Works of one request."""
PER_PAGE = 1000
MOST_PAGES = 9
"""Offset and limit together reach 10,000."""


class _Author(BaseModel):
    name: str | None = None


class _Ids(BaseModel):
    doi: str | None = Field(default=None, alias="DOI")
    arxiv: str | None = Field(default=None, alias="ArXiv")


class Paper(Answered):
    """A work as Semantic Scholar tells it; one that it could not match has a title only."""

    id: str | None = Field(alias="paperId")
    title: str | None
    ids: _Ids | None = Field(default=None, alias="externalIds")
    year: int | None = None
    venue: str | None = None
    authors: list[_Author] = Field(default=[])

    @property
    def doi(self) -> str:
        """The DOI in small letters, unless it is arXiv's."""
        found = bare_doi(self.ids.doi) if self.ids else ""
        return "" if found.startswith(ARXIV_DOI) else found

    @property
    def arxiv(self) -> str:
        """The bare arXiv id."""
        return (bare_arxiv(self.ids.arxiv) or bare_arxiv(self.ids.doi)) if self.ids else ""


class _Reference(BaseModel):
    cited: Paper = Field(alias="citedPaper")


class _Page(Answered):
    data: list[_Reference] | None
    next: int | None = None


class _Batch(Answered):
    papers: list[Paper | None]

    @model_validator(mode="before")
    @classmethod
    def _is_a_bare_list(cls, value: Any) -> Any:
        return {"papers": value} if isinstance(value, list) else value


class _Matches(Answered):
    data: list[Paper]


def by_doi(web: Web, doi: str) -> Said | None:
    """Return what Semantic Scholar says of a DOI."""
    return by_id(web, f"DOI:{doi}")


def by_arxiv(web: Web, arxiv: str) -> Said | None:
    """Return what Semantic Scholar says of a preprint."""
    return by_id(web, f"ARXIV:{arxiv}")


def by_title(web: Web, title: str) -> list[Said]:
    """Return the work that comes nearest to a title, if any is near."""
    found = web.get(SEMANTIC_SCHOLAR, "/paper/search/match", {"query": title, "fields": ASKED}, _Matches)
    return [said for paper in found.data if (said := _said(web, paper))] if found else []


def references(web: Web, name: str) -> list[Paper] | None:
    """Return what a work (`DOI:…` or `ARXIV:…`) refers to, from all pages; None if that is not known."""
    papers: list[Paper] = []
    offset = 0
    for _ in range(MOST_PAGES):
        params = {"fields": REFERENCES, "limit": str(PER_PAGE), "offset": str(offset)}
        page = web.get(SEMANTIC_SCHOLAR, f"{_path(name)}/references", params, _Page)
        if page is None or page.data is None:
            return papers or None
        for reference in page.data:
            reference.cited.said_on = page.said_on
            papers.append(reference.cited)
        if page.next is None or page.next <= offset:
            break
        offset = page.next
    return papers or None


def address(web: Web, name: str) -> str:
    """Return where the references of a work are listed."""
    return web.address(SEMANTIC_SCHOLAR, f"{_path(name)}/references")


def by_id(web: Web, name: str) -> Said | None:
    """Return what Semantic Scholar says of `DOI:…` or `ARXIV:…`."""
    paper = web.get(SEMANTIC_SCHOLAR, _path(name), {"fields": ASKED}, Paper)
    return _said(web, paper) if paper else None


def by_ids(web: Web, names: Collection[str]) -> dict[str, Said]:
    """Return what Semantic Scholar says of many works, by name (`DOI:…` or `ARXIV:…`): one request instead of many."""
    known = sorted(set(names))
    found: dict[str, Said] = {}
    for start in range(0, len(known), AT_ONCE):
        some = known[start : start + AT_ONCE]
        batch = web.get(SEMANTIC_SCHOLAR, "/paper/batch", {"fields": ASKED}, _Batch, {"ids": some})
        papers = batch.papers if batch else []
        if len(papers) != len(some):
            raise Unanswered(SEMANTIC_SCHOLAR, f"answers with {len(papers)} works to a question about {len(some)}")
        saids = [_said(web, paper) if paper else None for paper in papers]
        found |= {name: said for name, said in zip(some, saids, strict=True) if said}
    return found


def _path(name: str) -> str:
    return f"/paper/{quote(name, safe=':')}"


def _said(web: Web, paper: Paper) -> Said | None:
    if not paper.id or not plain(paper.title):
        return None
    venue = plain(paper.venue)
    is_preprint = "arxiv" in venue.casefold() or not (venue or paper.doi)
    return Said(
        SEMANTIC_SCHOLAR.label,
        web.address(SEMANTIC_SCHOLAR, f"/paper/{paper.id}"),
        plain(paper.title),
        tuple(person(author.name) for author in paper.authors if author.name),
        paper.year,
        "misc" if is_preprint else "",
        "" if is_preprint else venue,
        doi=paper.doi,
        arxiv=paper.arxiv,
        id=paper.id,
        preprint=is_preprint,
    )
