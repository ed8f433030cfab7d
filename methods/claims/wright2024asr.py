"""What early-exit ASR claims: exits trained together help the full depth, and transcripts tell better when to stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean

from eelit.methods.claims.comparisons import MIXED, gains_of_mixtures, on_average, points_of
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.wright2024asr import EarlyExitAsr, SentenceConfidence


def claims(method: EarlyExitAsr, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them; what does not depend on the rule is tried once, under sentence confidence."""
    if not isinstance(method, SentenceConfidence):
        return [saved(curve)]
    each = [point.quality for point in method.static(prepared.split("test"))]
    rival = of_frames(method)
    ours = Baseline(name=method.key, validation=curve.validation[1:-1], test=curve.test[1:-1])
    return [
        deeper_reads_better(each),
        saved(curve),
        beside_last_alone(each[-1], alone(method, bench, groups=method.groups)),
        beside_shallow(each[0], alone(method, bench, groups=1)),
        beside_entropy(gains_of_mixtures(ours, points_of(rival, rival.prepare(bench), bench))),
    ]


def of_frames(method: SentenceConfidence) -> EarlyExitAsr:
    """Return the same method with the rule that looks at frames; the training is the same one."""
    return EarlyExitAsr(**{field.name: getattr(method, field.name) for field in dataclasses.fields(EarlyExitAsr)})


def alone(method: SentenceConfidence, bench: Bench, *, groups: int) -> float:
    """Return the quality of an ordinary conformer with as many groups, trained for as long with its last head alone."""
    rival = dataclasses.replace(of_frames(method), groups=groups, joint=False)
    return rival.full_model(rival.prepare(bench), bench)[0]


def deeper_reads_better(each: Sequence[float]) -> Outcome:
    """What depth is worth."""
    return Outcome(
        name="deeper exits read better",
        statement="The last exit's character error rate on test data is at least five points below the first one's, "
        "and no exit's is more than a point above that of the one before.",
        holds=each[-1] - each[0] >= 0.05 and all(b >= a - 0.01 for a, b in pairwise(each)),
        measured=f"CER {', '.join(f'{1 - quality:.3f}' for quality in each)} of the exits",
    )


def saved(curve: Curve) -> Outcome:
    """The cheapest threshold at which little is lost."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    loss, share = curve.full_quality - point.quality, 1 / point.speed_up
    return Outcome(
        name="cheaper at nearly the same error rate",
        statement="The cheapest threshold that loses at most one point of CER on validation data saves a tenth of the "
        "computation on test data and loses at most two points there.",
        holds=share <= 0.9 and loss <= 0.02,
        measured=f"{share:.0%} of the full cost, CER {loss:+.4f}, at theta = {point.knob:g}",
    )


def beside_last_alone(ours: float, theirs: float) -> Outcome:
    """The last exit, with and without the others in training."""
    return Outcome(
        name="other exits help the full depth",
        statement="The last exit's character error rate on test data is at least a point lower than that of the same "
        "conformer trained with the last head alone, on the same data with the same settings.",
        holds=ours - theirs >= 0.01,
        measured=f"CER {1 - ours:.4f} instead of {1 - theirs:.4f}",
    )


def beside_shallow(ours: float, theirs: float) -> Outcome:
    """The first exit beside a network that ends there."""
    return Outcome(
        name="the first exit pays for it",
        statement="A conformer that ends behind the first group, trained by itself on the same data with the same "
        "settings, has a character error rate on test data at least a point below the first exit's.",
        holds=theirs - ours >= 0.01,
        measured=f"CER {1 - theirs:.4f} by itself, {1 - ours:.4f} at the first exit",
    )


def beside_entropy(found: Sequence[float]) -> Outcome:
    """The two rules on the same network."""
    return Outcome(
        name="better than the entropy of frames",
        statement="At equal cost the character error rate on test data is on average half a point lower than with "
        f"thresholds of entropy. {MIXED}",
        holds=mean(found or [0.0]) >= 0.005,
        measured=on_average(found),
    )
