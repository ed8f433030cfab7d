"""All policies that stored outputs suffice for, side by side: chosen on one half of the samples, told on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eelit.methods.own.curves import (
    STEPS,
    Floats,
    Setting,
    at_random,
    costs_under,
    halves,
    mean_of,
    oracle,
    static,
    tried,
    within,
)
from eelit.methods.own.given import Given, scores_of
from eelit.methods.own.logits import standard_error
from eelit.methods.own.rules import LEFT_OUT, MOST, Rule, suited
from eelit.methods.own.scores import Scores
from eelit.methods.own.settings import settings_of

SHARES = (0.25, 0.5, 0.75)
"""Of the full model's cost, at which figures are told."""
Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Point:
    """One setting: what it is, and what it reached on the half to tell on; `chosen` is the half to choose on."""

    settings: dict[str, Any]
    share: float  # of the full model's cost
    quality: float
    exits: list[float]  # share of the samples leaving at each
    chosen_share: float
    chosen_quality: float


@dataclass(frozen=True)
class Reached:
    """What the mixture of two settings that is best on the choosing half reaches within a share of the full cost."""

    share: float  # really spent on the other half
    quality: float


@dataclass(frozen=True)
class Line:
    """A policy's whole curve."""

    name: str
    policy: str
    source: str
    says: str
    points: list[Point]
    at: dict[float, Reached | None]
    area: float  # mean quality over the budgets at which policies are compared, 0 where it reaches none
    saves: float  # most of the cost that is saved without loss on the choosing half, told on the other
    loses: float  # quality lost there on the half to tell on
    loses_error: float  # and its standard error
    dominated_by: str = ""  # the policy that is at least as good at every budget, and better at one


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    name: str
    exits: int
    samples: int
    classes: int
    kind: str
    as_read: str  # what the array was taken for, in a sentence
    unit: str
    quality_is: str
    full_quality: float
    full_cost: float
    not_finite: int
    choosing: int
    telling: int
    seed: int
    lines: list[Line]
    oracle: list[tuple[float, float]]
    static: list[tuple[float, float]]
    random: list[tuple[float, float]]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> list[Line]:
        """The policies that no other dominates, the largest area first."""
        return [line for line in self.lines if not line.dominated_by]


def compare(
    data: Given,
    policies: Sequence[str] = (),
    *,
    seed: int = 0,
    settings: int = MOST,
    progress: Progress = lambda message, share: None,
) -> Comparison:
    """Return the curves of all policies that the outputs suffice for, or of those that are named.

    Args:
        data: what the exits said, or the file that holds it.
        policies: names in `rules.RULES`; without any, all that suit.
        seed: by which the samples are halved.
        settings: how many settings of each policy are tried at most.
        progress: told what is tried, and which share is done.

    Every figure is told on the half of the samples on which nothing was chosen. Raises `WrongLogits` for outputs from
    which nothing can be told, `ValueError` for a policy that does not suit them.

    Here the first of two exits is sure of its answers where they are right, and nearly undecided elsewhere:

    >>> from eelit.methods.own.logits import Logits
    >>> labels = np.arange(200) % 4
    >>> easy = np.arange(200) % 3 > 0
    >>> first = np.where(easy, 5.0, 0.1)[:, None] * np.eye(4)[np.where(easy, labels, (labels + 1) % 4)]
    >>> data = Logits(np.stack([first, 5 * np.eye(4)[labels]]), labels, costs=[1, 4])
    >>> found = compare(data, ["max-confidence", "patience"], settings=9)
    >>> [line.name for line in found.lines], found.full_quality
    (['max-confidence', 'patience'], 1.0)
    >>> best = found.best[0]
    >>> best.loses, 0.4 < best.saves < 0.6  # two of three samples pay 1 instead of 4, about half of it all
    (0.0, True)
    """
    scores = scores_of(data)
    data = scores.logits
    parts = halves(data, seed)
    rules = suited(data, policies)
    budgets = _budgets(scores)
    lines, curves = [], []
    for number, rule in enumerate(rules):
        progress(f"trying {settings} settings of each of {len(rules)} policies", number / len(rules))
        line, curve = _line(rule, scores, tried(rule, scores, parts.choosing, settings), parts, budgets)
        lines.append(line)
        curves.append(curve)
    struck = _dominated([line.name for line in lines], curves)
    lines = [Line(**{**vars(line), "dominated_by": struck.get(line.name, "")}) for line in lines]
    return Comparison(
        name=data.name, exits=data.exits, samples=data.samples, classes=data.classes, kind=data.kind,
        as_read=data.as_read, unit=data.unit,
        quality_is=scores.quality_is, full_quality=mean_of(scores.gain[-1], parts.telling), full_cost=data.full_cost,
        not_finite=scores.not_finite, choosing=len(parts.choosing), telling=len(parts.telling), seed=seed,
        lines=sorted(lines, key=lambda line: (bool(line.dominated_by), -line.area)),
        oracle=oracle(scores, parts.telling), static=static(scores, parts.telling),
        random=at_random(scores, parts.telling), left_out=dict(LEFT_OUT),
    )  # fmt: skip


def _budgets(scores: Scores) -> Floats:
    least = float(scores.logits.costs[0].mean()) / scores.logits.full_cost
    return np.linspace(min(least, 1.0), max(1.0, least), STEPS)


def _line(rule: Rule, scores: Scores, found: list[Setting], parts: Any, budgets: Floats) -> tuple[Line, Floats]:
    """Return a policy's curve, and its quality at each of the budgets (NaN where it reaches none)."""
    data = scores.logits
    spent = [costs_under(data, setting) / data.full_cost for setting in found]
    chosen, told = (
        (
            np.array([mean_of(cost, rows) for cost in spent]),
            np.array([mean_of(setting.decided.gain, rows) for setting in found]),
        )
        for rows in (parts.choosing, parts.telling)
    )
    mix = all(setting.mixes for setting in found)
    reached = [within(chosen, told, share, mix=mix) for share in (*SHARES, *budgets)]
    curve = np.array([math.nan if each is None else each[1] for each in reached[len(SHARES) :]])
    points = [
        Point(
            settings=settings_of(setting.policy),
            share=float(told[0][k]),
            quality=float(told[1][k]),
            exits=(
                np.bincount(setting.decided.exits[parts.telling], minlength=data.exits) / len(parts.telling)
            ).tolist(),
            chosen_share=float(chosen[0][k]),
            chosen_quality=float(chosen[1][k]),
        )
        for k, setting in enumerate(found)
    ]
    saves, loses, error = without_loss(scores, found, chosen, parts)
    return Line(
        name=rule.name, policy=rule.policy, source=rule.source, says=rule.says, points=points,
        at={share: None if each is None else Reached(*each) for share, each in zip(SHARES, reached, strict=False)},
        area=float(np.nan_to_num(curve, nan=0.0).mean()), saves=saves, loses=loses, loses_error=error,
    ), curve  # fmt: skip


def without_loss(
    scores: Scores, found: Sequence[Setting], chosen: tuple[Floats, Floats], parts: Any
) -> tuple[float, float, float]:
    """Return the share saved by the cheapest setting that loses nothing on the choosing half.

    With what it loses on the other half, and the standard error of that; all 0 if no setting saves anything.
    """
    good = np.flatnonzero(chosen[1] >= mean_of(scores.gain[-1], parts.choosing) - 1e-9)
    if not len(good):
        return 0.0, 0.0, 0.0
    best = found[int(good[np.lexsort((-chosen[1][good], chosen[0][good]))[0]])]
    data = scores.logits
    spent = mean_of(costs_under(data, best), parts.telling) / data.full_cost
    lost = (scores.gain[-1] - best.decided.gain)[parts.telling].astype(np.float64)
    groups = None if data.groups is None else data.groups[parts.telling]
    return 1 - spent, float(lost.mean()), standard_error(lost, groups)


def _dominated(names: list[str], curves: list[Floats]) -> dict[str, str]:
    """Return which policies are dominated, and by which: at least as good at each budget reached, better at one."""
    found: dict[str, str] = {}
    filled = [np.where(np.isnan(curve), -np.inf, curve) for curve in curves]
    order = sorted(range(len(names)), key=lambda i: -float(np.maximum(filled[i], -1e9).mean()))
    for i in order:
        for j in order:
            if i != j and names[j] not in found and (filled[j] >= filled[i] - 1e-12).all():
                better = (filled[j] > filled[i] + 1e-12).any()
                if better or order.index(j) < order.index(i):  # of equal ones one stays
                    found[names[i]] = names[j]
                    break
    return found
