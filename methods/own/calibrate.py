"""Choose a policy and its setting for a goal, with a promise: what it costs, or what leaving early may lose.

Settings follow from one half of the samples (rules that must be fitted, and the order of candidates); what is promised
is tested, and what is told is measured, on the other half, on which nothing was chosen before. For a proved promise the
setting is the boldest that the test accepts, so its figures there lean a little to the good side; the promise does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.own.curves import ROOM, Flags, Floats, Halves, Setting, costs_under, halves, mean_of, mixture, tried
from eelit.methods.own.decide import decide
from eelit.methods.own.given import Given, scores_of, unfit
from eelit.methods.own.guarantees import (
    by_group,
    controlled,
    least_risk,
    least_samples,
    p_value_of,
    proved,
    rejecting,
)
from eelit.methods.own.logits import Logits, WrongLogits, standard_error
from eelit.methods.own.rules import MOST, Rows, suited
from eelit.methods.own.saved import SavedRule
from eelit.methods.own.scores import Scores
from eelit.methods.own.settings import settings_of
from eelit.methods.policies.learn_then_test import PValue

AUTO = "auto"
LOSSES = ("drop", "error")
"""What may be lost: that the full model is right and the rule wrong (of values: how much less), or that it is wrong."""
SURER_THAN_ANY = 2.0
"""A confidence that no exit has."""
NONE = 1e-9
"""What a sum may be above another by rounding."""
HARDLY_ANY = 1e-6
"""Share of the samples below which a mixture is one setting, since it is a matter of rounding."""
Progress = Callable[[str, float | None], None]


class CannotPromise(ValueError):
    """What is asked for cannot be promised on these samples; the message says what could be."""


@dataclass
class Task:
    """What is calibrated on: scores, halves, and every setting of every policy that may be taken."""

    scores: Scores
    parts: Halves
    found: list[Setting]
    loss: str

    def costs(self, setting: Setting) -> Floats:
        """Return cost shares ``[N]``."""
        return costs_under(self.scores.logits, setting) / self.scores.logits.full_cost

    def losses(self, setting: Setting) -> NDArray[Any]:
        """Return what a setting loses on each sample ``[N]``, from 0 to 1."""
        if self.loss == "error":
            return 1 - setting.decided.gain
        return np.maximum(self.scores.gain[-1] - setting.decided.gain, 0)

    def told(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return values ``[..., N]`` of the half to tell on, those of a group as their mean."""
        return self._of(values, self.parts.telling)

    def chosen(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return values ``[..., N]`` of the half to choose on, those of a group as their mean."""
        return self._of(values, self.parts.choosing)

    def _of(self, values: NDArray[Any], rows: Rows) -> NDArray[np.float64]:
        groups = self.scores.logits.groups
        return by_group(values[..., rows], None if groups is None else groups[rows])


def calibrate(
    data: Given,
    policy: str = AUTO,
    *,
    budget: float | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    risk: float | None = None,
    delta: float | None = None,
    mean_risk: float | None = None,
    reject: float | None = None,
    loss: str = "drop",
    correction: str = "fixed-sequence",
    seed: int = 0,
    settings: int = MOST,
    progress: Progress = lambda message, share: None,
) -> SavedRule:
    """Return the rule that serves one goal best, of the named policy or of all.

    Args:
        data: what the exits said, or the file that holds it.
        policy: a name in `rules.RULES`, or ``"auto"`` for whichever is best on the choosing half.
        budget: the mean cost, a share of the full model's: the best quality within it.
        max_drop: the quality that may be lost against the full model: the cheapest setting within it. With
            ``confidence`` that holds with this probability; else the loss that is measured on the choosing half, and
            two standard errors, are within it, since the cheapest of hundreds looks better than it is.
        risk: with ``delta``: the expected `loss` is at most this, but for a probability delta (Learn then Test).
        mean_risk: the expected loss is at most this on average over samples to calibrate on (conformal risk control).
        reject: at most this share of samples gets no answer, at the least cost. Of those that do, no fewer are right
            than with the full model that refuses as many: on the choosing half, two standard errors included.
        loss: ``"drop"`` (the full model is right and the rule is not; without labels, another answer than the full
            model's) or ``"error"`` (the rule is not right).
        correction: how many candidates are tested at once, see `guarantees.proved`.

        seed: by which the samples are halved: one half to choose on, the other to test and tell on.
        settings: how many settings of each policy are tried at most.
        progress: told what is tried, and which share is done.

    Raises `CannotPromise`, whose message says what could be promised, `WrongLogits`, and `ValueError` for goals that
    mean nothing.

    Here the first of two exits, at a quarter of the cost, has three of four samples right, and is sure of them alone:

    >>> labels, sure = np.arange(400) % 5, np.arange(400) % 4 > 0
    >>> first = np.where(sure, 6.0, 0.1)[:, None] * np.eye(5)[np.where(sure, labels, 0)]
    >>> data = Logits(np.stack([first, 6 * np.eye(5)[labels]]), labels, costs=[1, 4])
    >>> rule = calibrate(data, "max-confidence", risk=0.05, delta=0.1, settings=9)
    >>> rule.promise["proved"], rule.budget_met_, rule.promise["measured"]["drop"]
    (True, True, 0.0)
    >>> calibrate(data, "max-confidence", budget=0.2)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    eelit.methods.own.calibrate.CannotPromise: no setting costs at most 20.0% of the full model; ...
    """
    goals = {"budget": budget, "max_drop": max_drop, "risk": risk, "mean_risk": mean_risk, "reject": reject}
    goal, value = _one(goals, confidence, delta, loss)
    scores = scores_of(data)
    if unknown := unfit(scores):
        raise WrongLogits(f"nothing can be promised: {unknown}")
    _bounded(scores.logits, goal, confidence)
    task = _task(scores, policy, loss, seed, settings, progress)
    if goal == "budget":
        return _within_budget(task, value)
    if goal == "reject":
        return _rejecting(task, value)
    if goal == "max_drop" and confidence is None:
        return _cheapest(task, value)
    error = 1 - confidence if goal == "max_drop" and confidence is not None else delta
    return _promised(task, goal, value, None if goal == "mean_risk" else error, correction)


def _task(scores: Scores, policy: str, loss: str, seed: int, settings: int, progress: Progress) -> Task:
    """Halve the samples and try settings of the policies that may be taken."""
    parts = halves(scores.logits, seed)
    rules = suited(scores.logits, () if policy == AUTO else (policy,))
    found = []
    for number, rule in enumerate(rules):
        progress(f"trying {settings} settings of each of {len(rules)} policies", number / len(rules))
        found += tried(rule, scores, parts.choosing, settings, disable=True)
    progress(f"testing on {len(parts.telling)} samples", None)
    return Task(scores, parts, found, loss)


def _one(goals: dict[str, float | None], confidence: float | None, delta: float | None, loss: str) -> tuple[str, float]:
    """Return the one goal that is given. Raises `ValueError` if there is not exactly one, or if it means nothing."""
    given = {name: value for name, value in goals.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(goals)} is given, not {len(given)}")
    ((name, value),) = given.items()
    if (delta is not None) != (name == "risk"):
        raise ValueError("risk and delta go together")
    if confidence is not None and name != "max_drop":
        raise ValueError("confidence goes with max_drop")
    if loss not in LOSSES or (loss == "error" and name not in ("risk", "mean_risk")):
        raise ValueError(f"loss is one of {', '.join(LOSSES)}, the latter for risk and mean_risk, not {loss!r}")
    for what, number in ((name, value), ("delta", delta), ("confidence", confidence)):
        if number is None:
            continue
        least = number >= 0 if what == "max_drop" else number > 0
        most = number <= 1 if what == "budget" else number < 1 or what == "max_drop"
        if not (math.isfinite(number) and least and most):
            raise ValueError(
                f"{what} is a share above 0 and {'at most' if what == 'budget' else 'below'} 1, not {number:g}"
            )
    return name, value


def _bounded(data: Logits, goal: str, confidence: float | None) -> None:
    if data.kind == "values" and (goal in ("risk", "mean_risk", "reject") or confidence is not None):
        raise WrongLogits(
            "errors of values have no bound, so that nothing can be promised of their risk; budget, and max_drop "
            "without "
            "confidence, serve values"
        )


# Goals without a proof: chosen on one half, measured on the other


def _within_budget(task: Task, budget: float) -> SavedRule:
    choosing, options = task.parts.choosing, []
    for name in dict.fromkeys(setting.rule for setting in task.found):
        own = [setting for setting in task.found if setting.rule == name]
        costs = [mean_of(task.costs(setting), choosing) for setting in own]
        qualities = [mean_of(setting.decided.gain, choosing) for setting in own]
        best = mixture(costs, qualities, budget, mix=all(setting.mixes for setting in own))
        if best is not None:
            i, j, w = best
            quality, cost = (of[i] + w * (of[j] - of[i]) for of in (qualities, costs))
            both = [(weight, own[k]) for weight, k in ((1 - w, i), (w, j)) if weight > HARDLY_ANY]
            options.append((quality, -cost, both if len(both) == 2 else [(1.0, both[0][1])]))
    if not options:
        least = min(mean_of(task.costs(setting), choosing) for setting in task.found)
        raise CannotPromise(
            f"no setting costs at most {budget:.1%} of the full model; {least:.1%} is the least that can be promised"
        )
    chosen = max(options, key=lambda option: option[:2])[2]
    table = [_row(task, option, chosen=option is chosen) for _, _, option in options]
    text = f"the mean cost is at most {budget:.1%} of the full model's where the rule was chosen (no proof)"
    return _made(task, chosen, "budget", budget, text, table, over=lambda m: (m["share"] - budget, m["share_error"]))


def _cheapest(task: Task, drop: float) -> SavedRule:
    choosing = task.parts.choosing
    full = mean_of(task.scores.gain[-1], choosing)
    costs = [mean_of(task.costs(setting), choosing) for setting in task.found]
    lost = [full - mean_of(setting.decided.gain, choosing) for setting in task.found]
    most = [
        loss + ROOM * standard_error(task.chosen(task.scores.gain[-1] - setting.decided.gain))
        for loss, setting in zip(lost, task.found, strict=True)
    ]
    good = [i for i in range(len(costs)) if most[i] <= drop + 1e-9 and costs[i] < 1 - 1e-9]
    if not good:
        saving = [loss for loss, cost in zip(most, costs, strict=True) if cost < 1 - 1e-9]
        could = f"; {max(min(saving), 0):.4f} is the least drop at which something is saved" if saving else ""
        raise CannotPromise(f"no setting saves anything within a drop of {drop:g}, two standard errors included{could}")
    best = min(good, key=lambda i: (costs[i], lost[i]))
    table = []
    for name in dict.fromkeys(task.found[i].rule for i in good):
        own = [i for i in good if task.found[i].rule == name]
        one = best if best in own else min(own, key=lambda i: (costs[i], lost[i]))
        table.append(_row(task, [(1.0, task.found[one])], chosen=one == best))
    text = (
        f"the {task.scores.quality_is} is at most {drop:g} below the full model's where the rule was chosen, two "
        "standard errors included (no proof)"
    )
    return _made(
        task, [(1.0, task.found[best])], "max_drop", drop, text, table,
        over=lambda m: (m["drop"] - drop, m["drop_error"]),
    )  # fmt: skip


# Goals with a proof: the order of candidates follows from one half, the proof from the other


def path(task: Task) -> list[Setting]:
    """Return the settings that save most for what they lose on the choosing half, the safest first."""
    choosing = task.parts.choosing
    judged = sorted(
        (
            (mean_of(task.losses(setting), choosing), mean_of(task.costs(setting), choosing), i)
            for i, setting in enumerate(task.found)
        ),
    )
    found, least = [], 1.0 - 1e-9
    for _, cost, i in judged:
        if cost < least:
            found.append(task.found[i])
            least = cost
    return found


def _promised(task: Task, goal: str, value: float, error: float | None, correction: str) -> SavedRule:
    if not 0 < value < 1:
        raise ValueError(f"a promise is of a share above 0 and below 1, not {value:g}")
    candidates = path(task)
    losses = task.told(np.stack([task.losses(setting) for setting in candidates])) if candidates else np.zeros((0, 1))
    p_value = p_value_of(task.scores.logits.groups)
    if not candidates:
        chosen = None
    elif error is None:
        chosen = controlled(losses, value)
    else:
        chosen = proved(losses, value, error, correction, p_value)
    if chosen is None:
        raise CannotPromise(_what_could_be(losses, value, error, correction, p_value))
    best = candidates[chosen]
    tests = _tests(losses, value, error, correction, p_value, chosen)
    table = [
        _row(task, [(1.0, setting)], chosen=k == chosen, **test)
        for k, (setting, test) in enumerate(zip(candidates, tests, strict=True))
    ]
    what = _what_is_lost(task)
    if goal == "max_drop":
        sure = f"with probability {1 - (error or 0):.0%}"
        text = f"the {task.scores.quality_is} is at most {value:g} below the full model's, {sure}"
    elif error is None:
        text = f"{what} on at most {value:.2%} of samples on average (conformal risk control)"
    else:
        proof = f"(Learn then Test, {correction})"
        text = f"{what} on at most {value:.2%} of samples, with probability {1 - error:.0%} {proof}"
    more: dict[str, Any] = {"loss": task.loss, "candidates": len(candidates), "losses_on": int(losses.shape[1])}
    more |= {} if error is None else {"delta": error, "correction": correction}
    made = _made(task, [(1.0, best)], goal, value, text, table)
    return replace(
        made, promise={**made.promise, **more, "proved": True, "measured_loss": float(losses[chosen].mean())}
    )


def _tests(
    losses: NDArray[np.float64], value: float, error: float | None, correction: str, p_value: PValue, chosen: int
) -> list[dict[str, Any]]:
    """Return what the test of each candidate came to: its loss, what is compared with the goal, and the outcome.

    That is a p-value beside delta, or for conformal risk control a bound beside the risk.
    """
    found: list[dict[str, Any]] = []
    limit = error if correction == "fixed-sequence" or error is None else error / len(losses)
    worst = np.maximum.accumulate(losses, axis=0).mean(axis=1, dtype=np.float64)
    for k, row in enumerate(losses):
        told: dict[str, Any] = {"tested_loss": float(row.mean())}
        if limit is None:
            told |= {"bound": float((len(row) * worst[k] + 1) / (len(row) + 1)), "proved": k <= chosen}
        else:
            p = p_value(told["tested_loss"], len(row), value)
            told |= {"p_value": p, "proved": k <= chosen if correction == "fixed-sequence" else p <= limit}
        found.append(told)
    return found


def _what_is_lost(task: Task) -> str:
    if task.loss == "error":
        return "the rule is wrong"
    if task.scores.logits.labels is None:
        return "the rule answers otherwise than the full model"
    return "the full model is right and the rule wrong"


def _what_could_be(
    losses: NDArray[np.float64], value: float, error: float | None, correction: str, p_value: PValue
) -> str:
    """Return the least risk that would be granted, as it is printed, and why this one is not.

    Candidates are tried in their order, so that the first must pass; only with ``bonferroni`` it may be any of them, at
    its share of the error.
    """
    if not len(losses):
        return "no setting costs less than the full model, so that there is nothing to promise"
    if error is not None and correction != "fixed-sequence":
        error, tried_ = error / len(losses), losses
    else:
        tried_ = losses[:1]
    n, needed = losses.shape[1], least_samples(value, error)
    could = min(least_risk(row, error, p_value) for row in tried_)
    printed = (math.floor(could * 1e4) + 1) / 1e4  # a figure rounded to the nearest may be below what is granted
    few = (
        f" (at least {needed} samples without any loss are needed on this half, and there are {n})"
        if n < needed
        else ""
    )
    return f"a risk of {value:.2%} cannot be promised{few}; {printed:.2%} is the least that could be"


def _of_answered(task: Task, setting: Setting, rows: Rows, answered: tuple[Flags, Flags]) -> dict[str, float]:
    """Return how right a setting and the full model are where each gives an answer, among ``rows``, and the difference.

    ``answered`` is who gets one, of the setting and of the full model. The standard error is that of a difference of
    two means whose samples are largely the same: each sample counts by what it adds to the one and to the other.
    """
    groups = task.scores.logits.groups
    gains = (setting.decided.gain[rows], task.scores.gain[-1][rows])
    (own, adds), (full, adds_full) = (
        (float(gain[who].mean(dtype=np.float64)), who * (gain - gain[who].mean(dtype=np.float64)) / who.mean())
        for gain, who in zip(gains, answered, strict=True)
    )
    return {
        "quality_of_answered": own,
        "full_quality_of_answered": full,
        "drop_of_answered": full - own,
        "drop_of_answered_error": standard_error(adds_full - adds, None if groups is None else groups[rows]),
    }


def _saving(task: Task, share: float, sure: Floats) -> list[tuple[float, Setting, Floats]]:
    """Return the settings that save something and are as right as the full model, where both refuse a share of samples.

    Each comes with its cost on the choosing half and how ``sure [N]`` the last exit is of each sample that reaches it.
    The cheapest of hundreds looks better than it is, so two standard errors count as lost.
    """
    choosing, last, found = task.parts.choosing, task.scores.logits.exits - 1, []
    answered_full = sure[choosing] >= rejecting(sure[choosing], share)
    for setting in task.found:
        cost = mean_of(task.costs(setting), choosing)
        if not setting.mixes or cost >= 1 - 1e-9:
            continue  # at the end another than the last exit may answer; or nothing is saved
        reached = np.where(setting.decided.exits == last, sure, np.inf)
        answered = reached[choosing] >= rejecting(reached[choosing], share)
        right = _of_answered(task, setting, choosing, (answered, answered_full))
        if right["drop_of_answered"] + ROOM * right["drop_of_answered_error"] <= NONE:
            found.append((cost, setting, reached))
    return found


def _rejecting(task: Task, share: float) -> SavedRule:
    """Refuse where the last exit is least sure; then take the cheapest setting that is as right as the full model."""
    scores, telling = task.scores, task.parts.telling
    sure = np.where(np.isnan(scores.confidence[-1]), -1.0, scores.confidence[-1].astype(np.float64))
    options = _saving(task, share, sure)
    if not options:
        raise CannotPromise(
            f"with at most {share:.1%} refused, no setting saves anything and stays as right as the full model, two "
            "standard errors included"
        )
    _, best, reached = min(options, key=lambda option: option[0])
    below = rejecting(task.told(reached) if scores.logits.groups is None else reached[telling], share)
    if below == -math.inf:
        raise CannotPromise(
            f"at least {math.ceil(1 / share) - 1} samples on this half are needed to refuse {share:.2%}"
        )
    below = min(below, SURER_THAN_ANY)  # fewer reach the last exit than may be refused: all of them are
    answered = reached[telling] >= below, sure[telling] >= rejecting(sure[telling], share)
    right = {"refused": 1 - float(answered[0].mean()), **_of_answered(task, best, telling, answered)}
    text = (
        f"at most {share:.1%} of samples get no answer, on average over samples to calibrate on; of the others no "
        "fewer are right than by the full model that refuses as many, where the rule was chosen, two standard errors "
        "included (no proof)"
    )
    table = [
        _row(task, [(1.0, setting)], chosen=setting is best)
        for _, setting, _ in sorted(options, key=lambda option: option[0])[:10]
    ]
    made = _made(
        task, [(1.0, best)], "reject", share, text, table, more=right,
        over=lambda m: (m["drop_of_answered"], m["drop_of_answered_error"]),
    )  # fmt: skip
    return replace(made, promise={**made.promise, "proved": scores.logits.groups is None}, reject_below=below)


# What is written down


def measured(task: Task, chosen: Sequence[tuple[float, Setting]]) -> dict[str, float]:
    """Return what a setting, or a mixture, costs and reaches on the half to tell on, with standard errors.

    Those of a mixture include that each sample draws one of its settings.
    """
    cost = task.told(np.sum([w * task.costs(setting) for w, setting in chosen], axis=0))
    gain = task.told(np.sum([w * setting.decided.gain for w, setting in chosen], axis=0))
    full = task.told(task.scores.gain[-1])
    return {
        "share": float(cost.mean()),
        "share_error": math.hypot(standard_error(cost), _drawn_error(task, chosen, task.costs)),
        "saved": 1 - float(cost.mean()),
        "quality": float(gain.mean()),
        "full_quality": float(full.mean()),
        "drop": float((full - gain).mean()),
        "drop_error": math.hypot(
            standard_error(full - gain), _drawn_error(task, chosen, lambda setting: setting.decided.gain)
        ),
    }


def _drawn_error(task: Task, chosen: Sequence[tuple[float, Setting]], of: Callable[[Setting], NDArray[Any]]) -> float:
    """Return the standard error of a mean that comes from drawing one of two settings for each sample."""
    if len(chosen) == 1:
        return 0.0
    (v, one), (w, other) = chosen
    spread = v * w * (of(one) - of(other))[task.parts.telling].astype(np.float64) ** 2
    return math.sqrt(float(spread.mean()) / len(spread))


def _row(task: Task, settings: Sequence[tuple[float, Setting]], *, chosen: bool, **more: Any) -> dict[str, Any]:
    """Return a line of `SavedRule.table_`."""
    parts = [{"weight": weight, "settings": settings_of(setting.policy)} for weight, setting in settings]
    return {"rule": settings[0][1].rule, "mixture": parts, "chosen": chosen, **measured(task, settings), **more}


def _made(
    task: Task,
    chosen: list[tuple[float, Setting]],
    goal: str,
    value: float,
    text: str,
    table: list[dict[str, Any]],
    *,
    more: Mapping[str, float] | None = None,
    over: Callable[[dict[str, float]], tuple[float, float]] = lambda m: (0.0, 0.0),
) -> SavedRule:
    """Return the rule; ``over`` tells by how much its goal is exceeded as measured, and the standard error of that."""
    enabled = sorted(set().union(*(setting.enabled for _, setting in chosen)))
    if any(list(setting.enabled) != enabled for _, setting in chosen):  # both of a mixture are asked at the same exits
        chosen = [
            (w, replace(s, decided=decide(s.policy, task.scores, enabled), enabled=tuple(enabled))) for w, s in chosen
        ]
    data, found = task.scores.logits, {**measured(task, chosen), **(more or {})}
    by, error = over(found)
    promise = {"goal": goal, "value": value, "text": text, "proved": False, "measured": found}
    promise |= {"kept": by - ROOM * error <= NONE, "as_measured": by <= NONE}
    return SavedRule(
        rule=chosen[0][1].rule, parts=tuple((w, setting.policy) for w, setting in chosen), exits=data.exits,
        enabled=tuple(enabled), classes=data.classes, kind=data.kind,
        promise=promise | {"quality_is": task.scores.quality_is, "unit": data.unit},
        data={
            "name": data.name, "as_read": data.as_read, "digest": data.digest(), "samples": data.samples,
            "not_finite": task.scores.not_finite,
            "chosen_on": len(task.parts.choosing), "told_on": len(task.parts.telling), "seed": task.parts.seed,
            "labelled": data.labels is not None,
        },
        versions={name: _version(name) for name in ("eelit", "numpy")}, table_=tuple(table),
    )  # fmt: skip


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
