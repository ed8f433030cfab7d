"""What BiLD claims: much faster at hardly any loss, by taking back what the large model would not have said.

That mixtures of two settings count, the thresholds above 0.6 and alpha_RB = 2 were decided once first numbers had been
seen, the last by validation texts: aligned models are surer, and one setting was all between cheap and dear.
Differences are taken text by text, and must exceed the bar and two standard errors.
"""

from __future__ import annotations

import math

from eelit.methods.claims.comparisons import (
    better_than_its_cheap_part,
    faster_with_the_text,
    nothing_to_keep,
    points_of_curve,
    swept,
)
from eelit.methods.claims.paired import GAINS, gains_of_mixtures, mean_gain, told
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.speculative import PassCosts
from eelit.methods.papers.kim2023bild import Bild, PreparedPair, Written


def claims(method: Bild, prepared: PreparedPair, bench: Bench, curve: Curve) -> list[Outcome]:
    """Speed and rollback; where the small model is aligned, against one that learnt on as long from true texts."""
    found = [better_than_its_cheap_part(curve), faster(curve), rollback(method, prepared, bench, curve)]
    return [*found, alignment(method, bench, curve)] if method.aligned else found


def faster(curve: Curve) -> Outcome:
    """The cheapest setting that hardly changes the text."""
    return faster_with_the_text(curve, 1.56)


def rollback(method: Bild, prepared: PreparedPair, bench: Bench, curve: Curve) -> Outcome:
    """The same models and fallback without rollback, at equal cost."""
    alone = method.replace({"rollback": math.inf})
    found = gains_of_mixtures(points_of_curve(curve), swept(alone, prepared, bench, method.knobs))
    (kept,) = method.texts(prepared, "test", [method.knobs[len(method.knobs) // 2]])
    assert isinstance(kept, Written)
    large = float(kept.passes[:, 1].double().mean()) / prepared.length
    return Outcome(
        name="rollback keeps more of the text at equal cost",
        statement=f"{AT_EQUAL_COST.format('that has no rollback')}, 0.01 more ROUGE-L is kept, {GAINS}.",
        holds=mean_gain(found).gains(0.01),
        measured=f"{told(found)}; at fallback threshold {method.knobs[len(method.knobs) // 2]:g} "
        f"{float(kept.rolled.double().mean()):.2f} rollbacks a text and {large:.2f} passes of the large model a token",
        not_comparable=nothing_to_keep(curve),
    )


def alignment(method: Bild, bench: Bench, curve: Curve) -> Outcome:
    """A small model that learnt on from true texts, for as many steps on the same windows, at equal cost."""
    other = method.replace({"aligned": False})
    prepared = other.prepare(bench)
    found = gains_of_mixtures(points_of_curve(curve), swept(other, prepared, bench, method.knobs))
    small, large = (PassCosts.of(each.model).full for each in (prepared.small, prepared))
    return Outcome(
        name="alignment keeps more of the text at equal cost",
        statement=f"{AT_EQUAL_COST.format('whose small model has learnt as long from the true texts')}, 0.01 more "
        f"ROUGE-L is kept, {GAINS}.",
        holds=mean_gain(found).gains(0.01),
        measured=f"{told(found)}; the small model has {small / large:.1%} of the large one's weights",
        not_comparable=nothing_to_keep(curve),
    )


AT_EQUAL_COST = (
    "On the mean over the costs of a method {}, at no more than each of them and with settings of either, or mixtures "
    "of two, chosen on validation texts"
)
