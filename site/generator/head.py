"""What a page says to programs in its head, carried there by its front matter (see ``theme/main.html``)."""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from eelit.bib.tags import highwire
from eelit.catalog.schema import FACETS, Facet
from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator import linked
from eelit.site.generator.collection import Collection, Method, Work
from eelit.site.generator.markup import printable


def _front(**fields: Any) -> Markup:
    """Return lines of front matter: JSON is YAML, once control characters are gone. Nothing is said of the empty."""
    lines = (f"{name}: {printable(json.dumps(value, ensure_ascii=False))}" for name, value in fields.items() if value)
    return Markup("\n".join(lines))


def paper(collection: Collection, work: Work) -> Markup:
    """Return the head of a work's page: Highwire tags, JSON-LD, the Markdown twin."""
    address, path = collection.snapshot.address, f"papers/{work.key}"
    words = [collection.terms[facet][name].definition.label for facet in FACETS for name in getattr(work.entry, facet)]
    return _front(
        highwire=highwire(work.record, words, f"{address}{path}.html" if address else ""),
        linked=linked.graph(linked.paper(collection, work, address or "../")),
        twin=f"{path}.md",
    )


def method(collection: Collection, method: Method) -> Markup:
    """Return the head of a method's page."""
    known = collection.snapshot
    source = known.blob(f"methods/papers/{method.info.path.name}")
    return _front(
        linked=linked.graph(linked.method(method, known.address or "../", source)), twin=f"methods/{method.key}.md"
    )


def facet(collection: Collection, facet: Facet, says: str) -> Markup:
    """Return the head of a facet's page."""
    terms = collection.terms[facet].values()
    return _front(linked=linked.graph(linked.facet(facet, terms, says, collection.snapshot.address or "../")))


def home(collection: Collection) -> Markup:
    """Return the head of the home page."""
    known = collection.snapshot
    nodes = linked.catalogue(collection, known.address, known.version, f"{known.moment:%Y-%m-%d}")
    return _front(linked=linked.graph(nodes), twin="llms.txt")


def track(collection: Collection, name: str) -> Markup:
    """Return the head of a leaderboard."""
    nodes = linked.track(name, TRACKS[name].title, collection.boards[name].rows, collection.snapshot.address or "../")
    return _front(linked=linked.graph(nodes))
