"""Trade-off curves as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from eelit.methods.data.cache import write
from eelit.methods.engine.records import Curve, Result
from eelit.methods.harness.qualities import DIRECTION, described
from eelit.methods.harness.summary import data_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(result: Result, folder: Path) -> list[Path]:
    """Draw quality against cost for every curve of a result into ``KEY.png`` and ``KEY.svg``; return their paths."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(result.curves), 3.8), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(result.curves), squeeze=False)[0], result.curves, strict=True):
        costs, qualities = [p.cost for p in curve.test], [p.quality for p in curve.test]
        axes.plot(costs, qualities, marker="o", markersize=4, label=f"{curve.knob} from {curve.test[0].knob:g} on")
        axes.plot([curve.full_cost], [curve.full_quality], marker="*", markersize=12, linestyle="", label="full model")
        axes.set_xlabel(f"cost ({described(curve.quality).cost_in(curve.unit)})")
        axes.set_ylabel(f"{curve.quality} on test data\n({DIRECTION})")
        axes.set_title(" ".join(filter(None, [result.key, curve.variant])), fontsize=10)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    paths = [folder / f"{result.key}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        _save(figure, path)
    return paths


def compare(results: Sequence[Result], path: Path) -> None:
    """Draw the curves of several methods, means over their seeds, against the share of the full model's cost.

    Each quality and each kind of data has a picture of its own. Raises `ValueError` for a kind of file that cannot be
    drawn.
    """
    from matplotlib.figure import Figure

    curves: dict[tuple[str, str], dict[str, list[Curve]]] = {}
    for result in results:
        for curve in result.curves:
            name = f"{result.key} {curve.variant}".strip()
            curves.setdefault((curve.quality, data_of(result, curve.variant)), {}).setdefault(name, []).append(curve)
    figure = Figure(figsize=(6 * len(curves), 4.2), layout="constrained")
    for axes, ((quality, _), named) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        for name, seeds in named.items():
            points = list(zip(*(curve.test for curve in seeds), strict=True))
            shares = [mean(1 / point.speed_up for point in knob) for knob in points]
            axes.plot(shares, [mean(p.quality for p in knob) for knob in points], marker="o", markersize=4, label=name)
        axes.set_xlabel("share of the full model's cost")
        axes.set_ylabel(f"{quality} on test data\n({DIRECTION})")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a picture whole or not at all, of the kind that its name ends in. Raises `OSError`."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=150, format=path.suffix[1:])
    write(path, drawn.getvalue())
