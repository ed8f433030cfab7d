"""How kinds of exit policy stand within a share of the cost, as small static pictures that share one scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from eelit.site.generator.curve import Scale
from eelit.site.generator.findings import Contest, Leader
from eelit.site.generator.markup import number

WIDTH, LEFT, RIGHT, ROW, BOTTOM = 420, 168, 58, 22, 24
FARTHEST = 0.1
"""How far behind the best a kind is drawn; what lies farther is at the edge, with its figure beside it."""


def reach(contests: Sequence[Contest]) -> float:
    """Return how far behind the best these pictures show."""
    behind = [-(leader.behind.low if leader.behind else leader.gap) for each in contests for leader in each.leaders]
    return min(FARTHEST, max(behind, default=0.0)) or 0.01


def draw(contest: Contest, title: str, name: str, farthest: float) -> Markup:
    """Return the picture of one contest: the best row of each kind, and by how much it is behind the best of all.

    ``name`` makes its ids unique on the page.
    """
    height = ROW * len(contest.leaders) + BOTTOM
    x = Scale(-farthest, farthest * 0.06, LEFT, WIDTH - RIGHT)
    parts = [
        Markup('<svg class="ee-curve ee-contest" viewBox="0 0 {0} {1}" role="img" aria-labelledby="{2}-title">').format(
            WIDTH, height, name
        ),
        Markup('<title id="{}-title">{}: by how much the best row of each kind is behind the best</title>').format(
            name, title
        ),
        *_axis(x, height),
        *(part for rank, leader in enumerate(contest.leaders) for part in _leader(leader, rank, x)),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _axis(x: Scale, height: int) -> Iterator[Markup]:
    foot = height - BOTTOM
    for tick in (value for value in x.ticks(4) if value <= 0):
        style = "axis" if tick == 0 else "grid"
        yield Markup('<path class="{}" d="M{} 0V{}"/>').format(style, x(tick), foot)
        yield Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            x(tick), height - 8, f"{tick:g}".replace("-", "−")
        )


def _leader(leader: Leader, rank: int, x: Scale) -> Iterator[Markup]:
    y = ROW * rank + ROW / 2
    yield Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 8, y + 4, leader.kind)
    said = "best" if leader.gap == 0 else number(leader.gap, 3)
    yield Markup('<text class="tick" x="{}" y="{}">{}</text>').format(WIDTH - RIGHT + 10, y + 4, said)
    style = leader.place.replace(" ", "-")
    if leader.behind:
        low, high = (x(min(max(end, x.low), x.high)) for end in (leader.behind.low, leader.behind.high))
        yield Markup('<path class="span {}" d="M{} {}H{}"/>').format(style, low, y, high)
    if leader.gap < x.low:
        yield Markup('<path class="far" d="M{} {}l-7 4l7 4"/>').format(LEFT + 9, y - 4)
    else:
        yield Markup('<circle class="mark {}" cx="{}" cy="{}" r="4.5"/>').format(style, x(leader.gap), y)
