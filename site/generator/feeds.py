"""Atom feeds: works that came into the catalogue, and methods that began to pass or to fail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from eelit.methods.engine.records import SmokeChange
from eelit.site.generator.collection import Collection
from eelit.site.generator.markup import printable
from eelit.site.generator.snapshot import Snapshot

ATOM = "http://www.w3.org/2005/Atom"
ENTRIES = 100
"""Most entries of a feed, the newest."""


@dataclass(frozen=True)
class Item:
    """One entry of a feed."""

    id: str
    title: str
    updated: datetime
    summary: str
    link: str  # below the site's address
    author: str = "The eelit authors"


def works(collection: Collection, snapshot: Snapshot) -> str:
    """Return the feed of works, the last added first."""
    items = [
        Item(
            id=f"urn:eelit:paper:{key}",
            title=work.record.titled(work.entry.short_name),
            updated=snapshot.added.get(key, datetime(work.record.year, 1, 1, tzinfo=UTC)),
            summary=work.entry.idea,
            link=f"papers/{key}.html",
            author=work.record.short_authors() or "unknown",
        )
        for key, work in collection.works.items()
    ]
    told = (
        "The date is that of an entry's first commit; where this build's checkout does not go back so far, it is the "
        "year of the work."
    )
    return _feed("feed.xml", "eelit: works added to the catalogue", told, items, snapshot)


def runs(changes: Iterable[SmokeChange], snapshot: Snapshot) -> str:
    """Return the feed of methods whose smoke test began to pass or to fail."""
    items = [
        Item(
            id=f"urn:eelit:run:{change.key}:{change.finished:%Y%m%dT%H%M%SZ}",
            title=f"{change.key}: {change.status}"
            + (f" (before: {change.before})" if change.before else " (first run)"),
            updated=change.finished,
            summary=change.error or f"The smoke test of {change.key} {change.status}.",
            link=f"methods/{change.key}.html",
        )
        for change in changes
    ]
    told = "Changes observed by the machine that built this site, which remembers the last outcome of each method."
    return _feed("feed-runs.xml", "eelit: methods that began to pass or to fail", told, items, snapshot)


def _feed(name: str, title: str, told: str, items: Iterable[Item], snapshot: Snapshot) -> str:
    ET.register_namespace("", ATOM)
    newest = sorted(items, key=lambda item: (-item.updated.timestamp(), item.id))[:ENTRIES]
    feed = ET.Element(f"{{{ATOM}}}feed")
    _add(feed, "id", f"urn:eelit:{name}")
    _add(feed, "title", title)
    _add(feed, "subtitle", told)
    _add(feed, "updated", _time(max((item.updated for item in newest), default=snapshot.moment)))
    _add(feed, "link", rel="self", href=f"{snapshot.address}{name}")
    _add(feed, "link", rel="alternate", href=f"{snapshot.address}index.html")
    _add(_add(feed, "author"), "name", "The eelit authors")
    for item in newest:
        entry = _add(feed, "entry")
        _add(entry, "id", item.id)
        _add(entry, "title", item.title)
        _add(entry, "updated", _time(item.updated))
        _add(entry, "link", rel="alternate", href=f"{snapshot.address}{item.link}")
        _add(_add(entry, "author"), "name", item.author)
        _add(entry, "summary", item.summary)
    ET.indent(feed)
    return ET.tostring(feed, encoding="unicode", xml_declaration=False).join(
        ('<?xml version="1.0" encoding="utf-8"?>\n', "\n")
    )


def _add(parent: ET.Element, name: str, text: str = "", **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, f"{{{ATOM}}}{name}", attributes)
    element.text = printable(" ".join(text.split())) or None
    return element


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
