"""What the paper claims: more than four times faster, with hardly any loss in the quality of results.

Differences are taken query by query.
"""

from __future__ import annotations

from eelit.methods.claims.comparisons import points_of_curve, swept, why_not_comparable
from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.claims.paired import GAINS, KEEPS, gains_of_mixtures, mean_gain, of_samples, over_samples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
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
        fewer = curve.baselines[0]
        found.append(better("better than fewer trees", "that of the same ensemble cut off for everybody", curve, fewer))
    if method.rule != "score":
        fixed = method.replace({"rule": "score"})
        rival = Prepared(fixed, prepared.sentinels, prepared.data, prepared.tuning, prepared.selection, prepared.bench)
        points = swept(fixed, rival, bench, fixed.knobs)
        found.append(better("better than a fixed score", "that of the fixed score (EST)", curve, points))
    reason = why_not_comparable(prepared, curve)
    return [each.model_copy(update={"not_comparable": reason or each.not_comparable}) for each in found]


def faster(curve: Curve) -> Outcome:
    """Try the abstract's figure at the fastest recall that loses as little on validation queries."""
    point = cheapest_within(curve.validation, curve.test, LOSS * curve.validation[-1].quality)
    most = LOSS * curve.full_quality
    kept = over_samples(of_samples(point), of_samples(curve.test[-1]))
    return Outcome(
        name="4× at hardly any loss",
        statement=f"The fastest recall that loses at most {LOSS:.1%} of NDCG@10 on validation queries is more than 4× "
        f"faster, and loses no more than that on test queries, {KEEPS}.",
        holds=point.speed_up > 4 and kept.keeps(most),
        measured=f"NDCG@10 {kept} ({kept.mean / curve.full_quality:+.2%}) at recall {point.knob:g}, speed-up "
        f"{point.speed_up:.2f}×",
        not_comparable=nothing_to_lose(curve, most),
    )


def better(name: str, rival: str, curve: Curve, theirs: Baseline) -> Outcome:
    """Compare with a rival at equal cost, its settings and ours chosen on validation queries."""
    found = gains_of_mixtures(points_of_curve(curve), theirs, SHARES)
    gain = mean_gain(found)
    return Outcome(
        name=name,
        statement=f"NDCG@10 is on average {GAIN} above {rival}, at {len(SHARES)} costs from {SHARES[0]:.0%} to "
        f"{SHARES[-1]:.0%} of the whole ensemble's, {GAINS}.",
        holds=gain.gains(GAIN),
        measured=f"{gain} on average, above at {sum(bool(each.mean() > 0) for each in found)} of {len(found)}",
    )
