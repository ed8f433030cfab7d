"""What early-exit ASR claims: exits trained together help the full depth, and transcripts tell better when to stop.

Error rates are compared on the same test utterances, with the standard error of their difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.claims.comparisons import points_of
from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.claims.paired import GAINS, KEEPS, gains_of_mixtures, mean_gain, over_samples, told
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome, Samples
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.wright2024asr import (
    EarlyExitAsr,
    SentenceConfidence,
    edits,
    letters_of,
    word_error_rate,
)

SCRATCH: Mapping[str, Any] = {"encoder": "conformer", "reduction": 2}
"""What makes of the method an ordinary conformer whose every weight is new."""
LONGER = 2
"""Times as many passes over the data, since there is more to learn."""
HALF = 0.5
"""CER above which a conformer has not learnt to read, so that nothing follows from how its exits compare."""
GAIN = 0.01
"""Least difference in CER that counts as better."""
LOSS = 0.02
"""CER that may be lost where nothing is to be lost, two standard errors of the paired difference included."""
Floats = NDArray[np.float64]


def claims(method: EarlyExitAsr, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them; what does not depend on the rule is tried once, under sentence confidence."""
    ours = by_exit(prepared)
    if not isinstance(method, SentenceConfidence):
        return [saved(method, prepared, curve, ours)]
    frames, scratch = of_frames(method), from_scratch(method)
    joint = by_exit(scratch.prepare(bench))
    pretrained = by_exit(by_best_path(frames).prepare(bench))
    thresholds = Baseline(name=method.key, validation=curve.validation[1:-1], test=curve.test[1:-1])
    rival, seen = frames.prepare(bench), prepared.split("test")
    return [
        deeper_reads_better(ours, [word_error_rate(said, seen.targets) for said in seen.answers]),
        saved(method, prepared, curve, ours),
        beside_scratch(joint, pretrained),
        beside_last_alone(joint, alone(scratch, bench, groups=method.groups)),
        beside_shallow(joint, alone(scratch, bench, groups=1)),
        beside_entropy(
            worth_at(thresholds, method, prepared), worth_at(points_of(frames, rival, bench), frames, rival)
        ),
    ]


def from_scratch(method: SentenceConfidence) -> EarlyExitAsr:
    """Return a conformer with as many exits, for the same utterances, read by the best path."""
    return dataclasses.replace(by_best_path(of_frames(method)), **SCRATCH, epochs=LONGER * method.epochs)


def by_best_path(method: EarlyExitAsr) -> EarlyExitAsr:
    """Return the same method read without a search, which takes long where nothing is certain."""
    return dataclasses.replace(method, hypotheses=0)


def worth(said: Tensor, targets: Tensor) -> Floats:
    """Return what each transcript ``[N]`` is worth: its edits per letter of a mean one, taken from 1.

    Their mean is the 1 - CER of all letters together.
    """
    meant = letters_of(targets)
    wrong = np.array([*map(edits, letters_of(said), meant)], dtype=np.float64)
    return 1 - wrong / np.mean([*map(len, meant)])


def by_exit(prepared: Prepared) -> Floats:
    """Return what each test utterance is worth at each exit, ``[E, N]``."""
    seen = prepared.split("test")
    return np.stack([worth(said, seen.targets) for said in seen.answers])


def at_knob(method: EarlyExitAsr, prepared: Prepared, knob: float, each: Floats) -> Floats:
    """Return what each test utterance ``[N]`` is worth at a knob, from its worth at each exit."""
    exits = replay(method.rule(knob, prepared), prepared.split("test").outputs)
    found: Floats = each[exits, np.arange(each.shape[1])]
    return found


def worth_at(points: Baseline, method: EarlyExitAsr, prepared: Prepared) -> Baseline:
    """Return settings of a rule with what each test utterance is worth at them."""
    each = by_exit(prepared)
    test = [
        point.model_copy(update={"samples": Samples(quality=at_knob(method, prepared, point.knob, each))})
        for point in points.test
    ]
    return points.model_copy(update={"test": test})


def rates(each: Floats) -> str:
    """Say the CER of each exit."""
    return ", ".join(f"{1 - row.mean():.3f}" for row in each)


def unread(*each: Floats) -> str:
    """Return why conformers of which the best reads so much tell nothing, or nothing if it reads well enough."""
    least = 1 - max(float(row.mean()) for row in each)
    if least <= HALF:
        return ""
    return f"With so little speech the conformer does not learn to read: {least:.0%} of its letters are wrong."


def of_frames(method: SentenceConfidence) -> EarlyExitAsr:
    """Return the same method with the rule that looks at frames; the training is the same one."""
    return EarlyExitAsr(**{field.name: getattr(method, field.name) for field in dataclasses.fields(EarlyExitAsr)})


def alone(conformer: EarlyExitAsr, bench: Bench, *, groups: int) -> Floats:
    """Return what a conformer of so many groups, trained for as long with its last head alone, reads, ``[N]``."""
    found: Floats = by_exit(dataclasses.replace(conformer, groups=groups, joint=False).prepare(bench))[-1]
    return found


def deeper_reads_better(each: Floats, by_word: list[float]) -> Outcome:
    """What depth is worth, from the worth of each utterance and the WER at each exit."""
    whole, steps = over_samples(each[-1], each[0]), [over_samples(b, a) for a, b in pairwise(each)]
    return Outcome(
        name="deeper exits read better",
        statement=f"The last exit's character error rate on test data is at least five points below the first one's, "
        f"{GAINS}; and no exit's is more than a point above that of the one before, {KEEPS}.",
        holds=whole.gains(0.05) and all(step.keeps(0.01) for step in steps),
        measured=f"CER {rates(each)} of the exits ({whole} letters right from the first to the last), "
        f"WER {', '.join(f'{one:.3f}' for one in by_word)}",
    )


def saved(method: EarlyExitAsr, prepared: Prepared, curve: Curve, each: Floats) -> Outcome:
    """The cheapest threshold at which little is lost, from what utterances are worth at each exit."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    kept, share = over_samples(at_knob(method, prepared, point.knob, each), each[-1]), 1 / point.speed_up
    return Outcome(
        name="cheaper at nearly the same error rate",
        statement="The cheapest threshold that raises the error rate by at most a point on validation data saves a "
        f"tenth of the computation on test data and raises it by at most two points there, {KEEPS}.",
        holds=share <= 0.9 and kept.keeps(LOSS),
        measured=f"{share:.0%} of the full cost, 1 - CER {kept}, at theta = {point.knob:g}",
        not_comparable=nothing_to_lose(curve, LOSS, over_samples(each[-1], each[0])),
    )


def beside_last_alone(ours: Floats, theirs: Floats) -> Outcome:
    """The last of our exits ``[E, N]``, with and without the others in training."""
    reason, gain = unread(ours[-1], theirs), over_samples(ours[-1], theirs)
    return Outcome(
        name="other exits help the full depth",
        statement="The last exit's character error rate on test data, of a conformer trained from scratch with all "
        "exits, is at least a point lower than that of the same conformer trained with the last head alone, on the "
        f"same data with the same settings, {GAINS}.",
        holds=not reason and gain.gains(GAIN),
        measured=f"CER {1 - ours[-1].mean():.4f} instead of {1 - theirs.mean():.4f} (1 - CER {gain})",
        not_comparable=reason,
    )


def beside_shallow(joint: Floats, theirs: Floats) -> Outcome:
    """The first of the exits ``[E, N]`` beside a network that ends there."""
    ours, reason = joint[0], unread(*joint, theirs)
    gain = over_samples(theirs, ours)
    return Outcome(
        name="the first exit pays for it",
        statement="A conformer that ends behind the first group, trained by itself on the same data with the same "
        f"settings, has a character error rate on test data at least a point below the first exit's, {GAINS}.",
        holds=not reason and gain.gains(GAIN),
        measured=f"CER {1 - theirs.mean():.4f} by itself, {1 - ours.mean():.4f} at the first exit (1 - CER {gain})",
        not_comparable=reason,
    )


def beside_scratch(scratch: Floats, pretrained: Floats) -> Outcome:
    """Low exits of an encoder from scratch and of one that others pre-trained, ``[E, N]`` each."""
    reason = unread(*scratch)
    gains = [over_samples(a, b) for a, b in zip(scratch[:-1], pretrained[:-1], strict=True)]
    return Outcome(
        name="low exits are better from scratch",
        statement="At each exit but the last a small conformer trained from scratch with all exits has a character "
        f"error rate on test data at least a point below that of the pre-trained encoder's exit, {GAINS}.",
        holds=not reason and all(gain.gains(GAIN) for gain in gains),
        measured=f"CER {rates(scratch)} from scratch, {rates(pretrained)} pre-trained (1 - CER "
        f"{', '.join(map(str, gains))})",
        not_comparable=reason,
    )


def beside_entropy(ours: Baseline, theirs: Baseline) -> Outcome:
    """The two rules on the same network."""
    found = gains_of_mixtures(ours, theirs)
    return Outcome(
        name="better than the entropy of frames",
        statement="On the mean over the costs of thresholds of entropy, at no more than each of them and with settings "
        "of either rule, or mixtures of two, chosen on validation data, the character error rate on test data is half "
        f"a point lower than with these, {GAINS}.",
        holds=mean_gain(found).gains(0.005),
        measured=f"1 - CER {told(found)}",
    )
