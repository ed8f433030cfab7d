"""Curves of policies on stored outputs as a picture, between what bounds them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from eelit.methods.engine.pareto import front
from eelit.methods.own.compare import Comparison, Line

BOUNDS = {"oracle": "-", "static": "s", "random": ":"}
DASHES = ("-", "--", "-.")


def drawn(found: Comparison, kind: str) -> bytes:
    """Return the picture as ``svg`` or ``png``; policies that another dominates are drawn thin and grey."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.0), layout="constrained")
    axes = figure.subplots()
    for line in found.lines:
        if line.dominated_by:
            points = _curve(line)
            axes.plot(*zip(*points, strict=True), color="0.8", linewidth=0.8, zorder=1)
    for number, line in enumerate(found.best):
        points = _curve(line)
        style, colour = DASHES[number // 10 % len(DASHES)], f"C{number % 10}"
        axes.plot(*zip(*points, strict=True), style, color=colour, marker=".", markersize=4, label=line.name, zorder=3)
    for name, style in BOUNDS.items():
        points = getattr(found, name)
        axes.plot(*zip(*points, strict=True), style, color="black", markersize=4, label=f"{name} (bound)", zorder=2)
    axes.plot([1], [found.full_quality], "*", color="black", markersize=12, label="full model", zorder=4)
    axes.set_xlabel(f"mean cost, share of the full model's ({found.unit})", parse_math=False)
    axes.set_ylabel(f"{found.quality_is} on {found.telling} held-out samples")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)).get_texts():
        text.set_parse_math(False)  # names of columns are no formulas
    held = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "eelit", "svg.fonttype": "path"}):
        figure.savefig(held, dpi=150, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return held.getvalue()


def _curve(line: Line) -> list[tuple[float, float]]:
    """Return (cost share, quality) of a policy's settings; those best on the choosing half, of several knobs."""
    costs = [point.chosen_share for point in line.points]
    points = line.points
    if costs != sorted(costs):
        points = [points[i] for i in front([(-point.chosen_quality, point.chosen_share) for point in points])]
    return sorted((point.share, point.quality) for point in points)


def draw(found: Comparison, path: Path) -> None:
    """Write the picture whole or not at all, of the kind that its name ends in. Raises `OSError`."""
    from eelit.methods.data.cache import write

    write(path, drawn(found, path.suffix[1:]))
