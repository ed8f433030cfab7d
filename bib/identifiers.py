"""Identifiers and pages in their normal form, however a record writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping

ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}")
ARXIV_NAMED = re.compile(
    rf"\b(?:arxiv(?:\s+(?:e-?|pre)print)?\s*:?\s*|arxiv\.org/(?:abs|pdf)/|10\.48550/arxiv\.|abs/)({ARXIV.pattern})",
    re.I,
)
ARXIV_FIELDS = ("journal", "booktitle", "howpublished", "publisher", "series", "number", "note", "doi", "url")
ARXIV_NOTE = re.compile(
    rf"(?:https?://|arxiv\s+(?:e-?|pre)print\s+)?{ARXIV_NAMED.pattern}(?:v\d+)?(?:\s*\[[\w.-]+\])?\.?", re.I
)
"""A note that says nothing but an identifier; one that says more may speak of another work."""
DASH = r"[-‐‑‒–—−]"
RANGE = re.compile(rf"(?P<first>[A-Za-z]{{0,2}}\d+)\s*(?P<dash>{DASH}{{1,3}})\s*(?P<last>[A-Za-z]{{0,2}}\d+)")
EN_DASH = "–"


def arxiv_id(fields: Mapping[str, str]) -> str:
    """Return the arXiv identifier of plain fields, wherever it stands: `eprint`, journal, DOI, address, DBLP's volume.

    An `eprint` of arXiv is returned as it is if it has no known form, so that it can be reported.
    """
    eprint, archive = fields.get("eprint", ""), fields.get("archiveprefix", "").casefold()
    bare = re.sub(r"^(?:arxiv\s*:\s*|https?://arxiv\.org/(?:abs|pdf)/)", "", eprint, flags=re.IGNORECASE)
    if eprint and (archive == "arxiv" or (not archive and ARXIV.fullmatch(re.sub(r"v\d+$", "", bare)))):
        return bare
    if fields.get("journal", "").casefold() == "corr" and (found := ARXIV_NAMED.search(fields.get("volume", ""))):
        return found[1]
    said = ((name, fields.get(name, "").strip()) for name in ARXIV_FIELDS)
    named = (ARXIV_NOTE.fullmatch(text) if name == "note" else ARXIV_NAMED.search(text) for name, text in said)
    return next((found[1] for found in named if found), "")


def normal_pages(pages: str) -> tuple[str, bool]:
    """Return plain pages with en dashes in their ranges, and whether they were written so (`--`).

    `3-12` is a range, `12-3` is page 3 of part 12, and `S-5` is one page.
    """
    parts = re.split(r"\s*,\s*", pages.strip())
    found = [RANGE.fullmatch(part) for part in parts]
    ranges = [one if one and _rises(one["first"], one["last"]) else None for one in found]
    normal = [f"{one['first']}{EN_DASH}{one['last']}" if one else part for one, part in zip(ranges, parts, strict=True)]
    return ", ".join(normal), all(one["dash"] == EN_DASH for one in ranges if one)


def _rises(first: str, last: str) -> bool:
    """Tell whether two page numbers make a range; the last may leave out what it shares with the first (`1234-45`)."""
    one, other = (re.sub(r"\D", "", number) for number in (first, last))
    return int(other) >= int(one) or len(other) < len(one) > 2
