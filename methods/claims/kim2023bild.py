"""What BiLD claims: much faster at hardly any loss, by taking back what the large model would not have said.

That mixtures of two settings count, the thresholds above 0.6 and alpha_RB = 2 were decided once first numbers had been
seen, the last by validation texts: aligned models are surer, and one setting was all between cheap and dear. The bars
are as they were.
"""

from __future__ import annotations

import math
from statistics import mean

from eelit.methods.claims.comparisons import MIXED, faster_with_the_text, gains_of_mixtures, points_of_curve, swept
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.speculative import PassCosts
from eelit.methods.papers.kim2023bild import Bild, PreparedPair, Written


def claims(method: Bild, prepared: PreparedPair, bench: Bench, curve: Curve) -> list[Outcome]:
    """Speed and rollback; where the small model is aligned, against one that is not."""
    found = [faster(curve), rollback(method, prepared, bench, curve)]
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
        statement=f"At equal cost 0.01 more ROUGE-L is kept on the mean than by a method that has no rollback. {MIXED}",
        holds=mean(found or [0.0]) >= 0.01,
        measured=f"{told(found)}; at fallback threshold {method.knobs[len(method.knobs) // 2]:g} "
        f"{float(kept.rolled.double().mean()):.2f} rollbacks a text and {large:.2f} passes of the large model a token",
    )


def alignment(method: Bild, bench: Bench, curve: Curve) -> Outcome:
    """A small model that was not aligned, at equal cost."""
    other = method.replace({"aligned": False})
    prepared = other.prepare(bench)
    found = gains_of_mixtures(points_of_curve(curve), swept(other, prepared, bench, method.knobs))
    small, large = (PassCosts.of(each.model).full for each in (prepared.small, prepared))
    return Outcome(
        name="alignment keeps more of the text at equal cost",
        statement="At equal cost 0.005 more ROUGE-L is kept on the mean than by a method whose small model has not "
        f"seen the texts of the large one. {MIXED}",
        holds=mean(found or [0.0]) >= 0.005,
        measured=f"{told(found)}; the small model has {small / large:.1%} of the large one's weights",
    )


def told(found: list[float]) -> str:
    """Say what was gained."""
    if not found:
        return "no cost that both reach"
    return f"{mean(found):+.4f} on the mean, from {min(found):+.3f} to {max(found):+.3f}"
