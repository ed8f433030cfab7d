"""What people have decided about records, as they wrote it down, so that it is not asked of them again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from eelit.bib.files import read_file

if TYPE_CHECKING:
    from eelit.bib.read import Bibliography

BY_WAY = re.compile(r"\bby way of (https?://\S+?)[:,;]?(?=\s|$)")
"""How what a mirror told is marked: it is no word of the service itself."""


def comment_lines(bibliography: Bibliography) -> Iterator[tuple[str, int, str]]:
    """Yield each line of comment above a record: the key, the line's number, and what it says."""
    try:
        lines = read_file(bibliography.path).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for key in bibliography.records:
        own = bibliography.line(key) - 1  # of the record, counted from 0
        first = own
        while first > 0 and lines[first - 1].startswith("%"):
            first -= 1
        for place in range(first, own):
            yield key, place + 1, lines[place].lstrip("% ").strip()


def is_quoted(quotes: Iterable[str], notes: str) -> bool:
    """Tell whether notes hold all of these, whatever their case, as words and not within others or an identifier."""
    told = " ".join(notes.split())
    marks = [rf"(?<![\w./-]){re.escape(' '.join(quote.split()))}(?![./-]?\w)" for quote in quotes]
    return bool(told) and bool(marks) and all(re.search(mark, told, re.IGNORECASE) for mark in marks)
