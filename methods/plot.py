"""Trade-off curves as pictures."""

from __future__ import annotations

from pathlib import Path

from eelit.methods.results import Result


def plot(result: Result, folder: Path) -> list[Path]:
    """Draw quality against cost for every curve of a result into ``KEY.png`` and ``KEY.svg``; return their paths."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(result.curves), 3.8), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(result.curves), squeeze=False)[0], result.curves, strict=True):
        costs, qualities = [p.cost for p in curve.test], [p.quality for p in curve.test]
        axes.plot(costs, qualities, marker="o", markersize=4, label=f"{curve.knob} from {curve.test[0].knob:g} on")
        axes.plot([curve.full_cost], [curve.full_quality], marker="*", markersize=12, linestyle="", label="full model")
        axes.set_xlabel(f"cost per sample ({curve.unit})")
        axes.set_ylabel(f"{curve.quality} on test data")
        axes.set_title(" ".join(filter(None, [result.key, curve.variant])), fontsize=10)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    paths = [folder / f"{result.key}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths
