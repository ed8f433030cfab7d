"""The page on which any methods of a track are put side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eelit.methods import bench
from eelit.methods.track import Row
from eelit.site.generator import plots
from eelit.site.generator.board import groups
from eelit.site.generator.collection import Collection

SCRIPTS = [*plots.SCRIPTS, "assets/compare.js"]


@dataclass(frozen=True)
class Line:
    """One row of a leaderboard as the page names it."""

    id: str  # key, or key:variant; what stands in the page's address
    name: str
    group: int  # rows of one group may be drawn into one picture
    row: Row

    @property
    def lines(self) -> list[plots.Line]:
        """The row's curve alone."""
        return plots.of_row(self.row, self.name, baselines=False)


def lines(collection: Collection, board: bench.Board) -> list[list[Line]]:
    """Return the rows of a board under their names, those that can be compared together."""
    return [[_line(collection, row, i) for row in rows] for i, rows in enumerate(groups(board))]


def _line(collection: Collection, row: Row, group: int) -> Line:
    name = collection.name(row.key)
    if not row.variant:
        return Line(row.key, name, group, row)
    said = row.variant if row.variant.startswith(name) else f"{name}, {row.variant}"
    return Line(f"{row.key}:{row.variant}", said, group, row)


def values(collection: Collection) -> dict[str, Any]:
    """Return what the page's template needs."""
    tracks = {name: lines(collection, board) for name, board in collection.boards.items()}
    specs = {name: [_spec(rows) for rows in found] for name, found in tracks.items()}
    drawn = {name: [[line for row in rows for line in row.lines] for rows in found] for name, found in tracks.items()}
    return {"tracks": tracks, "specs": specs, "drawn": drawn, "site_tracks": bench.TRACKS, "scripts": SCRIPTS}


def _spec(rows: list[Line]) -> Any:
    drawn = [line for row in rows for line in row.lines]
    return plots.data_block(plots.spec(drawn, rows[0].row.quality))


def of_method(collection: Collection, key: str) -> list[tuple[str, Row, list[plots.Line]]]:
    """Return the rows of one method on all tracks: track, row, its curve beside the rules it has to face."""
    return [
        (name, line.row, plots.of_row(line.row, line.name))
        for name, board in collection.boards.items()
        for rows in lines(collection, board)
        for line in rows
        if line.row.key == key
    ]
