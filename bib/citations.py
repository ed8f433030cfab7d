"""Who cites whom inside the collection, each edge with its evidence."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from eelit.bib.problems import Problem, did_you_mean

COLUMNS = ["citing_key", "cited_key", "evidence", "kind"]
KINDS = {
    "bibliography": "found in the reference list of the citing work",
    "text-citation": "found in the running text of the citing work",
    "baseline-comparison": "compared with or built upon in experiments or code; whether it is cited was not seen",
}
CITING_KINDS = ("bibliography", "text-citation")
WORKS_READ_IN_FULL = "eight"  # the rest of the edges come from abstracts, introductions and code


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


def completeness(edges: int) -> str:
    """Return the sentence that goes with every view of the graph."""
    return (
        f"{edges} citations inside the collection are known, and complete reference lists could be read for "
        f"{WORKS_READ_IN_FULL} works only: a missing edge proves nothing, and works are not ranked by citations."
    )


def read_citations(path: Path) -> Citations:
    """Read the table of edges; rows with a fault are left out and reported."""
    citations = Citations(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if header != COLUMNS:
                citations.problems.append(Problem(str(path), 1, f"the first line must read `{','.join(COLUMNS)}`"))
                return citations
            for row in rows:
                _add_row(citations, rows.line_num, row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        citations.problems.append(Problem(str(path), 1, f"the citations cannot be read: {error}"))
    return citations


def _add_row(citations: Citations, line: int, row: list[str]) -> None:
    fault = _fault(citations, row)
    if fault:
        citations.problems.append(Problem(str(citations.path), line, fault))
        return
    edge = Citation(*row)
    citations.edges.append(edge)
    citations.known.add((edge.citing, edge.cited, edge.kind))
    citations.lines.append(line)


def _fault(citations: Citations, row: list[str]) -> str:
    if len(row) != len(COLUMNS) or not all(row):
        return f"a row has {len(COLUMNS)} columns, none empty ({', '.join(COLUMNS)}); quote a value that holds a comma"
    citing, cited, _, kind = row
    if kind not in KINDS:
        return f"unknown kind `{kind}` (allowed: {', '.join(KINDS)}){did_you_mean(kind, tuple(KINDS))}"
    if citing == cited:
        return f"`{citing}` cannot cite itself; mend or remove the row"
    if (citing, cited, kind) in citations.known:
        return f"the edge `{citing}` → `{cited}` ({kind}) stands here twice; keep one"
    return ""
