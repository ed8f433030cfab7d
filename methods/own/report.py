"""A comparison of policies as one HTML file that needs nothing else: figures, picture and all settings; no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from eelit.methods.own.compare import SHARES, Comparison, Line
from eelit.methods.own.curves import mixture
from eelit.methods.own.given import said_not_finite
from eelit.methods.own.picture import drawn

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
       background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd;
       text-align: left; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.struck { color: #666; text-decoration: line-through; } svg { max-width: 100%; height: auto; }
summary { cursor: pointer; }
"""


def bounds_at(points: Sequence[tuple[float, float]], share: float) -> float | None:
    """Return what the best mixture of two points of a bound reaches within a share of the full cost."""
    costs, qualities = zip(*points, strict=True)
    found = mixture(costs, qualities, share)
    if found is None:
        return None
    i, j, w = found
    return float(qualities[i] + w * (qualities[j] - qualities[i]))


def facts(found: Comparison) -> list[str]:
    """Return in sentences what was compared, and how."""
    told = [
        f"{found.name or 'The outputs'}: {found.as_read[:1].lower()}{found.as_read[1:]}",
        f"Knobs are chosen on {found.choosing} samples and every figure is told on the other {found.telling}; the "
        "halves "
        f"are drawn with seed {found.seed}.",
        f"The full model: {found.quality_is} {found.full_quality:.4f} at {found.full_cost:.4g} {found.unit}.",
    ]
    if found.not_finite:
        told.append(said_not_finite(found.not_finite))
    return told


def html(found: Comparison) -> str:
    """Return the report."""
    picture = drawn(found, "svg").decode()
    picture = picture[picture.index("<svg") :]
    lines = "".join(map(_row, found.lines))
    bounds = "".join(
        f"<tr><td>{name} (bound)</td>{''.join(_cell(bounds_at(getattr(found, name), share)) for share in SHARES)}"
        "<td></td><td></td><td></td></tr>"
        for name in ("oracle", "static", "random")
    )
    head = "".join(f'<th class="n">within {share:.0%}</th>' for share in SHARES)
    left_out = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in found.left_out.items())
    title = f"Exit policies on {escape(found.name or 'your outputs')}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><style>'
        f"{STYLE}</style></head><body><h1>{title}</h1>\n{''.join(f'<p>{escape(text)}</p>' for text in facts(found))}\n"
        f"<figure>{picture}</figure>\n<h2>At equal cost</h2><p>{escape(found.quality_is)} within a share of the full "
        "model's cost: the best mixture of two settings. Saved without loss: by the cheapest setting that lost "
        "nothing on the choosing half. A policy is struck out where another is at least as good at every budget.</p>\n"
        f'<table><thead><tr><th>policy</th>{head}<th class="n">area</th><th class="n">saved without loss</th>'
        f'<th class="n">lost there</th></tr></thead><tbody>{lines}{bounds}</tbody></table>\n'
        f"<h2>All settings</h2>{''.join(map(_settings, found.lines))}\n"
        f"<h2>Not tried</h2><ul>{left_out}</ul></body></html>\n"
    )


def write(found: Comparison, path: Path) -> None:
    """Write the report whole or not at all. Raises `OSError`."""
    from eelit.methods.data import cache

    cache.write(path, html(found).encode())


def _cell(value: float | None) -> str:
    return f'<td class="n">{"out of reach" if value is None else f"{value:.4f}"}</td>'


def _row(line: Line) -> str:
    reached = [line.at[share] for share in SHARES]
    cells = "".join(_cell(None if each is None else each.quality) for each in reached)
    name = escape(line.name)
    if line.dominated_by:
        name = f'<span class="struck">{name}</span> <small>({escape(line.dominated_by)} is as good everywhere)</small>'
    saved = f'<td class="n">{line.saves:.1%}</td><td class="n">{line.loses:.4f} ± {line.loses_error:.4f}</td>'
    return f'<tr><td title="{escape(line.says)}">{name}</td>{cells}{_cell(line.area)}{saved}</tr>'


def _settings(line: Line) -> str:
    rows = "".join(
        f"<tr><td>{escape(short(point.settings))}</td><td class='n'>{point.share:.1%}</td>"
        f"<td class='n'>{point.quality:.4f}</td><td "
        f"class='n'>{' '.join(f'{100 * e:.0f}' for e in point.exits)}</td></tr>"
        for point in line.points
    )
    source = f" Source: {escape(line.source)}." if line.source else ""
    return (
        f"<details><summary>{escape(line.name)}</summary><p>{escape(line.says)}{source}</p><table><thead><tr>"
        "<th>setting</th><th class='n'>cost</th><th class='n'>quality</th><th class='n'>leaving at each exit, "
        "%</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></details>"
    )


def short(settings: dict[str, Any]) -> str:
    """Return settings as a line: numbers of four digits, long lists cut, an exit counted from 1 as people do."""

    def told(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        if isinstance(value, dict):
            return f"{value.get('policy')}({short(value.get('settings', {}))})"
        if isinstance(value, list | tuple):
            each = [told(part) for part in value]
            return f"[{', '.join(each[:6])}{', …' if len(each) > 6 else ''}]"
        return str(value)

    return ", ".join(
        f"{name} {value + 1 if name == 'exit' else told(value)}"
        for name, value in settings.items()
        if value is not None
    )
