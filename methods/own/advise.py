"""Is early exit worth it for this network? Figures from what its exits said, and a verdict with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eelit.methods.own.curves import ROOM, Floats, Setting, costs_under, halves, mean_of, static, tried
from eelit.methods.own.given import Given, scores_of, unfit
from eelit.methods.own.logits import Logits, standard_error
from eelit.methods.own.rules import MOST, suited
from eelit.methods.own.scores import Scores
from eelit.methods.policies.temperature import expected_error

Verdict = Literal[
    "worth it",
    "worth it at a small loss",
    "cut the network off",
    "not worth it",
    "too few samples to tell",
    "no verdict",
]
Progress = Callable[[str, float | None], None]
WORTH = 0.1
"""Share of the cost that must be saved without loss for a policy to be worth its trouble."""
LITTLE = 0.05
"""Headroom below which nothing can be worth it."""
DROP = 0.01
"""Quality that counts as a small loss."""
WORTH_A_LOSS = 0.2
"""Share of the cost that must be saved for a small loss to be worth it."""
NONE_SEEN = 3.0
"""Divided by n, the share of samples (or groups) that may be lost (at 95 %) although none of n was."""
UNKNOWN = 0.02
"""Standard error of a drop above which nothing is said."""
BATCHES = (1, 8, 32, 128)


@dataclass(frozen=True)
class ExitSays:
    """One exit by itself."""

    share: float  # cost, a share of the full model's
    quality: float
    calibration_error: float | None
    head_share: float | None  # cost of its head, if known


@dataclass(frozen=True)
class Saving:
    """What a setting that follows from the choosing half saves and loses on the other."""

    rule: str
    share: float  # of the full cost, saved
    drop: float
    drop_error: float
    bound: float  # what may be lost at most: the drop and two standard errors, 3 / n at least
    batches: dict[int, float]  # share saved where a batch waits for its last sample


@dataclass(frozen=True)
class Advice:
    """What `advise` found."""

    name: str
    samples: int
    groups: int | None  # of samples that belong together, as the data say; None: samples are independent of each other
    not_finite: int  # samples of which some exit said what is not finite
    as_read: str  # what the array was taken for, in a sentence
    unit: str
    quality_is: str
    full_quality: float
    exits: list[ExitSays]
    oracle_quality: float  # of whoever knows at which exit a sample is answered best
    oracle_saves: float  # leaving at the first exit that is no worse than the last
    overthinking: float | None  # share that an earlier exit has right and the last wrong; None for values
    heads_share: float | None  # what all heads but the last cost, if known
    static_saves: float  # by the earliest single exit that is no worse than the last on the choosing half
    static_drop: float
    static_error: float  # the standard error of this drop
    lossless: Saving | None  # the cheapest setting that lost nothing on the choosing half; it may lose on the other
    small_loss: Saving | None  # the boldest whose loss is at most `DROP` with room for error, tested on the other half
    verdict: Verdict
    reason: str

    @property
    def worth_it(self) -> bool:
        """Whether a policy that looks at the samples is worth it."""
        return self.verdict.startswith("worth it")


def advise(
    data: Given,
    *,
    seed: int = 0,
    settings: int = MOST,
    progress: Progress = lambda message, share: None,
) -> Advice:
    """Return whether early exit is worth it, and why.

    Args:
        data: what the exits said, or the file that holds it; without labels the last exit's answer stands for the
            truth.
        seed: by which the samples are halved, those of a group together: what is chosen on one half is told on the
            other.
        settings: how many settings of each policy are tried at most.
        progress: told what is tried, and which share is done.

    Standard errors take the samples as independent of each other, unless the data say which belong together
    (`Logits.groups`): then groups are taken as independent.
    Raises `WrongLogits` for too few samples, or outputs from which nothing can be told.

    Exits that know nothing before the last leave nothing to save:

    >>> from eelit.methods.own.logits import Logits
    >>> labels = np.arange(200) % 4
    >>> blind = np.random.default_rng(0).normal(size=(2, 200, 4))
    >>> found = advise(Logits(np.concatenate([blind, 9 * np.eye(4)[labels][None]]), labels), settings=5)
    >>> found.verdict, found.worth_it, found.full_quality
    ('not worth it', False, 1.0)
    """
    scores = scores_of(data)
    data = scores.logits
    parts = halves(data, seed)
    told, found = parts.telling, list[Setting]()
    rules = [rule for rule in suited(data) if rule.name not in ("static", "mean-so-far")]
    for number, rule in enumerate(rules):
        progress(f"trying {settings} settings of each of {len(rules)} policies", number / len(rules))
        found += tried(rule, scores, parts.choosing, settings, disable=True)
    gain = scores.gain[:, told].astype(np.float64)
    saves, loss, error = _cut_off(scores, parts)
    tested, undecided = _tested(scores, found, parts)
    facts: dict[str, Any] = {
        "name": data.name,
        "samples": data.samples,
        "groups": None if data.groups is None else len(np.unique(data.groups)),
        "not_finite": scores.not_finite,
        "as_read": data.as_read,
        "unit": data.unit,
        "quality_is": scores.quality_is,
        "full_quality": float(gain[-1].mean()),
        "exits": _exits(scores, told),
        "oracle_quality": float(gain.max(axis=0).mean()),
        "oracle_saves": _oracle_saves(scores, told),
        "overthinking": _overthinking(scores, told),
        "heads_share": None if data.plain_costs is None else float(data.costs[-1].mean()) / data.full_cost - 1,
        "static_saves": saves,
        "static_drop": loss,
        "static_error": error,
        "lossless": _lossless(scores, found, parts),
        "small_loss": tested,
    }
    verdict, reason = _verdict(facts, undecided, unfit(scores))
    return Advice(**facts, verdict=verdict, reason=reason)


def _exits(scores: Scores, rows: Any) -> list[ExitSays]:
    data = scores.logits
    shares = (data.costs if data.costs.ndim == 1 else data.costs[:, rows].mean(axis=1)) / data.full_cost
    heads: Floats | None = None
    if data.plain_costs is not None and data.costs.ndim == 1:
        heads = np.append(np.diff(data.costs - data.plain_costs), np.nan) / data.full_cost
    return [
        ExitSays(
            share=float(shares[e]),
            quality=mean_of(scores.gain[e], rows),
            calibration_error=None
            if data.kind == "values"
            else float(expected_error(scores.confidence[e][rows], scores.gain[e][rows] > 0)),
            head_share=None if heads is None or math.isnan(heads[e]) else float(heads[e]),
        )
        for e in range(data.exits)
    ]


def _oracle_saves(scores: Scores, rows: Any) -> float:
    """Return what leaving at the first exit that is no worse than the last saves; nothing is lost by it."""
    data = scores.logits
    first = (scores.gain >= scores.gain[-1] - 1e-12).argmax(axis=0)
    spent = data.costs[first] if data.costs.ndim == 1 else data.costs[first, np.arange(data.samples)]
    return 1 - mean_of(spent, rows) / data.full_cost


def _overthinking(scores: Scores, rows: Any) -> float | None:
    if scores.logits.kind == "values":
        return None
    right = scores.gain[:, rows] > 0
    return float((right[:-1].any(axis=0) & ~right[-1]).mean())


def _cut_off(scores: Scores, parts: Any) -> tuple[float, float, float]:
    """Return what the earliest single exit that is as good as the last on one half saves, and loses on the other.

    As good is what lies within one standard error of the difference.
    """
    theirs = static(scores, parts.telling)
    lost = (scores.gain[-1] - scores.gain)[:, parts.choosing].astype(np.float64)
    ours, other = (_groups(scores.logits, rows) for rows in (parts.choosing, parts.telling))
    e = next(i for i, row in enumerate(lost) if row.mean() <= standard_error(row, ours) + 1e-9)
    told = (scores.gain[-1] - scores.gain[e])[parts.telling].astype(np.float64)
    return 1 - theirs[e][0], float(told.mean()), standard_error(told, other)


def _groups(data: Logits, rows: Any) -> Any:
    return None if data.groups is None else data.groups[rows]


def _lossless(scores: Scores, found: list[Setting], parts: Any) -> Saving | None:
    """Return what the cheapest setting comes to that loses nothing on the choosing half."""
    rows = parts.choosing
    qualities = np.array([mean_of(setting.decided.gain, rows) for setting in found])
    good = np.flatnonzero(qualities >= mean_of(scores.gain[-1], rows) - 1e-9)
    if not len(good):
        return None
    costs = np.array([mean_of(costs_under(scores.logits, found[i]), rows) for i in good])
    return _saving(scores, found[int(good[np.lexsort((-qualities[good], costs))[0]])], parts)


def _tested(scores: Scores, found: list[Setting], parts: Any) -> tuple[Saving | None, Saving | None]:
    """Return the boldest setting that surely loses at most `DROP`, and the safest that saves much and may do so.

    The order follows from the choosing half: those that save most for what they lose, the safest first. On the other
    half they are tested in this order until one may lose more, so that none passes for looking best among hundreds.
    """
    data, rows = scores.logits, parts.choosing
    judged = sorted(
        (
            mean_of(np.maximum(scores.gain[-1] - setting.decided.gain, 0), rows),
            mean_of(costs_under(data, setting), rows) / data.full_cost,
            i,
        )
        for i, setting in enumerate(found)
    )
    least, passed, undecided, failed = 1 - WORTH + 1e-9, None, None, False
    for _, cost, i in judged:
        if cost >= least:
            continue
        least, saving = cost, _saving(scores, found[i], parts)
        failed = failed or saving.bound > DROP
        passed = passed if failed else saving
        if failed and saving.share >= WORTH_A_LOSS:
            undecided = saving if saving.drop - ROOM * saving.drop_error <= DROP else None
            break
    return passed, undecided


def _saving(scores: Scores, setting: Setting, parts: Any) -> Saving:
    """Return what a setting saves and loses on the half to tell on."""
    rows = parts.telling
    lost = (scores.gain[-1] - setting.decided.gain)[rows].astype(np.float64)
    groups = _groups(scores.logits, rows)
    drop, error = float(lost.mean()), standard_error(lost, groups)
    independent = len(rows) if groups is None else len(np.unique(groups))
    least = 0.0 if scores.logits.kind == "values" else NONE_SEEN / independent
    return Saving(
        rule=setting.rule,
        share=1 - mean_of(costs_under(scores.logits, setting), rows) / scores.logits.full_cost,
        drop=drop,
        drop_error=error,
        bound=max(drop + ROOM * error, least),
        batches={batch: _waiting(scores, setting, rows, batch) for batch in BATCHES},
    )


def _waiting(scores: Scores, setting: Setting, rows: Any, batch: int) -> float:
    """Return the share saved where a batch of random samples runs until its last one leaves.

    The last of a batch leaves at exit e or before with probability ``F(e) ** batch``.
    """
    data = scores.logits
    left = np.bincount(setting.decided.exits[rows], minlength=data.exits) / len(rows)
    last = np.diff(np.minimum(np.cumsum(left), 1.0) ** batch, prepend=0.0)
    costs = data.costs if data.costs.ndim == 1 else data.costs[:, rows].mean(axis=1)
    return 1 - float(last @ costs) / data.full_cost


def _verdict(facts: dict[str, Any], undecided: Saving | None, unusable: str) -> tuple[Verdict, str]:
    """Return the verdict and its reason, from figures on the half to tell on."""
    if unusable:
        return "no verdict", unusable
    free: Saving | None = facts["lossless"]
    cheap: Saving | None = facts["small_loss"]
    what = facts["quality_is"]
    if facts["oracle_saves"] < LITTLE:
        return "not worth it", (
            "even whoever knew at which exit a sample is answered rightly would save "
            f"{_some(facts['oracle_saves'])} of the "
            "cost: the early exits are too weak, or their heads too expensive"
        )
    unknown = max(facts["static_error"], 0.0 if free is None else free.drop_error)
    if unknown > UNKNOWN:
        return "too few samples to tell", (
            f"what is lost of {what} by leaving early is known to ± {unknown:.3f} only, on {_counted(facts)}, "
            "half of which are there to choose on; collect more"
        )
    as_good = facts["static_drop"] <= 2 * facts["static_error"] + 1e-9
    if free is not None and as_good and facts["static_saves"] >= max(WORTH, free.share - 0.02):
        return "cut the network off", (
            f"one exit for all samples saves {facts['static_saves']:.1%} at a drop in {what} of "
            f"{facts['static_drop']:.4f} ± {facts['static_error']:.4f}, and the best policy that looks at the samples "
            f"and lost nothing on the half to choose on saves no more than {free.share:.1%}: use the network up to "
            "that exit, without the others"
        )
    told = _of_policies(free, cheap, undecided, what)
    if told is not None:
        return told
    return "not worth it", (
        f"{_too_little(cheap, what)}, though whoever knew the truth would save {facts['oracle_saves']:.1%}: the "
        "exits do not know when they are right"
    )


def _of_policies(
    free: Saving | None, cheap: Saving | None, undecided: Saving | None, what: str
) -> tuple[Verdict, str] | None:
    """Return the verdict that rests on what a policy surely saves, or may save; None if none does."""
    sure = [saving for saving in (free, cheap) if saving is not None and saving.bound <= DROP + 1e-9]
    lossless = [saving for saving in sure if saving.share >= WORTH and saving.drop <= saving.drop_error + 1e-9]
    if lossless:
        best = max(lossless, key=lambda saving: saving.share)
        return "worth it", (
            f"`{best.rule}` saves {best.share:.1%} of the cost; its drop in {what}, {_drop(best)}, is within one "
            f"standard error of none and, with two, at most {best.bound:.4f}{_batched(best)}"
        )
    bold = [saving for saving in sure if saving.share >= WORTH_A_LOSS]
    if bold:
        best = max(bold, key=lambda saving: saving.share)
        return "worth it at a small loss", (
            f"`{best.rule}` saves {best.share:.1%} of the cost at a drop in {what} of {_drop(best)}: with two standard "
            f"errors, at most {best.bound:.4f}{_batched(best)}"
        )
    if undecided is not None:
        return "too few samples to tell", (
            f"`{undecided.rule}` saves {undecided.share:.1%} of the cost, but its drop in {what}, {_drop(undecided)} "
            f"on the half to tell on, may be above or below the {DROP:g} that is allowed; collect more"
        )
    return None


def _too_little(cheap: Saving | None, what: str) -> str:
    """Return what the policies do, where none of them is worth it."""
    within = f"within a drop in {what} of {DROP:g} (two standard errors included)"
    if cheap is None:
        return f"no policy is known to save {WORTH:.0%} of the cost {within}"
    return f"no policy is known to save more than {_some(cheap.share)} of the cost {within}"


def _drop(saving: Saving) -> str:
    return f"{saving.drop:.4f} ± {saving.drop_error:.4f}"


def _batched(saving: Saving) -> str:
    if saving.batches[8] >= WORTH:
        return ""
    return (
        f"; but in batches of 8 that wait for their last sample {_some(saving.batches[8])} is saved, so it needs "
        "batches that shrink, or one sample at a time"
    )


def _counted(facts: dict[str, Any]) -> str:
    if facts["groups"] is None:
        return f"{facts['samples']} samples"
    return f"{facts['groups']} groups of samples"


def _some(share: float) -> str:
    return f"{share:.1%}" if share > 0 else "nothing"
