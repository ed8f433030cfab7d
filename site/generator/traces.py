"""What a simulated world gave over time, as a picture of steps."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from eelit.methods.engine.records import Rate
from eelit.site.generator.curve import LEFT, RIGHT, TOP, WIDTH, Scale

HEIGHT, BOTTOM = 170, 44


def draw(rate: Rate, seconds: float, name: str) -> Markup:
    """Return the rate over so many seconds as an SVG element; `name` makes its ids unique on the page."""
    x = Scale(0.0, seconds, LEFT, WIDTH - RIGHT)
    y = Scale(0.0, max(rate.rates) * 1.05 or 1.0, HEIGHT - BOTTOM, TOP)
    least, most = min(rate.rates), max(rate.rates)
    said = f"From {least:.3g} to {most:.3g} {rate.unit}, in {len(rate.rates)} steps; simulated."
    parts = [
        Markup('<svg class="ee-curve" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title {}-desc">').format(
            WIDTH, HEIGHT, name, name
        ),
        Markup('<title id="{}-title">{}</title>').format(name, rate.part),
        Markup('<desc id="{}-desc">{}</desc>').format(name, said),
        *_axes(x, y, rate),
        Markup('<path class="line test" d="{}"/>').format(_steps(rate, seconds, x, y)),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _axes(x: Scale, y: Scale, rate: Rate) -> Iterator[Markup]:
    for tick in y.ticks(3):
        yield Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, y(tick), WIDTH - RIGHT)
        yield Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{:g}</text>').format(
            LEFT - 8, y(tick) + 4, tick
        )
    for tick in x.ticks():
        yield Markup('<path class="axis" d="M{} {}v5"/>').format(x(tick), HEIGHT - BOTTOM)
        yield Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{:g}</text>').format(
            x(tick), HEIGHT - BOTTOM + 18, tick
        )
    yield Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT)
    yield Markup('<text class="label" x="{}" y="{}" text-anchor="end">simulated seconds</text>').format(
        WIDTH - RIGHT, HEIGHT - 6
    )
    yield Markup('<text class="label" transform="translate(16 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
        (TOP + HEIGHT - BOTTOM) / 2, rate.unit
    )


def _steps(rate: Rate, seconds: float, x: Scale, y: Scale) -> str:
    path = f"M{x(rate.times[0])} {y(rate.rates[0])}"
    for time, value in zip(rate.times[1:], rate.rates[1:], strict=True):
        path += f"H{x(time)}V{y(value)}"
    return f"{path}H{x(seconds)}"
