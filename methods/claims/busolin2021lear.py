"""What LEAR claims: as good with a third or a fifth of the trees, and better than rules on partial scores alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eelit.methods.claims.comparisons import why_not_comparable
from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.ranking import Prepared
from eelit.methods.papers.busolin2021lear import Lear
from eelit.methods.policies.score_proximity import ScoreProximity

LOSS = 0.0005  # relative: the loss that the abstract stays below on its second data set


def claims(method: Lear, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Three times fewer trees at no loss, five times fewer at hardly any; better than EPT at equal cost."""
    held, test = curve.validation[1:-1], curve.test[1:-1]  # at either end all rules are the same
    rivals = [proximity(method, prepared, p.cost, method.top) for p in held]
    gains = [ours.quality - theirs.quality for ours, theirs in zip(test, rivals, strict=True)]
    better = Outcome(
        name="better than proximity",
        statement="At equal cost NDCG@10 is on average 0.001 above that of the proximity threshold (EPT), over all "
        "thresholds but the ends.",
        holds=float(np.mean(gains)) >= 0.001,
        measured=f"{np.mean(gains):+.4f} on average, above at {sum(g > 0 for g in gains)} of {len(gains)}",
    )
    reason = why_not_comparable(prepared, curve)
    trivial = reason or nothing_to_lose(curve, LOSS * curve.full_quality)
    fewer = [outcome.model_copy(update={"not_comparable": trivial}) for outcome in fewer_trees(curve)]
    return [*fewer, better.model_copy(update={"not_comparable": reason})]


def fewer_trees(curve: Curve) -> list[Outcome]:
    """Try both figures of the abstract, each at the fastest threshold that loses no more on validation queries."""
    full = curve.validation[-1].quality
    none, little = (cheapest_within(curve.validation, curve.test, share * full) for share in (0.0, LOSS))
    losses = [1 - point.quality / curve.full_quality for point in (none, little)]
    measured = [
        f"loss {loss:.2%} at threshold {point.knob:g}, speed-up {point.speed_up:.2f}×"
        for loss, point in zip(losses, (none, little), strict=True)
    ]
    return [
        Outcome(
            name="3× at no loss",
            statement="The fastest threshold without loss on validation queries is 3× faster, and loses nothing on "
            "test queries.",
            holds=none.speed_up >= 3 and losses[0] <= 0,
            measured=measured[0],
        ),
        Outcome(
            name="5× at a loss below 0.05 %",
            statement=f"The fastest threshold that loses {LOSS:.2%} at most on validation queries is 5× faster, and "
            "loses less than that on test queries.",
            holds=little.speed_up >= 5 and losses[1] < LOSS,
            measured=measured[1],
        ),
    ]


def proximity(method: Lear, prepared: Prepared, cost: float, k: int) -> OperatingPoint:
    """Return the older rule EPT (cambazoglu2010early) on test queries, as a rival at equal cost.

    The distance to the ``k``-th best is such that validation costs ``cost`` trees per document.
    """
    sentinel = replace(prepared.sentinel, price=0)
    splits = (prepared.split("validation"), prepared.split("test"))
    validation, test = (replace(seen, shown=seen.partial) for seen in splits)
    partial = [validation.partial[rows] for rows in validation.queries.spans()]
    gaps = np.concatenate([np.sort(s)[::-1][min(k, len(s)) - 1] - s for s in partial])
    staying = (cost - sentinel.tree) / (sentinel.trees - sentinel.tree)
    distance = float(np.quantile(gaps, min(max(staying, 0.0), 1.0)))
    return method.point(sentinel, test, distance, ScoreProximity(distance, k))
