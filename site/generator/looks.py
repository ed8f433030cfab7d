"""How the curves of one picture look: colour, dash and shape of points, so that no two of many lines are alike.

The static picture, Vega and the swatch of the legend take them from here; the colours themselves are the style sheet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

COLOURS = 12
"""Colours that the style sheet knows (`ee-ink-0` …)."""
DASHES = ((1, 0), (7, 3), (2, 3))
SHAPES = {  # as Vega calls them → the same around a point of our own pictures
    "circle": "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "square": "m-2.7 -2.7h5.4v5.4h-5.4z",
    "triangle-up": "m0 -3.6l3.4 6h-6.8z",
    "diamond": "m0 -4l3.2 4l-3.2 4l-3.2 -4z",
}
MOST = COLOURS * len(DASHES)
"""How many lines of a picture can be told apart."""


@dataclass(frozen=True)
class Look:
    """How one line is drawn."""

    colour: int
    dash: tuple[int, int]
    shape: str


def look(number: int) -> Look:
    """Return the look of a picture's line of this number.

    Neighbours differ in dash and shape too, for those who cannot tell hues apart.
    """
    turn = number + number // COLOURS
    return Look(number % COLOURS, DASHES[turn % len(DASHES)], list(SHAPES)[turn % len(SHAPES)])


def drawn(number: int, places: Sequence[tuple[float, float]], marks: Sequence[tuple[float, float]]) -> Markup:
    """Return a line through the places and a point at each mark."""
    how = look(number)
    path = "L".join(f"{across} {up}" for across, up in places)
    dash = Markup("") if how.dash[1] == 0 else Markup(' stroke-dasharray="{} {}"').format(*how.dash)
    points = "".join(f"M{across} {up}{SHAPES[how.shape]}" for across, up in marks)
    return Markup('<path class="ee-line"{} d="M{}"/><path class="ee-marks" d="{}"/>').format(dash, path, points)


def swatch(number: int) -> Markup:
    """Return the sample of a line that stands beside its name."""
    sample = drawn(number, [(1, 6), (37, 6)], [(19, 6)])
    return Markup('<svg class="ee-swatch ee-ink-{}" viewBox="0 0 38 12" aria-hidden="true">{}</svg>').format(
        look(number).colour, sample
    )
