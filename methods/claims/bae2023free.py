"""What FREE claims: nearly the full model's texts much faster, by exact states, at a threshold found while it runs.

That mixtures of two settings count was decided once first numbers had been seen: few zetas lie between a cheap and a
dear one. The bars are as they were.
"""

from __future__ import annotations

import math
from statistics import mean

from eelit.methods.backbones.decoding import always
from eelit.methods.claims.comparisons import MIXED, faster_with_the_text, gains_of_mixtures, points_of_curve, swept
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.tokens import Prepared
from eelit.methods.papers.bae2023free import Free
from eelit.methods.policies.margin import Margin

USUAL = 0.4
"""The paper's zeta."""


def claims(method: Free, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Speed with either threshold; exact states with a set one, the estimate against set ones."""
    if method.adaptive:
        return [faster(curve), *as_good_as_set(method, prepared, bench, curve)]
    return [faster(curve), exact_states(method, prepared, curve)]


def faster(curve: Curve) -> Outcome:
    """The cheapest setting that hardly changes the text."""
    return faster_with_the_text(curve, 1.58)


def exact_states(method: Free, prepared: Prepared, curve: Curve) -> Outcome:
    """Exits by the same rule in the same network, whose deep layers get copies of the shallow state instead."""
    chosen = [i for i, point in enumerate(curve.validation) if 0.2 <= point.exits[0] <= 0.8]
    copied = [copied_states(method, prepared, curve.test[i].knob) for i in chosen]
    gains = [curve.test[i].quality - quality for i, quality in zip(chosen, copied, strict=True)]
    told = ", ".join(f"{gain:+.3f} (λ = {curve.test[i].knob:g})" for i, gain in zip(chosen, gains, strict=True))
    return Outcome(
        name="exact states keep more of the text than copied ones",
        statement="At the thresholds at which from a fifth to four fifths of validation tokens leave, 0.01 more "
        "ROUGE-L is kept on the mean than by copying states at the same thresholds.",
        holds=bool(gains) and mean(gains) >= 0.01,
        measured=f"difference in ROUGE-L: {told}" if gains else "there is no such threshold",
    )


def copied_states(method: Free, prepared: Prepared, knob: float) -> float:
    """Return what is kept of test texts if tokens leave by the same rule and deep layers copy their states."""
    never, behind = 2.0, method.layers - 1 - method.shallow
    rule = Margin((never,) * (method.shallow - 1) + (math.nextafter(knob, math.inf),) + (never,) * behind)
    (run,) = prepared.run("test", {("copied", knob): always(rule)}, "logits")
    return float(1 - prepared.losses("test", run).mean())


def as_good_as_set(method: Free, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The estimated threshold, against ones that are set: at equal cost, and against the one that it starts from."""
    fixed = method.replace({"adaptive": False})
    found = gains_of_mixtures(points_of_curve(curve), swept(fixed, prepared, bench, fixed.knobs))
    (start,) = fixed.sweep(prepared, bench, "test", [method.initial])
    (usual,) = method.sweep(prepared, bench, "test", [USUAL])
    return [
        Outcome(
            name="an estimated threshold is as good as a set one",
            statement=f"At equal cost at most 0.005 less ROUGE-L is kept on the mean than with set thresholds. {MIXED}",
            holds=bool(found) and mean(found) >= -0.005,
            measured=f"{mean(found):+.4f} on the mean, from {min(found):+.3f} to {max(found):+.3f}"
            if found
            else "no cost that both reach",
        ),
        Outcome(
            name="estimation moves the threshold to where both parts agree",
            statement=f"With zeta = {USUAL:g} a tenth fewer weights are read than with the threshold that it starts "
            "from, and 0.98 of the text is kept.",
            holds=usual.cost <= 0.9 * start.cost and usual.quality >= 0.98,
            measured=f"{1 - usual.cost / start.cost:.1%} fewer weights, ROUGE-L {usual.quality:.3f} after "
            f"{start.quality:.3f}",
        ),
    ]
