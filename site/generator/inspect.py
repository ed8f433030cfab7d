"""Look at the built pages: every link and anchor inside the site leads somewhere, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "use": "href", "image": "href", "object": "data"}
LOADING_RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "modulepreload", "manifest"}
FOREIGN_IN_CSS = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"]?(?:https?:)?//")


@dataclass
class PageFacts:
    """What matters of one page: its ids, its links, and what it loads."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.facts = PageFacts()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.facts.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.facts.links.append(given["href"])
        if tag in LOADING and LOADING[tag] in given:
            self.facts.loads.append(given[LOADING[tag]])
        if tag == "link" and LOADING_RELATIONS & set(given.get("rel", "").split()):
            self.facts.loads.append(given.get("href", ""))


def read(path: Path) -> PageFacts:
    """Return the facts of one built page."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.facts


def faults(site: Path) -> list[str]:
    """Return what is wrong with the built pages, one sentence each."""
    facts = {path.relative_to(site).as_posix(): read(path) for path in sorted(site.rglob("*.html"))}
    found = [fault for page, page_facts in facts.items() for fault in _of_page(site, page, page_facts, facts)]
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
        if parts.scheme or parts.netloc:
            continue
        if page == "404.html":  # its addresses start at the root of wherever the site is put
            continue
        target = normpath(join(dirname(page), unquote(parts.path))) if parts.path else page
        if target in facts:
            if parts.fragment and unquote(parts.fragment) not in facts[target].ids:
                yield f"{page} links to {address}, where there is no such place"
        elif not (site / target).is_file() and not (site / target / "index.html").is_file():
            yield f"{page} links to {address}, which does not exist"
