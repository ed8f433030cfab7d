"""What FREE claims: nearly the full model's texts much faster, by exact states, at a threshold found while it runs.

That mixtures of two settings count was decided once first numbers had been seen: few zetas lie between a cheap and a
dear one. Differences are taken text by text. A bar of half a point was below the standard error of a hundred texts:
where nothing is to be lost, it is two points now, two standard errors included.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from eelit.methods.backbones.decoding import always
from eelit.methods.claims.comparisons import (
    better_than_its_cheap_part,
    faster_with_the_text,
    nothing_to_keep,
    points_of_curve,
    swept,
)
from eelit.methods.claims.paired import GAINS, KEEPS, gains_of_mixtures, mean_gain, of_samples, over_samples, told
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
    return [better_than_its_cheap_part(curve), faster(curve), exact_states(method, prepared, curve)]


def faster(curve: Curve) -> Outcome:
    """The cheapest setting that hardly changes the text."""
    return faster_with_the_text(curve, 1.58)


def exact_states(method: Free, prepared: Prepared, curve: Curve) -> Outcome:
    """Exits by the same rule in the same network, whose deep layers get copies of the shallow state instead."""
    points = [test for held, test in zip(curve.validation, curve.test, strict=True) if 0.2 <= held.exits[0] <= 0.8]
    gains = [of_samples(point) - copied_states(method, prepared, point.knob) for point in points]
    each = ", ".join(f"{gain.mean():+.3f} (λ = {point.knob:g})" for point, gain in zip(points, gains, strict=True))
    found = mean_gain(gains)
    return Outcome(
        name="exact states keep more of the text than copied ones",
        statement="At the thresholds at which from a fifth to four fifths of validation tokens leave, 0.01 more "
        f"ROUGE-L is kept on the mean than by copying states at the same thresholds, {GAINS}.",
        holds=found.gains(0.01),
        measured=f"difference in ROUGE-L {found}: {each}" if gains else "there is no such threshold",
        not_comparable=nothing_to_keep(curve),
    )


def copied_states(method: Free, prepared: Prepared, knob: float) -> NDArray[np.float64]:
    """Return what is kept of each test text ``[N]`` if tokens leave by the same rule and deep layers copy states."""
    never, behind = 2.0, method.layers - 1 - method.shallow
    rule = Margin((never,) * (method.shallow - 1) + (math.nextafter(knob, math.inf),) + (never,) * behind)
    (run,) = prepared.run("test", {("copied", knob): always(rule)}, "logits")
    return 1 - prepared.losses("test", run)


def as_good_as_set(method: Free, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The estimated threshold, against ones that are set: at equal cost, and against the one that it starts from."""
    fixed = method.replace({"adaptive": False})
    found = gains_of_mixtures(points_of_curve(curve), swept(fixed, prepared, bench, fixed.knobs))
    gain = mean_gain(found)
    (start,) = fixed.sweep(prepared, bench, "test", [method.initial])
    (usual,) = method.sweep(prepared, bench, "test", [USUAL])
    kept = over_samples(of_samples(usual), 1.0)
    return [
        Outcome(
            name="an estimated threshold is as good as a set one",
            statement="On the mean over the costs of set thresholds, at no more than each of them and with settings of "
            f"either, or mixtures of two, chosen on validation texts, at most 0.02 less ROUGE-L is kept, {KEEPS}.",
            holds=gain.keeps(0.02),
            measured=told(found),
            not_comparable=nothing_to_keep(curve),
        ),
        Outcome(
            name="estimation moves the threshold to where both parts agree",
            statement=f"With zeta = {USUAL:g} a tenth fewer weights are read than with the threshold that it starts "
            f"from, and at most 0.02 of the text is lost, {KEEPS}.",
            holds=usual.cost <= 0.9 * start.cost and kept.keeps(0.02),
            measured=f"{1 - usual.cost / start.cost:.1%} fewer weights, ROUGE-L {usual.quality:.3f} ({kept}) after "
            f"{start.quality:.3f}",
            not_comparable=nothing_to_keep(curve),
        ),
    ]
