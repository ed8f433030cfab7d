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
    letter_accuracy,
    word_error_rate,
)

SCRATCH: Mapping[str, Any] = {"encoder": "conformer", "reduction": 2}
"""What makes of the method an ordinary conformer whose every weight is new."""
LONGER = 2
"""Times as many passes over the data, since there is more to learn."""
HALF = 0.5
"""CER above which a conformer has not learnt to read, so that nothing follows from how its exits compare."""


def claims(method: EarlyExitAsr, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them; what does not depend on the rule is tried once, under sentence confidence."""
    if not isinstance(method, SentenceConfidence):
        return [saved(curve)]
    frames, scratch = of_frames(method), from_scratch(method)
    joint = letters_by_exit(scratch.prepare(bench))
    pretrained = letters_by_exit(by_best_path(frames).prepare(bench))
    ours = Baseline(name=method.key, validation=curve.validation[1:-1], test=curve.test[1:-1])
    seen = prepared.split("test")
    return [
        deeper_reads_better(letters_by_exit(prepared), [word_error_rate(said, seen.targets) for said in seen.answers]),
        saved(curve),
        beside_scratch(joint, pretrained),
        beside_last_alone(joint[-1], alone(scratch, bench, groups=method.groups)),
        beside_shallow(joint, alone(scratch, bench, groups=1)),
        beside_entropy(gains_of_mixtures(ours, points_of(frames, frames.prepare(bench), bench))),
    ]


def from_scratch(method: SentenceConfidence) -> EarlyExitAsr:
    """Return a conformer with as many exits, for the same utterances, read by the best path."""
    return dataclasses.replace(by_best_path(of_frames(method)), **SCRATCH, epochs=LONGER * method.epochs)


def by_best_path(method: EarlyExitAsr) -> EarlyExitAsr:
    """Return the same method read without a search, which takes long where nothing is certain."""
    return dataclasses.replace(method, hypotheses=0)


def letters_by_exit(prepared: Prepared) -> list[float]:
    """Return 1 - CER on test data of each exit."""
    seen = prepared.split("test")
    return [letter_accuracy(said, seen.targets) for said in seen.answers]


def unread(*accuracies: float) -> str:
    """Return why conformers of which the best has so much 1 - CER tell nothing, or nothing if it reads well enough."""
    least = 1 - max(accuracies)
    if least <= HALF:
        return ""
    return f"With so little speech the conformer does not learn to read: {least:.0%} of its letters are wrong."


def of_frames(method: SentenceConfidence) -> EarlyExitAsr:
    """Return the same method with the rule that looks at frames; the training is the same one."""
    return EarlyExitAsr(**{field.name: getattr(method, field.name) for field in dataclasses.fields(EarlyExitAsr)})


def alone(conformer: EarlyExitAsr, bench: Bench, *, groups: int) -> float:
    """Return 1 - CER on test data of a conformer of so many groups, trained for as long with its last head alone."""
    return letters_by_exit(dataclasses.replace(conformer, groups=groups, joint=False).prepare(bench))[-1]


def deeper_reads_better(each: Sequence[float], by_word: Sequence[float]) -> Outcome:
    """What depth is worth, from 1 - CER and WER of each exit."""
    letters, words = ", ".join(f"{1 - one:.3f}" for one in each), ", ".join(f"{one:.3f}" for one in by_word)
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
    reason = unread(ours, theirs)
    return Outcome(
        name="other exits help the full depth",
        statement="The last exit's character error rate on test data, of a conformer trained from scratch with all "
        "exits, is at least a point lower than that of the same conformer trained with the last head alone, on the "
        "same data with the same settings.",
        holds=not reason and ours - theirs >= 0.01,
        measured=f"CER {1 - ours:.4f} instead of {1 - theirs:.4f}",
        not_comparable=reason,
    )


def beside_shallow(joint: Sequence[float], theirs: float) -> Outcome:
    """The first exit beside a network that ends there."""
    ours, reason = joint[0], unread(*joint, theirs)
    return Outcome(
        name="the first exit pays for it",
        statement="A conformer that ends behind the first group, trained by itself on the same data with the same "
        "settings, has a character error rate on test data at least a point below the first exit's.",
        holds=not reason and theirs - ours >= 0.01,
        measured=f"CER {1 - theirs:.4f} by itself, {1 - ours:.4f} at the first exit",
        not_comparable=reason,
    )


def beside_scratch(scratch: Sequence[float], pretrained: Sequence[float]) -> Outcome:
    """Low exits of an encoder from scratch and of one that others pre-trained, from 1 - CER of all exits."""
    reason = unread(*scratch)
    gaps = [a - b for a, b in zip(scratch[:-1], pretrained[:-1], strict=True)]
    return Outcome(
        name="low exits are better from scratch",
        statement="At each exit but the last a small conformer trained from scratch with all exits has a character "
        "error rate on test data at least a point below that of the pre-trained encoder's exit.",
        holds=not reason and min(gaps) >= 0.01,
        measured=f"CER {', '.join(f'{1 - one:.3f}' for one in scratch)} from scratch, "
        f"{', '.join(f'{1 - one:.3f}' for one in pretrained)} pre-trained",
        not_comparable=reason,
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
