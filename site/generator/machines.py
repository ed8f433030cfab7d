"""All files for programs, written beside the pages after the builder has run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eelit.bib.exports import EXPORTS
from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator import api, feeds, twins
from eelit.site.generator.collection import Collection
from eelit.site.generator.snapshot import Snapshot

ENDINGS = {"bibtex": "bib", "ris": "ris", "csl-json": "json", "csv": "csv"}
File = tuple[str, str]


def write(collection: Collection, site: Path) -> int:
    """Write every file into the built site; return how many there are."""
    count = 0
    for path, text in files(collection):
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="")  # RIS has line ends of its own
        count += 1
    return count


def files(collection: Collection) -> Iterator[File]:
    """Yield path below the site and text of every file."""
    snapshot = collection.snapshot
    records = [work.record for work in collection.works.values()]
    for style, ending in ENDINGS.items():
        yield f"bibliography.{ending}", EXPORTS[style](records)
    for key, work in collection.works.items():
        yield f"papers/{key}.bib", EXPORTS["bibtex"]([work.record])
        yield f"papers/{key}.md", twins.paper(collection, work)
    for key, method in collection.methods.items():
        yield f"methods/{key}.md", twins.method(collection, method)
    yield "llms.txt", twins.llms(collection)
    yield "feed.xml", feeds.works(collection, snapshot)
    yield "feed-runs.xml", feeds.runs(collection.reports.changes, snapshot)
    yield "robots.txt", robots(snapshot)
    yield from api.files(collection, snapshot, {name: track.conditions for name, track in TRACKS.items()})


def robots(snapshot: Snapshot) -> str:
    """Return ``robots.txt``: everybody may read everything."""
    where = f"Sitemap: {snapshot.address}sitemap.xml\n" if snapshot.address else ""
    return f"User-agent: *\nAllow: /\n{where}"
