"""What the paper claims: more than four times faster, with hardly any loss in the quality of results."""

from __future__ import annotations

import numpy as np

from eelit.methods.claims.comparisons import why_not_comparable
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import at, cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.sentinels import Prepared
from eelit.methods.papers.cambazoglu2010early import EarlyRanking

LOSS = 0.005
"""Relative: what is taken for hardly any loss of NDCG@10; the abstract names no figure."""
GAIN = 0.001
"""Least NDCG@10 that counts as better."""
SHARES = tuple(i / 20 for i in range(3, 13))
"""Of the full model's cost, at which curves are compared: 15 to 60 per cent."""


def claims(method: EarlyRanking, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Four times faster; better than fewer trees for everybody; and, if it sees the query, than a fixed score."""
    found = [faster(curve)]
    if curve.baselines:
        held, test = curve.baselines[0].validation, curve.baselines[0].test
        found.append(
            better("better than fewer trees", "that of the same ensemble cut off for everybody", curve, held, test)
        )
    if method.rule != "score":
        fixed = method.replace({"rule": "score"})
        rival = Prepared(fixed, prepared.sentinels, prepared.data, prepared.tuning, prepared.selection, prepared.bench)
        held, test = (fixed.sweep(rival, bench, split, fixed.knobs) for split in ("validation", "test"))
        found.append(better("better than a fixed score", "that of the fixed score (EST)", curve, held, test))
    reason = why_not_comparable(prepared, curve)
    return [outcome.model_copy(update={"not_comparable": reason}) for outcome in found]


def faster(curve: Curve) -> Outcome:
    """Try the abstract's figure at the fastest recall that loses as little on validation queries."""
    point = cheapest_within(curve.validation, curve.test, LOSS * curve.validation[-1].quality)
    loss = 1 - point.quality / curve.full_quality
    return Outcome(
        name="4× at hardly any loss",
        statement=f"The fastest recall that loses at most {LOSS:.1%} of NDCG@10 on validation queries is more than 4× "
        "faster, and loses no more than that on test queries.",
        holds=point.speed_up > 4 and loss <= LOSS,
        measured=f"loss {loss:.2%} at recall {point.knob:g}, speed-up {point.speed_up:.2f}×",
    )


def better(name: str, rival: str, curve: Curve, held: list[OperatingPoint], test: list[OperatingPoint]) -> Outcome:
    """Compare with a rival at equal cost, its settings and ours chosen on validation queries."""
    gains = []
    for share in SHARES:
        ours, theirs = at(curve.validation, curve.test, share), at(held, test, share)
        if ours and theirs:
            gains.append(ours.quality - theirs.quality)
    mean = float(np.mean(gains)) if gains else 0.0
    return Outcome(
        name=name,
        statement=f"NDCG@10 is on average {GAIN} above {rival}, at {len(SHARES)} costs from {SHARES[0]:.0%} to "
        f"{SHARES[-1]:.0%} of the whole ensemble's.",
        holds=mean >= GAIN,
        measured=f"{mean:+.4f} on average, above at {sum(gain > 0 for gain in gains)} of {len(gains)}",
    )
