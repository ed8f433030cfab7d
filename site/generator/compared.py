"""The page on which any methods of a track are put side by side."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from eelit.catalog.query import fold
from eelit.methods.harness import bench
from eelit.methods.harness.summary import Row
from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator import kinds, plots, tested
from eelit.site.generator.board import groups
from eelit.site.generator.collection import Collection

SCRIPTS = [*plots.SCRIPTS, "assets/compare.js"]
PARTS = ("Idea", "Exit rule", "Training")
"""What of a method's docstring stands above its figures, where methods are side by side."""


@dataclass(frozen=True)
class Line:
    """One row of a leaderboard as the page names it."""

    id: str  # key, or key:variant, of a baseline such as max-confidence@key; used in the page's address
    name: str
    row: Row
    trained: str  # in what its training differs from the track's; else empty
    kind: str  # of exit policy, in words

    @property
    def anchor(self) -> str:
        """The name of its place on the leaderboard's page."""
        return "row-" + re.sub(r"[^a-z0-9]+", "-", self.id.lower()).strip("-")


@dataclass(frozen=True)
class Group:
    """Rows that may be drawn into one picture, the best first, as the leaderboard has them."""

    rows: list[Line]

    @property
    def first(self) -> Row:
        """The row that stands for what all have in common."""
        return self.rows[0].row

    @property
    def heading(self) -> str:
        """What is measured, and on which kind of data."""
        return tested.heading(self.first)

    @property
    def examples(self) -> str:
        """What the figures come from."""
        return tested.examples(self.first)

    @cached_property
    def by_name(self) -> list[Line]:
        """The rows in the order of their names: a rank may change with a result, a name (and its look) does not."""
        return sorted(self.rows, key=lambda line: line.name.casefold())

    @cached_property
    def lines(self) -> list[plots.Line]:
        """Their curves, by name."""
        return [curve for line in self.by_name for curve in plots.of_row(line.row, line.name, baselines=False)]

    @property
    def methods(self) -> list[Line]:
        """The rows without those of baselines."""
        return [line for line in self.rows if not line.row.rule]

    @property
    def baselines(self) -> list[Line]:
        """The rows of baselines."""
        return [line for line in self.rows if line.row.rule]

    @cached_property
    def usual(self) -> list[Line]:
        """One row of each baseline, to compare curves with: of the network that most methods share, or the best."""
        found: dict[str, Line] = {}
        for line in sorted(self.baselines, key=lambda line: -len(line.row.shared)):
            found.setdefault(line.row.rule, line)
        return list(found.values())

    @cached_property
    def drawn(self) -> list[plots.Line]:
        """The curves of the leaderboard's picture: the usual baselines, then methods by name."""
        chosen = [*self.usual, *(line for line in self.by_name if not line.row.rule)]
        return [curve for line in chosen for curve in plots.of_row(line.row, line.name, baselines=False)]

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of exit policy of each curve of this picture; none of the baselines, which always stay in it."""
        return {line.name: line.kind for line in self.methods}

    @property
    def uncertain(self) -> list[str]:
        """Sentences on how certain the figures are."""
        return tested.uncertain([line.row for line in self.rows], 0.5)


def compared(collection: Collection, board: bench.Board, *, rules: bool = False) -> list[Group]:
    """Return the rows of a board under their names, those that can be compared together, perhaps with its baselines."""
    wanted = ([row for row in rows if rules or not row.rule] for rows in groups(board))
    return [Group([_line(collection, row, board) for row in rows]) for rows in wanted if rows]


def _line(collection: Collection, row: Row, board: bench.Board) -> Line:
    said = ", ".join(filter(None, collection.named(row)))
    return Line(
        row.id,
        f"{row.rule} on {said}" if row.rule else said,
        row,
        tested.trained(row, board),
        kinds.kind(collection, row),
    )


def values(collection: Collection) -> dict[str, Any]:
    """Return what the page's template needs."""
    boards = collection.boards.values()
    return {
        "tracks": {name: compared(collection, board) for name, board in collection.boards.items()},
        "site_tracks": TRACKS,
        "scripts": SCRIPTS,
        "names": names(collection),
        "described": [key for key in collection.methods if any(key in board.verdicts for board in boards)],
        "parts": PARTS,
    }


def names(collection: Collection) -> Markup:
    """Return the keys that each name in the page's address may mean: all that the command line accepts."""
    meant: defaultdict[str, list[str]] = defaultdict(list)
    keys = [key for board in collection.boards.values() for key in (*board.verdicts, *board.unmeasured)]
    for key, work in collection.works.items():
        for name in {fold(name) for name in (work.entry.short_name, *work.entry.aliases)}:
            meant[name].append(key)
    every = dict(sorted(meant.items())) | {fold(key): [key] for key in (*collection.works, *keys)}
    return plots.data_block(every, "ee-names")


def of_method(collection: Collection, key: str) -> list[tuple[str, Row, list[plots.Line]]]:
    """Return the rows of one method on all tracks: track, row, its curve beside its baselines."""
    return [
        (name, line.row, plots.of_row(line.row, line.name))
        for name, board in collection.boards.items()
        for group in compared(collection, board)
        for line in group.rows
        if line.row.key == key
    ]
