"""Tables for people, as wide as the terminal, and the plain formats for programs."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click

from eelit.cli.streams import plain_terminal

GAP = "  "
WHOLE = ("key", "work", "id")  # columns that one copies from are never cut
LEAST = 12  # characters that a column keeps when the table has to be narrowed


def bold(text: str) -> str:
    """Return the text in bold if the terminal may show it so (click strips it outside of terminals)."""
    return text if "NO_COLOR" in os.environ or plain_terminal() else click.style(text, bold=True)


def width() -> int | None:
    """Return the width of the terminal, or None where nothing needs to be cut (files, pipes)."""
    if columns := os.environ.get("COLUMNS", ""):
        return int(columns) if columns.isdigit() and int(columns) > 0 else None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None
    except (OSError, ValueError):
        return None


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an aligned table; if it is too wide the widest columns are cut with an ellipsis."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    room = width()
    cut = [index for index, name in enumerate(header) if name not in WHOLE]
    while room is not None and cut and sum(widths) + len(GAP) * (len(widths) - 1) > room:
        widest = max(cut, key=lambda index: widths[index])
        if widths[widest] <= LEAST:
            break
        widths[widest] -= 1
    numeric = [all(isinstance(row[index], int | float) for row in rows) for index in range(len(header))]
    lines = [_line(row, widths, numeric) for row in [list(header), *cells]]
    return "\n".join([bold(lines[0]), *lines[1:]])


def _line(row: Sequence[str], widths: list[int], numeric: list[bool]) -> str:
    parts = []
    for text, size, right in zip(row, widths, numeric, strict=True):
        short = text if len(text) <= size else text[: size - 1] + "…"
        parts.append(short.rjust(size) if right else short.ljust(size))
    return GAP.join(parts).rstrip()


def cell(value: Any) -> str:
    """Return a value as one line of text."""
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    text = str(value)
    indent = len(text) - len(text.lstrip(" "))  # kept: it shows which term is narrower
    return " " * indent + " ".join(text.split())


def tsv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return tab-separated values with a header; tabs and line breaks inside a value become spaces."""
    return "\n".join("\t".join(cell(value) for value in row) for row in [header, *rows])


def json_text(data: Any) -> str:
    """Return one JSON document."""
    import json

    return json.dumps(data, ensure_ascii=False, indent=2)


def paragraph(text: str, indent: str = "", hanging: str | None = None) -> str:
    """Return running text broken to the terminal, at most 100 characters wide; `hanging` indents its further lines."""
    filled = textwrap.fill(
        text,
        max(min(width() or 100, 100), len(indent) + LEAST),
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,  # addresses stay whole, so that one can follow them
        break_on_hyphens=False,
    )
    return filled.replace("\u00a0", " ")  # callers put these where a line must not break
