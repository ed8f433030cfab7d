"""What the table of papers filters and exports: two scripts of data, read by `assets/papers.js`."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from eelit.bib.exports import EXPORTS
from eelit.catalog.query import FIDELITIES
from eelit.catalog.words import stems, texts
from eelit.site.generator.collection import Collection

WORDS, RECORDS = "papers/papers-words.js", "papers/papers-records.js"
SCRIPTS = ["assets/papers.js", "assets/vendor/stemmer-2.0.1.min.js", WORDS]
"""What the page loads at once, first what makes it respond; the records only when something is exported."""


def words(collection: Collection) -> str:
    """Return each work's words without their endings, in the order of the table's rows."""
    works, known = collection.works.items(), collection.synonyms
    found = stems({key: " ".join(texts(work.entry, work.record, known)) for key, work in works})
    return _script("eelitWords", [" ".join(own) for own in found.values()])


def records(collection: Collection) -> str:
    """Return each work's record in every format, in the order of the table's rows."""
    every = [{name: write([work.record]) for name, write in EXPORTS.items()} for work in collection.works.values()]
    for one in every:
        one["csl-json"] = one["csl-json"].strip().removeprefix("[").removesuffix("]").strip("\n")
        one["csv"] = one["csv"].partition("\r\n")[2]  # the header stands once
    return _script("eelitRecords", {"header": EXPORTS["csv"]([]), "works": every})


def _script(name: str, data: Any) -> str:
    return f"window.{name} = {json.dumps(data, ensure_ascii=False, separators=(',', ':'))};\n"


def values(collection: Collection) -> dict[str, Any]:
    """Return what the page's template needs of this."""
    used: list[str] = [
        work.entry.implementation.fidelity for work in collection.works.values() if work.entry.implementation
    ]
    roles = Counter(work.entry.role for work in collection.works.values())
    return {"scripts": SCRIPTS, "fidelities": {name: used.count(name) for name in FIDELITIES}, "roles": roles}
