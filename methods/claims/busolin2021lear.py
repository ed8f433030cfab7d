"""What LEAR claims: the same quality with a third of the trees, and better than rules on partial scores alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import ndcg
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.ranking import Prepared
from eelit.methods.papers.busolin2021lear import Lear
from eelit.methods.policies.score_proximity import ScoreProximity

LOSS = 0.0005  # relative, the larger of the two losses that the abstract reports


def claims(method: Lear, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Three times fewer trees at no loss; better than EPT at equal cost."""
    held = curve.validation
    good = [ours for seen, ours in zip(held, curve.test, strict=True) if seen.quality >= held[-1].quality]
    loss = 1 - good[0].quality / curve.full_quality
    rivals = [proximity(method, prepared, p.cost, method.top) for p in held]
    gains = [ours.quality - theirs.quality for ours, theirs in zip(curve.test, rivals, strict=True)]
    return [
        worth_its_trees(prepared, curve),
        Outcome(
            name="3× at no loss",
            statement=f"The fastest threshold without loss on validation is 3× faster and loses ≤ {LOSS:.2%}.",
            holds=good[0].speed_up >= 3 and loss <= LOSS,
            measured=f"loss {loss:.2%} at threshold {good[0].knob:g}, speed-up {good[0].speed_up:.2f}×",
        ),
        Outcome(
            name="better than proximity",
            statement="At equal cost NDCG@10 is above that of the proximity threshold (EPT), averaged over knobs.",
            holds=float(np.mean(gains)) > 0,
            measured=f"{np.mean(gains):+.4f} on average, above at {sum(g > 0 for g in gains)} of {len(gains)}",
        ),
    ]


def worth_its_trees(prepared: Prepared, curve: Curve) -> Outcome:
    """Try a condition rather than a claim: the ensemble must be worth saving on."""
    queries = prepared.split("test").queries
    gain = curve.full_quality - ndcg(queries.plain, queries.grades, queries.sizes)
    return Outcome(
        name="worth its trees",
        statement="The whole ensemble beats the plain one-number ranking by more than 0.01 NDCG@10.",
        holds=gain > 0.01,
        measured=f"{curve.full_quality:.4f}, {gain:+.4f}",
    )


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
