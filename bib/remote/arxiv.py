"""arXiv: preprints, and what their authors say of the published version. Its answers are Atom."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from eelit.bib.identifiers import ARXIV as SHAPE
from eelit.bib.remote.said import Said, bare_arxiv, bare_doi, person, plain
from eelit.bib.remote.services import ARXIV
from eelit.bib.remote.web import Web

ATOM = "{http://www.w3.org/2005/Atom}"
AT_ONCE = 50
"""Preprints of one request."""
OWN = "{http://arxiv.org/schemas/atom}"


def by_arxiv(web: Web, arxiv: str) -> Said | None:
    """Return what arXiv says of a preprint, of its latest version."""
    found = [said for said in _entries(web, {"id_list": arxiv, "max_results": "1"}) if said.arxiv == arxiv]
    return found[0] if found else None


def by_ids(web: Web, ids: Sequence[str]) -> dict[str, Said]:
    """Return what arXiv says of many preprints, by id: a few long requests are kinder than one for each."""
    known = sorted({name for name in ids if SHAPE.fullmatch(name)})  # one that is none spoils the whole answer
    found: dict[str, Said] = {}
    for start in range(0, len(known), AT_ONCE):
        some = known[start : start + AT_ONCE]
        entries = _entries(web, {"id_list": ",".join(some), "max_results": str(len(some))})
        found |= {said.arxiv: said for said in entries if said.arxiv in some}
    return found


def by_title(web: Web, title: str) -> list[Said]:
    """Return the preprints whose titles hold this phrase."""
    words = " ".join(re.findall(r"\w+", title))
    return _entries(web, {"search_query": f'ti:"{words}"', "max_results": "3"})


def _entries(web: Web, params: dict[str, str]) -> list[Said]:
    response = web.text(ARXIV, "/query", params)
    if response is None:
        return []
    text = response.content.decode("utf-8", "replace")
    try:
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ElementTree.ParseError("a feed declares no entities")
        feed = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise web.not_understood(ARXIV, response, str(error)) from error
    if feed.tag != f"{ATOM}feed":
        raise web.not_understood(ARXIV, response, "no feed")
    for entry in feed.iter(f"{ATOM}entry"):
        if "/api/errors" in (entry.findtext(f"{ATOM}id") or ""):
            told = plain(entry.findtext(f"{ATOM}summary")) or "no reason is given"
            raise web.refused(ARXIV, response, f"answers with an error: {told}")
    web.understood(ARXIV)
    return [said for entry in feed.iter(f"{ATOM}entry") if (said := _said(web, entry))]


def _said(web: Web, entry: ElementTree.Element) -> Said | None:
    """Return an entry in the words of the bibliography; what tells of nothing is none."""
    arxiv, title = bare_arxiv(entry.findtext(f"{ATOM}id")), plain(entry.findtext(f"{ATOM}title"))
    if not arxiv or not title:
        return None
    names = [person(name.text) for name in entry.iterfind(f"{ATOM}author/{ATOM}name") if name.text]
    published = entry.findtext(f"{ATOM}published") or ""
    return Said(
        ARXIV.label,
        f"https://arxiv.org/abs/{arxiv}{web.manners.by_way}",
        title,
        tuple(names),
        int(published[:4]) if published[:4].isdecimal() else None,
        "misc",
        doi=bare_doi(entry.findtext(f"{OWN}doi")),
        arxiv=arxiv,
        id=arxiv,
        preprint=True,
    )
