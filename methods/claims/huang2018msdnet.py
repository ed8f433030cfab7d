"""What MSDNet claims: an unevenly spent budget is worth more than an even one, and early answers are good."""

from __future__ import annotations

import numpy as np

from eelit.methods.claims.comparisons import keeps_budget
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.huang2018msdnet import MSDNet
from eelit.methods.policies.fixed_exit import FixedExit


def claims(method: MSDNet, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """A common budget buys more than the same one for each image; and what the anytime network promises."""
    if method.prediction == "anytime":
        return [grows(method, prepared)]
    return [beats_anytime(method, prepared, curve), keeps_budget(prepared, curve)]


def beats_anytime(method: MSDNet, prepared: Prepared, curve: Curve) -> Outcome:
    """Compare with answering everything at one exit, mixed between neighbouring exits to the same mean cost."""
    fixed = [method.trial(FixedExit(k), prepared.split("test")) for k in range(prepared.model.exits)]
    at = [np.interp(p.cost, [f.cost for f in fixed], [f.quality for f in fixed]) for p in curve.test[1:-1]]
    gain = float(np.mean([p.quality - a for p, a in zip(curve.test[1:-1], at, strict=True)]))
    return Outcome(
        name="a shared budget beats the same budget for each image",
        statement="At equal mean cost, budgeted batches are on average 0.2 points more accurate than anytime "
        "prediction.",
        holds=gain >= 0.002,
        measured=f"{gain:+.4f} accuracy over {len(at)} budgets",
    )


def grows(method: MSDNet, prepared: Prepared) -> Outcome:
    """Compare the last classifier with the first."""
    quality = [method.trial(FixedExit(k), prepared.split("test")).quality for k in range(prepared.model.exits)]
    return Outcome(
        name="more computation, better answers",
        statement="The last classifier is half a point more accurate than the first, which is already good: within 5 "
        "points.",
        holds=0.005 <= quality[-1] - quality[0] < 0.05,
        measured=", ".join(f"{q:.4f}" for q in quality),
    )
