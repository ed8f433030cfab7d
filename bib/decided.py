"""What people have decided about records, as they wrote it down, so that it is not asked of them again."""

from __future__ import annotations

import re
from collections.abc import Iterable

from eelit.bib.files import read_file
from eelit.bib.read import Bibliography

MACHINE_MADE = re.compile(r"\d{4}-\d\d-\d\d: (?:[\w, ]+ from [\w, ]+(?:; |$))+")
"""A comment that says where fields come from, as `eelit add` and `eelit sync` write it: nobody decided anything."""


def comments(bibliography: Bibliography) -> dict[str, str]:
    """Return what people wrote above each record: key → all their lines of comment as one text."""
    try:
        lines = read_file(bibliography.path).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for key in bibliography.records:
        told: list[str] = []
        place = bibliography.line(key) - 2  # of the line above, counted from 0
        while place >= 0 and lines[place].startswith("%"):
            said = lines[place].lstrip("% ").strip()
            told[:0] = [] if MACHINE_MADE.fullmatch(said) else [said]
            place -= 1
        found[key] = " ".join(told)
    return found


def is_quoted(quotes: Iterable[str], notes: str) -> bool:
    """Tell whether notes hold all of these, whatever their case, as words and not within others or an identifier."""
    told = " ".join(notes.split())
    marks = [rf"(?<![\w./-]){re.escape(' '.join(quote.split()))}(?![./-]?\w)" for quote in quotes]
    return bool(told) and bool(marks) and all(re.search(mark, told, re.IGNORECASE) for mark in marks)
