"""The trade-off curve of a method as SVG: quality against cost, drawn when the site is built, in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from eelit.methods.engine.records import Curve, OperatingPoint
from eelit.methods.harness.qualities import DIRECTION
from eelit.site.generator.markup import magnitude

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 16, 50
LABEL_SPACE = 18.0  # labels nearer to each other than this are left out; the table has them all


@dataclass(frozen=True)
class Scale:
    """A linear map from values to the picture, with round ticks."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where the value lies in the picture."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, about: int = 7) -> list[float]:
        """Return round values inside the range."""
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def draw(curve: Curve, name: str) -> Markup:
    """Return the curve as an SVG element with title and description; `name` makes its ids unique on the page."""
    x, y = _scales(curve)
    parts = [
        Markup('<svg class="ee-curve" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title {}-desc">').format(
            WIDTH, HEIGHT, name, name
        ),
        Markup('<title id="{}-title">{}</title>').format(name, _title(curve)),
        Markup('<desc id="{}-desc">{}</desc>').format(name, _description(curve)),
        *_axes(curve, x, y),
        *_full_model(curve, x, y),
        *_points(curve, curve.validation, x, y, "validation"),
        *_points(curve, curve.test, x, y, "test"),
        *_labels(curve, x, y),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _title(curve: Curve) -> str:
    return f"{curve.quality} against cost, by {curve.knob}"


def _description(curve: Curve) -> str:
    first, last = curve.test[0], curve.test[-1]
    return (
        f"On test data, from {curve.quality} {first.quality:.3f} at {first.cost / curve.full_cost:.0%} of the full "
        f"model's cost ({curve.knob} {first.knob:g}) to {last.quality:.3f} at {last.cost / curve.full_cost:.0%} "
        f"({curve.knob} {last.knob:g}); the full model reaches {curve.full_quality:.3f}. The table below has them all."
    )


def _scales(curve: Curve) -> tuple[Scale, Scale]:
    points = [*curve.test, *curve.validation]
    qualities = [point.quality for point in points] + [curve.full_quality]
    low, high = min(qualities), max(qualities)
    room = (high - low) * 0.12 or 0.05
    dearest = max([point.cost / curve.full_cost for point in points] + [1.0])
    x = Scale(0.0, dearest * 1.04, LEFT, WIDTH - RIGHT)
    return x, Scale(low - room, high + room, HEIGHT - BOTTOM, TOP)


def _axes(curve: Curve, x: Scale, y: Scale) -> Iterator[Markup]:
    cost = f"mean cost, share of the full model's {magnitude(curve.full_cost)} {curve.unit}"
    return axes(x, y, cost, curve.quality)


def axes(
    x: Scale, y: Scale, cost: str, quality: str, across: str = "{:.0%}", direction: str = f"↑ {DIRECTION}"
) -> Iterator[Markup]:
    """Yield grid, ticks and labels.

    ``across`` is how the horizontal axis writes its numbers, ``direction`` says which way is better.
    """
    for tick in y.ticks():
        yield Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, y(tick), WIDTH - RIGHT)
        yield Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{:g}</text>').format(
            LEFT - 8, y(tick) + 4, tick
        )
    for tick in x.ticks():
        yield Markup('<path class="axis" d="M{} {}v5"/>').format(x(tick), HEIGHT - BOTTOM)
        yield Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            x(tick), HEIGHT - BOTTOM + 18, across.format(tick)
        )
    yield Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT)
    yield Markup('<text class="label" x="{}" y="{}" text-anchor="end">{}</text>').format(
        WIDTH - RIGHT, HEIGHT - 10, cost
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield Markup('<text class="label" transform="translate(16 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
        middle, quality
    )
    yield Markup('<text class="tick" x="{}" y="{}">{}</text>').format(LEFT, TOP - 5, direction)


def _full_model(curve: Curve, x: Scale, y: Scale) -> Iterator[Markup]:
    height = y(curve.full_quality)
    yield Markup('<path class="full" d="M{} {}H{}"/>').format(LEFT, height, WIDTH - RIGHT)
    yield Markup(
        '<path class="full-mark" d="M{} {}l5 5l-5 5l-5 -5z"><title>full model: {} {:.4f}</title></path>'
    ).format(x(1.0), height - 5, curve.quality, curve.full_quality)


def _points(curve: Curve, points: list[OperatingPoint], x: Scale, y: Scale, split: str) -> Iterator[Markup]:
    places = [(x(point.cost / curve.full_cost), y(point.quality)) for point in points]
    path = "L".join(f"{across} {up}" for across, up in places)
    yield Markup('<path class="line {}" d="M{}"/>').format(split, path)
    for point, (across, up) in zip(points, places, strict=True):
        told = (
            f"{split}, {curve.knob} {point.knob:g}: {curve.quality} {point.quality:.4f}, speed-up {point.speed_up:.2f}×"
        )
        yield Markup('<circle class="point {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
            split, across, up, 4.5 if split == "test" else 3.5, told
        )


def _labels(curve: Curve, x: Scale, y: Scale) -> Iterator[Markup]:
    """Yield the knob beside each test point that has room for it."""
    taken: list[tuple[float, float]] = []
    for point in curve.test:
        across, up = x(point.cost / curve.full_cost), y(point.quality)
        if all(math.hypot(across - left, up - top) >= LABEL_SPACE for left, top in taken):
            taken.append((across, up))
            is_low = up < TOP + 24
            yield Markup('<text class="knob" x="{}" y="{}" text-anchor="middle">{:g}</text>').format(
                across, up + 18 if is_low else up - 10, point.knob
            )
