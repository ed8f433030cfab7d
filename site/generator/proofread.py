"""Look at the built pages: links and anchors inside the site lead somewhere, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

# Attributes that Jinja escaped and Material quotes hold no `>`, so that tags can be found without parsing each page.
TAG = re.compile(r"<(a|script|link|img|iframe|source|use|image|object|embed|video|audio)\s([^>]*)>")
ATTRIBUTE = re.compile(r"([\w:-]+)=(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")
ID = re.compile(r"<[a-z][^>]*?\sid=[\"']?([^\"'\s>]+)")
LOADING_RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "modulepreload", "manifest"}
FOREIGN_IN_CSS = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"]?(?:https?:)?//")
NOT_FOUND_PAGE = "404.html"  # its addresses start at the root of wherever the site is put


@dataclass(frozen=True)
class PageFacts:
    """What matters of one page: its ids, its links, and what it loads."""

    ids: set[str]
    links: list[str]
    loads: list[str]


def read(text: str) -> PageFacts:
    """Return the facts of one built page."""
    facts = PageFacts({unescape(found) for found in ID.findall(text)}, [], [])
    for tag, inside in TAG.findall(text):
        given = {name: unescape(a or b or c) for name, a, b, c in ATTRIBUTE.findall(inside)}
        address = given.get("src") or given.get("data") or given.get("href") or given.get("xlink:href")
        if address is None:
            continue
        if tag == "a":
            facts.links.append(address)
        elif tag != "link" or LOADING_RELATIONS & set(given.get("rel", "").split()):
            facts.loads.append(address)
    return facts


def faults(site: Path) -> list[str]:
    """Return what is wrong with the built pages, one sentence each."""
    paths = sorted(site.rglob("*.html"))
    facts = {path.relative_to(site).as_posix(): read(path.read_text(encoding="utf-8")) for path in paths}
    found = [fault for page, own in facts.items() for fault in _of_page(site, page, own, facts)]
    for path in sorted(site.rglob("*.css")):
        if FOREIGN_IN_CSS.search(path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(site)} loads something from elsewhere")
    return found


def _of_page(site: Path, page: str, own: PageFacts, facts: dict[str, PageFacts]) -> Iterator[str]:
    for address in own.loads:
        if urlsplit(address).netloc or urlsplit(address).scheme not in ("", "data"):
            yield f"{page} loads {address}"
    for address in dict.fromkeys([*own.links, *own.loads]):
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or page == NOT_FOUND_PAGE:
            continue
        target = normpath(join(dirname(page), unquote(parts.path))) if parts.path else page
        if target in facts:
            if parts.fragment and unquote(parts.fragment) not in facts[target].ids:
                yield f"{page} links to {address}, where there is no such place"
        elif not (site / target).is_file():
            yield f"{page} links to {address}, which does not exist"
