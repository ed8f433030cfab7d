"""What BiLD claims: much faster at hardly any loss, by taking back what the large model would not have said.

That mixtures of two settings count, the thresholds above 0.6 and alpha_RB = 2 were decided once first numbers had been
seen, the last by validation texts: aligned models are surer, and one setting was all between cheap and dear.
Differences are taken text by text, and must exceed the bar and two standard errors. Rollback is compared only where it
happens: where the small model hardly writes, a method with rollback is the one without.
"""

from __future__ import annotations

import math
from typing import cast

from eelit.methods.claims.comparisons import (
    better_than_its_cheap_part,
    faster_with_the_text,
    nothing_to_keep,
    points_of_curve,
    swept,
)
from eelit.methods.claims.paired import GAINS, gains_of_mixtures, mean_gain, told
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.speculative import PassCosts
from eelit.methods.papers.kim2023bild import Bild, PreparedPair, Written

OFTEN = 0.1
"""Rollbacks in a validation text, on average, from which on rollback is compared."""


def claims(method: Bild, prepared: PreparedPair, bench: Bench, curve: Curve) -> list[Outcome]:
    """Speed and rollback; where the small model is aligned, against one that learnt on as long from true texts."""
    found = [better_than_its_cheap_part(curve), faster(curve), rollback(method, prepared, bench, curve)]
    return [*found, alignment(method, bench, curve)] if method.aligned else found


def faster(curve: Curve) -> Outcome:
    """The cheapest setting that hardly changes the text."""
    return faster_with_the_text(curve, 1.56)


def rollback(method: Bild, prepared: PreparedPair, bench: Bench, curve: Curve) -> Outcome:
    """The same models and fallback without rollback, at the costs that it has where rollbacks happen."""
    busy = [knob for knob, often in rollbacks(method, prepared, "validation").items() if often >= OFTEN]
    alone = swept(method.replace({"rollback": math.inf}), prepared, bench, method.knobs)
    costs = [1 / point.speed_up for point in alone.validation if point.knob in busy]
    found = gains_of_mixtures(points_of_curve(curve), alone, costs) if costs else []
    often = ", ".join(f"{often:.2f} ({knob:g})" for knob, often in rollbacks(method, prepared, "test").items())
    return Outcome(
        name="rollback keeps more of the text at equal cost",
        statement=f"{AT_EQUAL_COST.format('that has no rollback')}, 0.01 more ROUGE-L is kept, {GAINS}. Its costs are "
        f"those at fallback thresholds at which at least {OFTEN:g} rollbacks are made in a validation text.",
        holds=mean_gain(found).gains(0.01),
        measured=f"{told(found)}; rollbacks in a test text, by fallback threshold: {often}",
        not_comparable=nothing_to_keep(curve) or ("" if busy else hardly_any(method)),
    )


def rollbacks(method: Bild, prepared: PreparedPair, split: Split) -> dict[float, float]:
    """Return how many rollbacks a text of the split has on average at each fallback threshold."""
    texts = method.texts(prepared, split, method.knobs)
    return {
        knob: float(cast(Written, text).rolled.double().mean()) for knob, text in zip(method.knobs, texts, strict=True)
    }


def hardly_any(method: Bild) -> str:
    """Return why nothing can be said of rollback if no fallback threshold leads to it."""
    return (
        f"At no fallback threshold are {OFTEN:g} rollbacks made in a validation text, with alpha_RB = "
        f"{method.rollback:g}: there is nothing to compare."
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
