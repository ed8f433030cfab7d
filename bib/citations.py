"""Who cites whom inside the collection, each edge with its evidence, and whose reference list is known in full."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from eelit.bib.files import read_file
from eelit.bib.problems import Problem, did_you_mean

COLUMNS = ["citing_key", "cited_key", "evidence", "kind"]
LIST_COLUMNS = ["key", "complete", "source", "references"]
KINDS = {
    "bibliography": "found in the reference list of the citing work",
    "text-citation": "found in the running text of the citing work",
    "baseline-comparison": "compared with or built upon in experiments or code; whether it is cited was not seen",
}
CITING_KINDS = ("bibliography", "text-citation")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class Citation:
    """An edge from a work to another of the collection; a baseline comparison is not a citation."""

    citing: str
    cited: str
    evidence: str
    kind: str

    @property
    def is_citation(self) -> bool:
        """Tell whether the citing work was seen to cite the other."""
        return self.kind in CITING_KINDS


@dataclass
class Citations:
    """All edges, with the line of each and what was wrong with the file."""

    path: Path
    edges: list[Citation] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    known: set[tuple[str, str, str]] = field(default_factory=set, repr=False)


@dataclass
class ReferenceLists:
    """The works whose list of references was looked at, each with its line and source.

    Those in `complete` were read to the end; the edges of all other works come from abstracts, introductions and code.
    """

    path: Path
    lines: dict[str, int] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    complete: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def completeness(edges: int, complete: int) -> str:
    """Return the sentence that goes with every view of the graph, of so many edges and complete reference lists."""
    number = NUMBERS[complete] if complete < len(NUMBERS) else str(complete)
    return (
        f"{edges} citations inside the collection are known, and complete reference lists could be read for "
        f"{number} works only: a missing edge proves nothing, and few citations do not mean that a work matters less."
    )


def read_citations(path: Path) -> Citations:
    """Read the table of edges; rows with a fault are left out and reported."""
    citations = Citations(path)
    for line, row in _rows(path, COLUMNS, citations.problems):
        if fault := _fault(citations, row):
            citations.problems.append(Problem(str(path), line, fault))
            continue
        edge = Citation(*row)
        citations.edges.append(edge)
        citations.known.add((edge.citing, edge.cited, edge.kind))
        citations.lines.append(line)
    return citations


def read_reference_lists(path: Path) -> ReferenceLists:
    """Read which reference lists are complete; rows with a fault are left out and reported."""
    lists = ReferenceLists(path)
    for line, row in _rows(path, LIST_COLUMNS, lists.problems):
        if fault := _fault_of_list(lists, row):
            lists.problems.append(Problem(str(path), line, fault))
            continue
        lists.lines[row[0]] = line
        lists.sources[row[0]] = row[2]
        if row[1] == "yes":
            lists.complete.append(row[0])
    return lists


def _rows(path: Path, columns: list[str], problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows below the header, each with its line. A row is one line, so that a lost quote costs one row."""
    try:
        content = read_file(path)
    except OSError as error:
        problems.append(Problem(str(path), 1, f"the table cannot be read: {error}"))
        return
    for line, found in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines() or [b""], start=1):
        try:
            row = next(csv.reader([found.decode("utf-8")], strict=True), [])
        except (UnicodeDecodeError, csv.Error) as error:
            row, said = [], f"this row cannot be read ({error}); save it as UTF-8, and quote a value that holds quotes"
            problems.append(Problem(str(path), line, said))
        if line == 1 and row != columns:
            problems.append(Problem(str(path), 1, f"the first line must read `{','.join(columns)}`"))
            return
        if line > 1 and row:
            yield line, row


def _fault(citations: Citations, row: list[str]) -> str:
    if len(row) != len(COLUMNS) or not all(row):
        return f"a row has {len(COLUMNS)} columns, none empty ({', '.join(COLUMNS)}); quote a value that holds a comma"
    citing, cited, _, kind = row
    if kind not in KINDS:
        return f"unknown kind `{kind}` (allowed: {', '.join(KINDS)}){did_you_mean(kind, tuple(KINDS))}"
    if citing == cited:
        return f"`{citing}` cannot cite itself; correct or remove the row"
    if (citing, cited, kind) in citations.known:
        return f"the edge `{citing}` → `{cited}` ({kind}) stands here twice; keep one"
    return ""


def _fault_of_list(lists: ReferenceLists, row: list[str]) -> str:
    if len(row) != len(LIST_COLUMNS) or not all(row[:3]):
        return f"a row has {len(LIST_COLUMNS)} columns ({', '.join(LIST_COLUMNS)}), of which only the last may be empty"
    key, complete, _, references = row
    if complete not in ("yes", "no"):
        return f"`complete` of `{key}` is `{complete}`; write yes or no"
    if references and not references.isdecimal():
        return f"`references` of `{key}` is `{references}`; write how many there are, or nothing"
    if key in lists.lines:
        return f"the list of `{key}` stands here twice; keep one"
    return ""
