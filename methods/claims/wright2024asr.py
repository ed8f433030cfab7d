"""What early-exit ASR claims: exits trained together help the full depth, and transcripts tell better when to stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

from eelit.methods.claims.comparisons import MIXED, gains_of_mixtures, on_average, points_of
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.wright2024asr import (
    EarlyExitAsr,
    SentenceConfidence,
    best_path,
    letter_accuracy,
    word_accuracy,
)

SCRATCH: Mapping[str, Any] = {"encoder": "conformer", "reduction": 2}
"""What makes of the method an ordinary conformer whose every weight is new."""
LONGER = 2
"""Times as many passes over the data, since there is more to learn."""


def claims(method: EarlyExitAsr, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them; what does not depend on the rule is tried once, under sentence confidence."""
    if not isinstance(method, SentenceConfidence):
        return [saved(curve)]
    seen, each = prepared.split("test"), letters_of(prepared)
    by_word = [word_accuracy(best_path(log_p), seen.targets) for log_p in seen.answers]
    frames, scratch = of_frames(method), from_scratch(method)
    joint = scratch.prepare(bench)
    low = letters_of(joint)
    ours = Baseline(name=method.key, validation=curve.validation[1:-1], test=curve.test[1:-1])
    return [
        deeper_reads_better(each, by_word),
        saved(curve),
        beside_scratch(low[:-1], each[:-1]),
        beside_last_alone(low[-1], alone(scratch, bench, groups=method.groups)),
        beside_shallow(low[0], alone(scratch, bench, groups=1)),
        beside_entropy(gains_of_mixtures(ours, points_of(frames, frames.prepare(bench), bench))),
    ]


def from_scratch(method: SentenceConfidence) -> EarlyExitAsr:
    """Return a conformer with as many exits, for the same utterances."""
    return dataclasses.replace(of_frames(method), **SCRATCH, epochs=LONGER * method.epochs)


def letters_of(prepared: Prepared) -> list[float]:
    """Return 1 - CER on test data of each exit."""
    seen = prepared.split("test")
    return [letter_accuracy(best_path(log_p), seen.targets) for log_p in seen.answers]


def of_frames(method: SentenceConfidence) -> EarlyExitAsr:
    """Return the same method with the rule that looks at frames; the training is the same one."""
    return EarlyExitAsr(**{field.name: getattr(method, field.name) for field in dataclasses.fields(EarlyExitAsr)})


def alone(conformer: EarlyExitAsr, bench: Bench, *, groups: int) -> float:
    """Return 1 - CER on test data of a conformer of so many groups, trained for as long with its last head alone."""
    return letters_of(dataclasses.replace(conformer, groups=groups, joint=False).prepare(bench))[-1]


def deeper_reads_better(each: Sequence[float], by_word: Sequence[float]) -> Outcome:
    """What depth is worth, from 1 - CER and 1 - WER of each exit."""
    letters, words = (", ".join(f"{1 - one:.3f}" for one in measured) for measured in (each, by_word))
    return Outcome(
        name="deeper exits read better",
        statement="The last exit's character error rate on test data is at least five points below the first one's, "
        "and no exit's is more than a point above that of the one before.",
        holds=each[-1] - each[0] >= 0.05 and all(b >= a - 0.01 for a, b in pairwise(each)),
        measured=f"CER {letters} of the exits, WER {words}",
    )


def saved(curve: Curve) -> Outcome:
    """The cheapest threshold at which little is lost."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    loss, share = curve.full_quality - point.quality, 1 / point.speed_up
    return Outcome(
        name="cheaper at nearly the same error rate",
        statement="The cheapest threshold that raises the error rate by at most a point on validation data saves a "
        "tenth of the computation on test data and raises it by at most two points there.",
        holds=share <= 0.9 and loss <= 0.02,
        measured=f"{share:.0%} of the full cost, error rate {loss:+.4f}, at theta = {point.knob:g}",
    )


def beside_last_alone(ours: float, theirs: float) -> Outcome:
    """The last exit, with and without the others in training."""
    return Outcome(
        name="other exits help the full depth",
        statement="The last exit's character error rate on test data, of a conformer trained from scratch with all "
        "exits, is at least a point lower than that of the same conformer trained with the last head alone, on the "
        "same data with the same settings.",
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


def beside_scratch(scratch: Sequence[float], pretrained: Sequence[float]) -> Outcome:
    """Low exits of an encoder from scratch and of one that others pre-trained."""
    gaps = [a - b for a, b in zip(scratch, pretrained, strict=True)]
    return Outcome(
        name="low exits are better from scratch",
        statement="At each exit but the last a small conformer trained from scratch with all exits has a character "
        "error rate on test data at least a point below that of the pre-trained encoder's exit.",
        holds=min(gaps) >= 0.01,
        measured=f"CER {', '.join(f'{1 - one:.3f}' for one in scratch)} from scratch, "
        f"{', '.join(f'{1 - one:.3f}' for one in pretrained)} pre-trained",
    )


def beside_entropy(found: Sequence[float]) -> Outcome:
    """The two rules on the same network."""
    return Outcome(
        name="better than the entropy of frames",
        statement="At equal cost the character error rate on test data is on average half a point lower than with "
        f"thresholds of entropy. {MIXED}",
        holds=mean(found or [0.0]) >= 0.005,
        measured=f"1 - CER: {on_average(found)}",
    )
