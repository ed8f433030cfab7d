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

from eelit.methods.records import Curve, OperatingPoint
from eelit.methods.track import Row

VENDOR = ("vega-6.4.0.min.js", "vega-lite-6.5.0.min.js", "vega-interpreter-2.3.2.min.js")
SCRIPTS = [*(f"assets/vendor/{name}" for name in VENDOR), "assets/chart.js"]
"""What a page with a curve loads, in this order."""
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
DASHES = {"method": [1, 0], "baseline": [5, 4]}


@dataclass(frozen=True)
class Line:
    """One curve: a name, and for each knob its share of the full model's cost, its quality, and what it is called."""

    name: str
    points: Sequence[tuple[float, float, str]]
    kind: str = "method"  # or baseline


def of_curve(curve: Curve, name: str) -> list[Line]:
    """Return the test curve of one run and the rules it has to face on the same trained weights."""
    own = Line(name, [_point(point, curve.knob) for point in curve.test])
    knobs = {"static exit": "exit", "max-confidence": "confidence"}
    rivals = (
        Line(rival.name, [_point(point, knobs.get(rival.name, "knob")) for point in rival.test], "baseline")
        for rival in curve.baselines
    )
    return [own, *rivals]


def _point(point: OperatingPoint, knob: str) -> tuple[float, float, str]:
    return 1 / point.speed_up, point.quality, f"{knob} {point.knob:g}"


def of_row(row: Row, name: str, *, baselines: bool = True) -> list[Line]:
    """Return the mean curve of a leaderboard's row over its seeds, and those of the rules it has to face."""
    lines = [Line(name, [(*point, "") for point in row.points])]
    if baselines:
        lines += [
            Line(rival, [(*point, "") for point in points], "baseline") for rival, points in row.baselines.items()
        ]
    return lines


def spec(lines: Iterable[Line], quality: str, full: float | None = None) -> dict[str, Any]:
    """Return the Vega-Lite description of the lines; ``full`` is the full model's quality, drawn as a level."""
    drawn = list(lines)
    values = [
        {"curve": line.name, "share": round(x, 5), "quality": round(y, 5), "knob": knob, "order": i, "kind": line.kind}
        for line in drawn
        for i, (x, y, knob) in enumerate(line.points)
    ]
    tooltip = [
        {"field": "curve", "title": "curve"},
        {"field": "knob", "title": "setting"},
        {"field": "quality", "title": quality, "format": ".4f"},
        {"field": "share", "title": "cost", "format": ".1%"},
    ]
    along = {
        "x": {
            "field": "share",
            "type": "quantitative",
            "title": "mean cost, share of the full model's",
            "axis": {"format": ".0%"},
            "scale": {"domainMin": 0},
        },
        "y": {"field": "quality", "type": "quantitative", "title": quality, "scale": {"zero": False}},
        "color": {
            "field": "curve",
            "type": "nominal",
            "title": None,
            "scale": {"domain": [line.name for line in drawn]},
            "legend": None,
        },
    }
    dash = {"field": "kind", "type": "nominal", "scale": {"domain": list(DASHES), "range": list(DASHES.values())}}
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "line", "strokeWidth": 2},
            "encoding": {**along, "order": {"field": "order"}, "strokeDash": {**dash, "legend": None}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 42},
            "encoding": {**along, "tooltip": tooltip, "shape": {**_shape(), "legend": None}},
        },
    ]
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


def _shape() -> dict[str, Any]:
    return {"field": "kind", "type": "nominal", "scale": {"domain": list(DASHES), "range": ["circle", "diamond"]}}


def data_block(description: dict[str, Any]) -> Markup:
    """Return a description as a block of data that may stand in a page, whatever names it holds."""
    text = json.dumps(description, ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup('<script type="application/json" class="ee-spec">{}</script>').format(Markup(text))
