"""What early-exit monoBERT claims: faster at little loss, by saying no early, and two thresholds beat one."""

from __future__ import annotations

from eelit.methods.claims.comparisons import chosen, tried
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import mrr
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.xin2020ranking import OFF, EarlyExitMonoBert
from eelit.methods.policies.class_thresholds import ClassThresholds


def claims(method: EarlyExitMonoBert, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Faster at little loss; saying no saves the layers; two thresholds beat one. Chosen on validation data."""
    return [faster(method, prepared, curve), saying_no(method, prepared), two_thresholds(method, prepared)]


def faster(method: EarlyExitMonoBert, prepared: Prepared, curve: Curve) -> Outcome:
    """Take the fastest knob that is nearly as good as the full model on validation data."""
    test = prepared.split("test")
    close = [i for i, point in enumerate(curve.validation) if point.quality >= curve.validation[-1].quality - 0.01]
    fast = curve.test[min(close, key=lambda i: curve.validation[i].cost)]
    answers = (test.at(replay(method.rule(fast.knob, prepared), test.outputs)), test.outputs[-1])
    ranked = [method.ranked(each, test.targets) for each in answers]
    early, full = (mrr(scores, grades == 2, sizes) for scores, grades, sizes in ranked)
    return Outcome(
        name="faster at little loss",
        statement="The fastest knob within 0.01 NDCG@10 of the full model on validation data is so on test data too, "
        "and 2.5× faster, the paper's figure for the better of its two data sets.",
        holds=fast.speed_up >= 2.5 and fast.quality >= curve.full_quality - 0.01,
        measured=f"{fast.quality:.4f} / {curve.full_quality:.4f}, MRR@10 {early:.4f} / {full:.4f}, "
        f"{fast.speed_up:.2f}×",
    )


def saying_no(method: EarlyExitMonoBert, prepared: Prepared) -> Outcome:
    """Compare what either side saves by itself."""
    no, yes = (
        1 - 1 / method.trial(rule, prepared.split("test")).speed_up
        for rule in (ClassThresholds(OFF, 0.9), ClassThresholds(0.9, OFF))
    )
    return Outcome(
        name="saying no saves the layers",
        statement="At 0.9, NC alone saves 5 % of the MACs, and twice what PC does.",
        holds=no > max(0.05, 2 * yes),
        measured=f"{no:.1%} of the MACs by NC, {yes:.1%} by PC",
    )


def two_thresholds(method: EarlyExitMonoBert, prepared: Prepared) -> Outcome:
    """Compare the best pair with the best single threshold at half the cost."""
    levels = [x for x in method.knobs if x >= 0.5]
    one = within_half(method, [ClassThresholds(x, x) for x in levels], prepared)
    two = within_half(method, [ClassThresholds(x, y) for x in levels for y in levels if x > y], prepared)
    return Outcome(
        name="two thresholds beat one",
        statement="At half the cost, the best pair PC > NC ranks 0.005 NDCG@10 better than the best single threshold.",
        holds=bool(one and two and two.quality >= one.quality + 0.005),
        measured=" and ".join(f"{best.quality:.4f}" if best else "none at half the cost" for best in (two, one)),
    )


def within_half(method: EarlyExitMonoBert, rules: list[ClassThresholds], prepared: Prepared) -> OperatingPoint | None:
    """Return the test point of the rule that is best on validation data at no more than half the full cost, if any."""
    found = tried(method, prepared, rules)
    return chosen(found, found.validation[0].cost * found.validation[0].speed_up / 2)
