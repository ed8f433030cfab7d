"""Ask a policy about stored outputs: at which exit each sample stops, and what it is told there.

What a rule compares is shared by all rules (`Scores`), so that one more setting costs little; a rule that is not known
here is asked exit by exit, piece by piece. Both decide as `eelit.methods.engine.evaluate.replay` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.own.scores import Scores
from eelit.methods.policies.activation import Activation
from eelit.methods.policies.base import ANSWER, Policy, Routing, finite
from eelit.methods.policies.class_exclusion import ClassExclusion
from eelit.methods.policies.class_thresholds import ClassThresholds
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.fixed_exit import FixedExit, MeanSoFar
from eelit.methods.policies.flexible_patience import FlexiblePatience
from eelit.methods.policies.margin import Margin
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence
from eelit.methods.policies.predicted_class import PredictedClass
from eelit.methods.policies.raw_margin import RawMargin
from eelit.methods.policies.sole_class import SoleClass
from eelit.methods.policies.surest import Surest
from eelit.methods.policies.temperature import Tempered
from eelit.methods.policies.voting import Voting

Flags = NDArray[np.bool_]
Array = NDArray[Any]


@dataclass(frozen=True)
class Decided:
    """Where each sample stops ``[N]``, from 0, and what that is worth ``[N]`` (see `Scores.gain`)."""

    exits: NDArray[np.int16]
    gain: NDArray[Any]


def decide(policy: Policy, scores: Scores, enabled: Sequence[int] | None = None) -> Decided:
    """Return where a policy stops each sample, at the ``enabled`` exits alone if they are named.

    Raises `ValueError` for a policy that names the exit to ask next: what passing over a head saves is not known here.
    """
    stop = stops(policy, scores)
    if enabled is not None:
        stop = stop & np.isin(np.arange(len(stop)), np.asarray(enabled))[:, None]
    exits = exits_of(stop)
    answered = ANSWERS.get(type(policy))
    if answered is not None:
        return Decided(exits, scores.worth(answered(policy, scores, exits)))
    return Decided(exits, scores.gain[exits, np.arange(len(exits))])


def exits_of(stop: Flags) -> NDArray[np.int16]:
    """Return the first exit ``[N]`` at which each sample stops, given who would where ``[E - 1, N]``, else the last."""
    if not len(stop):
        return np.zeros(stop.shape[1], dtype=np.int16)
    return np.where(stop.any(axis=0), stop.argmax(axis=0), len(stop)).astype(np.int16)


def stops(policy: Policy, scores: Scores) -> Flags:
    """Return at which exits ``[E - 1, N]`` a policy would stop each sample, everybody going on all the same."""
    known = STOPS.get(type(policy))
    with np.errstate(invalid="ignore"):
        found = known(policy, scores) if known is not None else None
    if found is None:
        found = _asked(policy, scores)
    return found & scores.usable[:-1]


def _wide(scores: Array) -> Array:
    return scores[:-1].astype(np.float64)


def _limits(threshold: Any, scores: Array) -> Any:
    """Return a threshold as it is compared with scores ``[E - 1, N]``: one for all, or one per exit."""
    if not isinstance(threshold, tuple):
        return threshold
    if len(threshold) < len(scores):
        raise ValueError(f"the policy has thresholds for {len(threshold)} exits, and is asked at {len(scores)}")
    return np.asarray(threshold[: len(scores)], dtype=np.float64)[:, None]


def _confidence(policy: Any, scores: Scores) -> Flags:
    found = _wide(scores.confidence)
    return np.asarray(found >= _limits(policy.threshold, found))


def _entropy(policy: Any, scores: Scores) -> Flags:
    found = _wide(scores.entropy)
    return np.asarray(found < _limits(policy.threshold, found))


def _margin(policy: Any, scores: Scores) -> Flags:
    found = _wide(scores.confidence - scores.runner_up)
    return np.asarray(found >= _limits(policy.threshold, found))


def _raw_margin(policy: Any, scores: Scores) -> Flags:
    found = _wide(scores.first - scores.second)
    limit = _limits(policy.threshold, found)
    return np.asarray((found >= limit) & (limit < math.inf))


def _activation(policy: Any, scores: Scores) -> Flags:
    found = _wide(scores.first)
    return np.asarray(found > _limits(policy.threshold, found))


def _sole_class(policy: Any, scores: Scores) -> Flags:
    with np.errstate(over="ignore"):
        best, next_ = (_wide(1 / (1 + np.exp(-part))) for part in (scores.first, scores.second))
    limit = _limits(policy.threshold, best)
    return np.asarray((best >= limit) & ~(next_ >= limit))


def _class_thresholds(policy: Any, scores: Scores) -> Flags:
    if scores.logits.classes != 2:
        raise ValueError("ClassThresholds needs logits of two classes")
    best, other, likely = _wide(scores.confidence), _wide(scores.runner_up), scores.predicted[:-1]
    positive = np.where(likely == 1, best, other)
    negative = np.where(likely == 1, other, best)
    return np.asarray((positive > policy.positive) | (negative > policy.negative))


def _predicted_class(policy: Any, scores: Scores) -> Flags:
    best = scores.confidence
    found = _wide(best if policy.score == "max probability" else best - scores.runner_up)
    table = np.asarray(policy.thresholds, dtype=np.float64)
    return np.asarray(found > np.stack([table[e][scores.predicted[e]] for e in range(len(found))]))


def _counted(equal: Flags, first: int) -> Array:
    """Return how many times in a row something held up to each exit ``[E, N]``; ``first`` counts at exit 0 already."""
    count = np.zeros(equal.shape, dtype=np.int64)
    for e in range(len(equal)):
        before = count[e - 1] if e else 0
        count[e] = np.where(equal[e], before + 1, 0) if e or first else 0
    return count


def _patience(policy: Any, scores: Scores) -> Flags:
    answers, known = scores.predicted, scores.usable
    equal = np.zeros(answers.shape, dtype=np.bool_)
    if policy.tolerance is None:
        equal[1:] = (answers[1:] == answers[:-1]) & known[1:]
    else:
        with np.errstate(over="ignore"):
            equal[1:] = (np.abs(np.diff(answers, axis=0)) < policy.tolerance) & known[1:]
    return np.asarray(_counted(equal, 0)[:-1] >= policy.patience)


def _flexible_patience(policy: Any, scores: Scores) -> Flags | None:
    if policy.distance != "kl":
        return None
    close = scores.distance.astype(np.float64) < policy.threshold
    return np.asarray(_counted(close, 0)[:-1] >= policy.patience)


def _patient_confidence(policy: Any, scores: Scores) -> Flags:
    sure = (scores.entropy / math.log(scores.logits.classes)).astype(np.float64) < policy.uncertainty
    return np.asarray(_counted(sure, 1)[:-1] >= policy.patience)


def _fixed(policy: Any, scores: Scores) -> Flags:
    early = np.arange(scores.logits.exits - 1)[:, None] >= policy.exit
    return np.broadcast_to(early, scores.usable[:-1].shape)


def _excluding(policy: Any, scores: Scores) -> Flags | None:
    limit = _sole_limit(policy, scores)
    return None if limit is None else np.asarray(scores.excluded[:-1] <= limit)


def _sole_limit(policy: Any, scores: Scores) -> float | None:
    """Return the logarithm of ``beta`` if it is the same at all exits but the last."""
    beta = policy.beta
    if len(beta) != max(1, scores.logits.exits - 1) or len(set(beta)) != 1:
        return None
    return math.log(beta[0]) if beta[0] > 0 else -math.inf


def _voting(policy: Any, scores: Scores) -> Flags:
    most = leading_votes(scores)[0][:-1].astype(scores.confidence.dtype).astype(np.float64)
    depth = np.arange(1, len(most) + 1, dtype=np.float64)[:, None]
    return np.asarray(most / depth**policy.power >= policy.votes)


def leading_votes(scores: Scores) -> tuple[Array, Array]:
    """Return the votes of the leading class after each exit ``[E, N]``, and that class at the last exit ``[N]``."""
    votes = scores.predicted
    most, best = np.zeros(votes.shape, dtype=np.int32), np.full(votes.shape[1], -1, dtype=np.int32)
    for e in range(len(votes)):
        own = (votes[: e + 1] == votes[e]).sum(axis=0) * (votes[e] >= 0)
        most[e] = np.maximum(most[e - 1], own) if e else own
        best = np.where((own >= most[e]) & (own > 0), votes[e], best)  # of equals the one voted for last
    return most, best


def _tempered(policy: Any, scores: Scores) -> Flags:
    told = policy.temperatures
    each = told if isinstance(told, tuple) else (told,) * scores.logits.exits
    each = (*each, *(1.0,) * (scores.logits.exits - len(each)))
    return stops(policy.policy, scores.tempered(each))


STOPS: dict[type, Callable[[Any, Scores], Flags | None]] = {
    MaxConfidence: _confidence, Surest: _confidence, Entropy: _entropy, Margin: _margin, RawMargin: _raw_margin,
    Activation: _activation, SoleClass: _sole_class, ClassThresholds: _class_thresholds, Patience: _patience,
    PredictedClass: _predicted_class, FlexiblePatience: _flexible_patience, PatientConfidence: _patient_confidence,
    FixedExit: _fixed, MeanSoFar: _fixed, ClassExclusion: _excluding, Voting: _voting, Tempered: _tempered,
}  # fmt: skip
"""Kind of policy → who would stop where, from the scores; None if it must be asked after all."""


def _surest(policy: Any, scores: Scores, exits: Array) -> Array:
    known = np.where(np.isnan(scores.confidence), -np.inf, scores.confidence)
    best = scores.predicted[known.argmax(axis=0), np.arange(len(exits))]
    return _at_last(scores, exits, best)


def _voted(policy: Any, scores: Scores, exits: Array) -> Array:
    return _at_last(scores, exits, leading_votes(scores)[1])


def _averaged(policy: Any, scores: Scores, exits: Array) -> Array:
    return np.asarray(scores.together[exits, np.arange(len(exits))])


def _not_excluded(policy: Any, scores: Scores, exits: Array) -> Array:
    limit = _sole_limit(policy, scores)
    if limit is None:
        raise ValueError("ClassExclusion is asked with one beta for all exits but the last")
    return _at_last(scores, exits, scores.left_by_exclusion(limit))


def _at_last(scores: Scores, exits: Array, last: Array) -> Array:
    """Return the answer ``[N]`` of the exit where a sample stops, but ``last`` at the last exit."""
    own = scores.predicted[exits, np.arange(len(exits))]
    return np.where(exits == scores.logits.exits - 1, last, own)


ANSWERS: dict[type, Callable[[Any, Scores, Array], Array]] = {
    Surest: _surest, Voting: _voted, MeanSoFar: _averaged, ClassExclusion: _not_excluded,
}  # fmt: skip
"""Kind of policy that makes the answer from several exits → the classes ``[N]`` that it answers."""


def _asked(policy: Policy, scores: Scores) -> Flags:
    """Ask a policy exit by exit, about one piece of the samples after the other."""
    if isinstance(policy, Routing):
        raise ValueError(
            f"{type(policy).__name__} names the exit to ask next, and what passing over a head saves is not known here"
        )
    data = scores.logits
    found = np.zeros((data.exits - 1, data.samples), dtype=np.bool_)

    def work(start: int, stop: int) -> None:
        state = policy.start()
        for e in range(data.exits - 1):
            z = scores.logits_at(e, start, stop)
            output = (
                {ANSWER: z, **{name: part[e, start:stop] for name, part in data.extra.items()}} if data.extra else z
            )
            state, out = policy.step(state, output)
            found[e, start:stop] = out & finite(z)

    scores.in_pieces(work)
    return found
