"""Trade-off curves as Vega-Lite: data and description, which `assets/chart.js` draws over the static picture.

The picture and the table stand on the page without it. Nothing is compiled: the pages' policy forbids that, so vega
parses expressions into trees and its interpreter walks them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from eelit.methods.engine.records import Curve, DesignPoint, OperatingPoint, Search
from eelit.methods.harness.qualities import DIRECTION
from eelit.methods.harness.summary import BASELINE_KNOBS, Row, setting
from eelit.site.generator import looks

VENDOR = ("vega-6.4.0.min.js", "vega-lite-6.5.0.min.js", "vega-interpreter-2.3.2.min.js")
SCRIPTS = [*(f"assets/vendor/{name}" for name in VENDOR), "assets/chart.js"]
"""What a page with a curve loads, in this order."""
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"


@dataclass(frozen=True)
class Line:
    """One curve: a name, and for each knob its share of the full model's cost, its quality, and what it is called."""

    name: str
    points: Sequence[tuple[float, float, str]]
    beside: Sequence[tuple[float, float]] = ()  # what lies below it, without a name: shares and qualities


def of_search(search: Search) -> list[Line]:
    """Return the front of a search, and that of as many designs drawn at random; beside each, what it dominates.

    Left out is what would take the picture's room from the fronts: designs worse than the worst on either of them.
    """
    parts = {search.algorithm: search.found, "random search": search.random}
    least = min(point.quality for points in parts.values() for point in points if point.front)
    return [_front(name, points, least) for name, points in parts.items()]


def _front(name: str, points: Sequence[DesignPoint], least: float) -> Line:
    best = [(point.share, point.quality, point.design) for point in points if point.front]
    others = [(point.share, point.quality) for point in points if not point.front and point.quality >= least]
    return Line(f"front of {name}", best, others)


def of_curve(curve: Curve, name: str) -> list[Line]:
    """Return the test curve of one run and those of its baselines on the same trained weights."""
    own = Line(name, [_point(point, curve.knob) for point in curve.test])
    rivals = (
        Line(rival.name, [_point(point, BASELINE_KNOBS.get(rival.name, "knob")) for point in rival.test])
        for rival in curve.baselines
    )
    return [own, *rivals]


def _point(point: OperatingPoint, knob: str) -> tuple[float, float, str]:
    return 1 / point.speed_up, point.quality, setting(knob, point.knob)


def of_row(row: Row, name: str, *, baselines: bool = True) -> list[Line]:
    """Return the mean curve of a leaderboard's row over its seeds, and those of its baselines."""
    own = [(name, row.points, row.knobs)]
    rivals = [(rival, points, row.baseline_knobs[rival]) for rival, points in row.baselines.items()]
    return [
        Line(title, [(share, quality, knob) for (share, quality), knob in zip(points, knobs, strict=True)])
        for title, points, knobs in own + (rivals if baselines else [])
    ]


def spec(lines: Iterable[Line], quality: str, full: float | None = None) -> dict[str, Any]:
    """Return the Vega-Lite description of the lines; ``full`` is the full model's quality, drawn as a level.

    A line's look depends on its place among all lines, so it stays when others are left out; the compare page gives
    few chosen ones out of many the first looks instead (`assets/chart.js`).
    """
    drawn = list(lines)
    values = [
        {"curve": line.name, "share": round(x, 5), "quality": round(y, 5), "knob": knob, "order": i}
        for line in drawn
        for i, (x, y, knob) in enumerate(line.points)
    ]
    looked = [looks.look(number) for number in range(len(drawn))]
    along = _along(drawn, quality)
    dash, shape = _each(drawn, [how.dash for how in looked]), _each(drawn, [how.shape for how in looked])
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "line", "strokeWidth": 2},
            "encoding": {**along, "order": {"field": "order"}, "strokeDash": dash, "description": {"field": "curve"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 40},
            "encoding": {**along, "tooltip": _tooltip(quality), "shape": shape},
        },
    ]
    layers += _beside(drawn, along)
    if full is not None:
        level = {"datum": round(full, 5), "type": "quantitative"}
        layers.insert(0, {"mark": {"type": "rule", "strokeDash": [2, 3], "aria": False}, "encoding": {"y": level}})
    return {
        "$schema": SCHEMA,
        "description": f"{quality} against mean cost for {', '.join(line.name for line in drawn)}",
        "data": {"values": values},
        "height": 320,
        "layer": layers,
    }


def _beside(lines: Sequence[Line], along: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what draws the points beside the lines, faintly; the keyboard passes over them."""
    values = [{"curve": line.name, "share": x, "quality": y} for line in lines for x, y in line.beside]
    mark = {"type": "circle", "size": 9, "opacity": 0.45, "aria": False}
    return [{"data": {"values": values}, "mark": mark, "encoding": along}] if values else []


def _along(lines: Sequence[Line], quality: str) -> dict[str, Any]:
    """Return where a point lies, and its colour: the page's own ones, in turn."""
    return {
        "x": {
            "field": "share",
            "type": "quantitative",
            "title": "mean cost, share of the full model's",
            # Labels of a narrow picture stand apart, and the first and last one over their own marks.
            "axis": {
                "format": ".0%",
                "tickCount": {"expr": "ceil(width / 80)"},
                "labelSeparation": 12,
                "labelFlush": False,
            },
            "scale": {"domainMin": 0},
        },
        "y": {
            "field": "quality",
            "type": "quantitative",
            "title": [quality, f"({DIRECTION})"],
            "scale": {"zero": False},
        },
        "color": _each(lines),
    }


def _each(lines: Sequence[Line], taken: Sequence[Any] | None = None) -> dict[str, Any]:
    """Return how a line's name becomes its colour, dash or shape; the legend is the page's own."""
    scale = {"domain": [line.name for line in lines]} | ({"range": list(taken)} if taken is not None else {})
    return {"field": "curve", "type": "nominal", "title": None, "scale": scale, "legend": None}


def _tooltip(quality: str) -> list[dict[str, str]]:
    return [
        {"field": "curve", "title": "curve"},
        {"field": "knob", "title": "setting"},
        {"field": "quality", "title": quality, "format": ".4f"},
        {"field": "share", "title": "cost", "format": ".1%"},
    ]


def data_block(data: Any, name: str = "ee-spec") -> Markup:
    """Return data as a block of this class that may stand in a page, whatever names it holds."""
    text = json.dumps(data, ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup('<script type="application/json" class="{}">{}</script>').format(name, Markup(text))
