"""All curves of a leaderboard in one picture: mean quality over seeds against the share of the full model's cost."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from eelit.methods.track import Row
from eelit.site.generator.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, axes

KINDS = 12
"""Looks of lines that the style sheet knows (`ee-line-0` …)."""


def draw(rows: Sequence[Row], name: str) -> Markup:
    """Return the rows' curves as an SVG element; `name` makes its ids unique on the page."""
    qualities = [quality for row in rows for share, quality in row.points]
    low, high = min(qualities), max(qualities)
    room = (high - low) * 0.08 or 0.05
    dearest = max(share for row in rows for share, _ in row.points)
    x = Scale(0.0, max(1.0, dearest) * 1.02, LEFT, WIDTH - RIGHT)
    y = Scale(low - room, high + room, HEIGHT - BOTTOM, TOP)
    lines = Markup("").join(_line(row, i, x, y) for i, row in enumerate(rows))
    title = f"{rows[0].quality} against cost, mean over seeds; the table below has the figures"
    return Markup(
        '<svg class="ee-curve ee-board" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title">'
        '<title id="{}-title">{}</title>{}{}</svg>'
    ).format(
        WIDTH,
        HEIGHT,
        name,
        name,
        title,
        Markup("").join(axes(x, y, "mean cost, share of the full model's", rows[0].quality)),
        lines,
    )


def _line(row: Row, number: int, x: Scale, y: Scale) -> Markup:
    places = [(x(share), y(quality)) for share, quality in row.points]
    path = "L".join(f"{across} {up}" for across, up in places)
    told = f"{row.key} {row.variant}".strip()
    return Markup('<path class="ee-line ee-line-{}" d="M{}"><title>{}</title></path>').format(
        number % KINDS, path, told
    )
