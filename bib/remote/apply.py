"""Write what services told into the files of the bibliography, leaving everything else as it stands."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path

from eelit.bib.files import Changes
from eelit.bib.provenance import differ_line, from_line, told_by
from eelit.bib.remote.sync import Differing, Filled, FoundEdge, FoundList, Report
from eelit.bib.remote.web import today
from eelit.bib.write import NotWritable, comments_above, tex, with_comment, with_field, without_comment

NAMES = {"arxiv": "eprint"}
"""What BibTeX calls a field, where that is another name."""


def changes(report: Report, found: Changes, bibliography: Path, citations: Path, lists: Path) -> Changes:
    """Return the files as they will be; what cannot be put into a record becomes a doubt of the report.

    What was read before services were asked is in `found`: if a person changed a file meanwhile, it is not written.
    """
    if report.edges:
        found.put(citations, with_edges(found.text(citations), report.edges))
    if report.lists:
        found.put(lists, with_lists(found.text(lists), report.lists))
    if report.filled or report.differing:
        text = _with_fields(found.text(bibliography), report)
        found.put(bibliography, _with_differing(text, report))
    return found


def with_edges(text: str, edges: list[FoundEdge]) -> str:
    """Return the table of citations with these edges, each where sorting puts it; no other row is touched."""
    rows = [(edge.citing, edge.cited, edge.evidence, "bibliography") for edge in edges]
    return _with_rows(text, [((row[0], row[1]), _row(row)) for row in rows], 2)


def with_lists(text: str, lists: list[FoundList]) -> str:
    """Return the table of reference lists with these, in the place of what was known of the same works."""
    keys = {found.key for found in lists}
    lines = text.splitlines(keepends=True)
    kept = lines[:1] + [line for line in lines[1:] if _first(line, 1)[0] not in keys]
    rows = [(found.key, "yes" if found.complete else "no", found.source, str(found.references)) for found in lists]
    return _with_rows("".join(kept), [((row[0],), _row(row)) for row in rows], 1)


def _with_rows(text: str, rows: list[tuple[tuple[str, ...], str]], width: int) -> str:
    head, *lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    for place, row in sorted(rows):
        later = (index for index, line in enumerate(lines) if _first(line, width) > place)
        lines.insert(next(later, len(lines)), row)
    return "".join([head if head.endswith("\n") else f"{head}\n", *lines])


def _first(line: str, width: int) -> tuple[str, ...]:
    """Return the first cells of a line; they are keys, which nobody quotes."""
    return tuple(line.rstrip("\r\n").split(",")[:width])


def _row(cells: tuple[str, ...]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _with_fields(text: str, report: Report) -> str:
    by_key: dict[str, list[Filled]] = defaultdict(list)
    for filled in report.filled:
        by_key[filled.key].append(filled)
    for key, fields in by_key.items():
        try:
            new = text
            for filled in fields:
                new = with_field(new, key, NAMES.get(filled.name, filled.name), _value(filled))
                if filled.name == "arxiv":
                    new = with_field(new, key, "archiveprefix", "arXiv")
            who = {filled.name: filled.services for filled in fields}
            text = with_comment(new, key, from_line(today(), report.by_way, who))
        except NotWritable as error:
            report.doubt(f"{error}; write {', '.join(f'{f.name} {f.value}' for f in fields)} by hand", key)
    return text


def _with_differing(text: str, report: Report) -> str:
    """Return the text with what services tell otherwise, in the place of what they told before of the same field."""
    for found in report.differing:
        try:
            told = told_by(line := differ_line(today(), report.by_way, found.name, found.values))
            before = [each for each in comments_above(text, found.key) if _is_of(each, found)]
            if told and [_others(each) for each in before] != [_others(line)]:
                for each in before:
                    text = without_comment(text, found.key, each)
                text = with_comment(text, found.key, line)
        except NotWritable as error:
            report.doubt(f"{error}; write what services tell of its {found.name} by hand", found.key)
    return text


def _is_of(comment: str, found: Differing) -> bool:
    """Tell whether a line of comment says what services told otherwise of this field."""
    return any(told.field == found.name and told.other for told in told_by(comment))


def _others(comment: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return what a line tells otherwise, on whatever day."""
    return [(told.other, told.services) for told in told_by(comment)]


def _value(filled: Filled) -> str:
    if filled.name in ("doi", "arxiv"):
        return filled.value
    return tex(filled.value).replace("–", "--")
