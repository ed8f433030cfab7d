"""Identifiers and pages in their normal form, however a record writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping

ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}")
ARXIV_NAMED = re.compile(
    rf"\b(?:arxiv(?:\s+(?:e-?|pre)print)?\s*[:,]?\s*|arxiv\.org/(?:abs|pdf)/|10\.48550/arxiv\.|abs/)({ARXIV.pattern})",
    re.I,
)
ARXIV_FIELDS = ("journal", "booktitle", "howpublished", "publisher", "series", "number", "note", "doi", "url")
ARXIV_NOTE = re.compile(
    rf"(?:https?://|arxiv\s+(?:e-?|pre)print\s+)?{ARXIV_NAMED.pattern}(?:v\d+)?(?:\s*\[[\w.-]+\])?\.?", re.I
)
"""A note that says nothing but an identifier; one that says more may speak of another work."""
VOLUME = re.compile(rf"(?:abs/|arxiv:)?({ARXIV.pattern})(?:v\d+)?", re.I)
"""The volume of a journal that is called CoRR or arXiv, as DBLP and Semantic Scholar write it."""
DASH = r"[-‐‑‒–—−]"
DASHES = re.compile(rf"\s*({DASH}{{1,3}})\s*")
PAGE = re.compile(r"(?P<before>(?:[A-Za-z]*[0-9]*[.:/-])*[A-Za-z]*)(?P<number>[0-9]+)")
"""A page, and what may stand before its number: `S`, `e`, `34:`, `A-`, `12.3:`."""
ROMAN = re.compile(r"(?=.)m{0,4}(?:cm|cd|d?c{0,3})(?:xc|xl|l?x{0,3})(?:ix|iv|v?i{0,3})")
NUMERALS = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100, "d": 500, "m": 1000}
WORD = re.compile(r"(?:pp?|pages?)(?:\.\s*|\s+)", re.IGNORECASE)
"""What some write before pages."""
EN_DASH = "–"


def arxiv_id(fields: Mapping[str, str]) -> str:
    """Return the arXiv identifier of plain fields, wherever it stands: `eprint`, journal, DOI, address, DBLP's volume.

    An `eprint` of arXiv is returned as it is if it has no known form, so that it can be reported.
    """
    eprint, archive = fields.get("eprint", ""), fields.get("archiveprefix", "").casefold()
    bare = re.sub(r"^(?:arxiv\s*:\s*|https?://arxiv\.org/(?:abs|pdf)/)", "", eprint, flags=re.IGNORECASE)
    if eprint and (archive == "arxiv" or (not archive and ARXIV.fullmatch(re.sub(r"v\d+$", "", bare)))):
        return bare
    if fields.get("journal", "").casefold() in ("corr", "arxiv") and (
        found := VOLUME.fullmatch(fields.get("volume", ""))
    ):
        return found[1]
    said = ((name, fields.get(name, "").strip()) for name in ARXIV_FIELDS)
    named = (ARXIV_NOTE.fullmatch(text) if name == "note" else ARXIV_NAMED.search(text) for name, text in said)
    return next((found[1] for found in named if found), "")


def normal_pages(pages: str) -> tuple[str, bool]:
    """Return plain pages with en dashes in their ranges, and whether they were written so (`--`, no `pp.`).

    `3-12`, `S1-S9`, `34:1-34:10` and `ix-xii` are ranges, `12-3` is page 3 of part 12, and `S-5` is one page.
    """
    bare = WORD.sub("", pages.strip(), count=1) if WORD.match(pages.strip()) else pages.strip()
    found = [_range(part) for part in re.split(r"\s*,\s*", bare)]
    return ", ".join(part for part, _ in found), bare == pages.strip() and all(told for _, told in found)


def _range(part: str) -> tuple[str, bool]:
    """Return a part with an en dash if it is a range, and whether it is none or has one.

    The dash in the middle is that of the range: any others belong to the numbers of its two pages.
    """
    dashes = list(DASHES.finditer(part))
    if len(dashes) % 2 == 0:
        return part, True
    dash = dashes[len(dashes) // 2]
    first, last = part[: dash.start()], part[dash.end() :]
    if not (_are_pages(first, last) or _are_roman(first, last)):
        return part, True
    return f"{first}{EN_DASH}{last}", dash[1] == EN_DASH


def _are_pages(first: str, last: str) -> bool:
    """Tell whether two pages make a range: of one part, by their letters only, or of two parts with a colon or dot."""
    one, other = PAGE.fullmatch(first), PAGE.fullmatch(last)
    if not one or not other:
        return False
    before, after = one["before"], other["before"]
    if before != after and re.search(r"[.:/]$", before) and re.search(r"[.:/]$", after):
        return True
    alike = after in (before, "") if "-" not in before + after else before == after
    letters = (before + after).isalpha() or not before + after
    return (alike or letters) and is_range(one["number"], other["number"])


def _are_roman(first: str, last: str) -> bool:
    """Tell whether two pages are a range that begins in Roman numbers: `ix-xii`, `I-IV`, `ii-214`."""
    if last.isdecimal():
        return re.fullmatch(r"[ivx]+", first) is not None and ROMAN.fullmatch(first) is not None
    if not (first.islower() and last.islower()) and not (first.isupper() and last.isupper()):
        return False
    one, other = first.lower(), last.lower()
    return bool(ROMAN.fullmatch(one) and ROMAN.fullmatch(other)) and _roman(one) <= _roman(other)


def _roman(number: str) -> int:
    values = [NUMERALS[letter] for letter in number]
    return sum(-one if one < other else one for one, other in zip(values, [*values[1:], 0], strict=True))


def is_range(first: str, last: str) -> bool:
    """Tell whether two page numbers rise; the last may leave out what it shares with the first (`1234-45`)."""
    one, other = (number.lstrip("0") for number in (first, last))  # as text, which may have any number of digits
    return (len(other), other) >= (len(one), one) or len(last) < len(first) > 2
