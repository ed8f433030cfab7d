"""What rules that learn, or decide, had lost over time beside better ones, as a picture of lines."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from eelit.methods.engine.records import Learning, Lost
from eelit.site.generator import looks
from eelit.site.generator.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, axes

MARKS = 6
"""About how many points of a line are marked, so that lines can be told apart by shape."""


def draw(shown: Learning, name: str) -> Markup:
    """Return the lines as an SVG element; `name` makes its ids unique on the page."""
    values = [value for line in shown.lines for value in (0.0, *line.values)]
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or 1.0
    x = Scale(0.0, max(max(line.times) for line in shown.lines) or 1.0, LEFT, WIDTH - RIGHT)
    y = Scale(low - room if low < 0 else 0.0, high + room, HEIGHT - BOTTOM, TOP)
    return Markup("\n").join(
        [
            Markup('<svg class="ee-curve ee-board" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title">').format(
                WIDTH, HEIGHT, name
            ),
            Markup('<title id="{}-title">{}; at the end: {}</title>').format(
                name, shown.title, ", ".join(f"{line.rule} {line.values[-1]:.4g}" for line in shown.lines)
            ),
            *axes(x, y, shown.time, shown.unit, "{:g}", "↓ lower is better"),
            *_lines(shown.lines, x, y),
            Markup("</svg>"),
        ]
    )


def _lines(lines: list[Lost], x: Scale, y: Scale) -> Iterator[Markup]:
    """Yield the lines; the method's own, which comes first, lies above the others."""
    for number, line in reversed(list(enumerate(lines))):
        places = [(x(time), y(value)) for time, value in zip(line.times, line.values, strict=True)]
        step = max(1, len(places) // MARKS)
        yield Markup('<g class="ee-ink-{}"><title>{}</title>{}</g>').format(
            looks.look(number).colour, line.rule, looks.drawn(number, places, places[step - 1 :: step])
        )
