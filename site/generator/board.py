"""Several curves in one picture: quality against the share of the full model's cost, as static SVG."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from eelit.methods.harness.bench import Board
from eelit.methods.harness.summary import Row
from eelit.site.generator import looks
from eelit.site.generator.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, axes
from eelit.site.generator.plots import Line


def groups(board: Board) -> list[list[Row]]:
    """Return the rows of a leaderboard that can be compared with each other, together."""
    return [list(rows) for _, rows in groupby(board.rows, key=lambda row: row.group)]


def draw(lines: Sequence[Line], quality: str, name: str) -> Markup:
    """Return the lines as an SVG element; `name` makes its ids unique on the page."""
    qualities = [reached for line in lines for _, reached, _ in line.points]
    low, high = min(qualities), max(qualities)
    room = (high - low) * 0.08 or 0.05
    dearest = max(
        share for line in lines for share in (*(point[0] for point in line.points), *(x for x, _ in line.beside))
    )
    x = Scale(0.0, max(1.0, dearest) * 1.02, LEFT, WIDTH - RIGHT)
    y = Scale(low - room, high + room, HEIGHT - BOTTOM, TOP)
    drawn = Markup("").join(_line(line, i, x, y) for i, line in enumerate(lines))
    title = f"{quality} against cost: {', '.join(line.name for line in lines)}; the table below has the figures"
    return Markup(
        '<svg class="ee-curve ee-board" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title">'
        '<title id="{}-title">{}</title>{}{}</svg>'
    ).format(
        WIDTH,
        HEIGHT,
        name,
        name,
        title,
        Markup("").join(axes(x, y, "mean cost, share of the full model's", quality)),
        drawn,
    )


def _line(line: Line, number: int, x: Scale, y: Scale) -> Markup:
    places = [(x(share), y(quality)) for share, quality, _ in line.points]
    dots = "".join(f"M{x(share)} {y(quality)}h0" for share, quality in line.beside)
    faint = Markup('<path class="ee-faint" d="{}"/>').format(dots) if dots else Markup("")
    return Markup('<g class="ee-ink-{}"><title>{}</title>{}{}</g>').format(
        looks.look(number).colour, line.name, faint, looks.drawn(number, places, places)
    )
