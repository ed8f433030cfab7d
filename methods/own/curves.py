"""Quality against cost: halves to choose on and to tell on, curves of policies, and what bounds them.

Costs are shares of the full model's. Between two settings a policy can stand at any cost: a share of the samples, drawn
without looking at them, is treated with the one, the rest with the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.own.decide import Decided, decide
from eelit.methods.own.logits import Logits, WrongLogits
from eelit.methods.own.rules import MOST, Rows, Rule
from eelit.methods.own.scores import Scores
from eelit.methods.policies.base import Assembling, Policy
from eelit.methods.policies.budgeted_thresholds import exit_shares
from eelit.methods.policies.fixed_exit import FixedExit

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
LEAST = 20
"""Samples (or groups) that are needed to choose on the one half and tell on the other."""
ROOM = 2.0
"""Standard errors that are added to a measured loss before it counts as within what is allowed."""
STEPS = 41
"""Shares of the full cost, evenly from the cheapest exit to 1, at which policies are compared."""


@dataclass(frozen=True)
class Halves:
    """Rows to choose settings on, and rows to tell what they reach."""

    choosing: Rows
    telling: Rows
    seed: int


def halves(data: Logits, seed: int = 0) -> Halves:
    """Divide the samples at random, those of a group together. Raises `WrongLogits` if there are too few."""
    groups = np.arange(data.samples) if data.groups is None else data.groups
    names = np.unique(groups)
    if len(names) < LEAST:
        what = "samples" if data.groups is None else "groups of samples"
        raise WrongLogits(
            f"there are {len(names)} {what}, and at least {LEAST} are needed to choose on one half and tell on "
            "the other"
        )
    ours = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    chosen = np.isin(groups, ours)
    return Halves(np.flatnonzero(chosen), np.flatnonzero(~chosen), seed)


@dataclass(frozen=True)
class Setting:
    """One setting of a rule: where it stops every sample and what that is worth; exits at which nobody left are off."""

    rule: str
    policy: Policy
    decided: Decided
    enabled: tuple[int, ...]  # exits that are asked, the last included

    @property
    def mixes(self) -> bool:
        """Whether a sample may be treated with one of two settings: not where answers are made from several exits."""
        return not isinstance(self.policy, Assembling)


def tried(rule: Rule, scores: Scores, rows: Rows, count: int = MOST, *, disable: bool = False) -> list[Setting]:
    """Return the settings of a rule as they follow from the choosing half, and what they decide on all samples.

    With ``disable`` a rule of one threshold is not asked at exits where it lets nobody leave on the choosing half, and
    one of a fixed exit only there.
    """
    exits, found = scores.logits.exits, []
    for policy in rule.settings(scores, rows, count):
        done, enabled = decide(policy, scores), tuple(range(exits))
        fixed = isinstance(policy, FixedExit) and not isinstance(policy, Assembling)
        if disable and (rule.single or fixed):
            left = np.bincount(done.exits[rows], minlength=exits) > 0
            if isinstance(policy, FixedExit):
                left = np.arange(exits) == policy.exit
            enabled = (*np.flatnonzero(left[:-1]).tolist(), exits - 1)
            if len(enabled) < exits:
                done = decide(policy, scores, enabled)
        found.append(Setting(rule.name, policy, done, enabled))
    return found


def costs_under(data: Logits, setting: Setting) -> Floats:
    """Return what a setting costs for each sample ``[N]``; heads that are never asked are not paid, if known."""
    exits = setting.decided.exits
    if data.plain_costs is not None and len(setting.enabled) < data.exits and data.costs.ndim == 1:
        heads = np.diff(data.costs - data.plain_costs, prepend=0.0)
        asked = np.isin(np.arange(data.exits), setting.enabled)
        # the plain network up to an exit has the head of this exit alone, so what is above it are the heads before
        saved = np.cumsum(np.where(asked, 0.0, np.roll(heads, -1)))
        return np.asarray(data.costs - np.concatenate([[0.0], saved[:-1]]))[exits]
    return costs_at(data, exits)


def costs_at(data: Logits, exits: NDArray[Any]) -> Floats:
    """Return what it costs each sample ``[N]`` to leave at its exit."""
    return data.costs[exits] if data.costs.ndim == 1 else data.costs[exits, np.arange(len(exits))]


def mean_of(values: NDArray[Any], rows: Rows) -> float:
    """Return the mean over some rows."""
    return float(values[rows].mean(dtype=np.float64))


def mixture(
    costs: Sequence[float] | Floats, qualities: Sequence[float] | Floats, share: float, *, mix: bool = True
) -> Any:
    """Return ``(i, j, weight)`` of the best mixture of two settings within a share of the full cost, None if none fits.

    ``weight`` is that of the costlier setting j. What `eelit.methods.engine.operating_points.at` takes, for all pairs
    at once; without ``mix`` a single setting.
    """
    low, q = np.asarray(costs, dtype=np.float64), np.asarray(qualities, dtype=np.float64)
    cheap = np.flatnonzero(low <= share + 1e-9)
    if not len(cheap):
        return None
    if not mix:
        best = cheap[np.lexsort((low[cheap], -q[cheap]))[0]]
        return int(best), int(best), 0.0
    a, high = low[cheap][:, None], low[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(high > a, np.clip((share - a) / (high - a), 0.0, 1.0), 0.0)
    quality = q[cheap][:, None] + weight * (q[None, :] - q[cheap][:, None])
    cost = np.where(weight > 0, a + weight * (high - a), a)
    at = int(np.lexsort((cost.ravel(), -quality.ravel()))[0])
    i, j = divmod(at, len(low))
    w = float(weight[i, j])
    return int(cheap[i]), (j if w > 0 else int(cheap[i])), w


def within(chosen: tuple[Floats, Floats], told: tuple[Floats, Floats], share: float, *, mix: bool) -> Any:
    """Return ``(share spent, quality)`` that the mixture chosen on one half reaches on the other; None if none fits."""
    found = mixture(*chosen, share, mix=mix)
    if found is None:
        return None
    i, j, w = found
    costs, qualities = told
    return float(costs[i] + w * (costs[j] - costs[i])), float(qualities[i] + w * (qualities[j] - qualities[i]))


def oracle(scores: Scores, rows: Rows, steps: int = MOST) -> list[tuple[float, float]]:
    """Return (cost share, quality) of knowing the truth: each sample leaves where its answer is worth most, at a price.

    No policy that takes an exit's answer lies above this curve.
    """
    data = scores.logits
    gain = scores.gain[:, rows].astype(np.float64)
    costs = np.broadcast_to(data.costs if data.costs.ndim == 2 else data.costs[:, None], scores.gain.shape)[:, rows]
    shares = costs / data.full_cost
    found = []
    for price in (0.0, *np.geomspace(1e-3, 1e3, steps)):
        worth = gain - price * shares
        best = np.where(worth >= worth.max(axis=0) - 1e-12, -shares, -np.inf).argmax(axis=0)  # of equals the cheapest
        at = np.arange(len(rows))
        found.append((float(shares[best, at].mean()), float(gain[best, at].mean())))
    return sorted(set(found))


def static(scores: Scores, rows: Rows) -> list[tuple[float, float]]:
    """Return (cost share, quality) of the network cut off for good after each exit."""
    data = scores.logits
    gain = scores.gain[:, rows].mean(axis=1, dtype=np.float64)
    if data.plain_costs is not None:
        costs = data.plain_costs
    else:
        costs = data.costs if data.costs.ndim == 1 else data.costs[:, rows].mean(axis=1)
    return [(float(c / data.full_cost), float(q)) for c, q in zip(costs, gain, strict=True)]


def at_random(scores: Scores, rows: Rows, steps: int = 21) -> list[tuple[float, float]]:
    """Return (cost share, quality) of leaving at exits drawn without a look at the sample, in geometric shares."""
    data = scores.logits
    gain = scores.gain[:, rows].mean(axis=1, dtype=np.float64)
    costs = (data.costs if data.costs.ndim == 1 else data.costs[:, rows].mean(axis=1)) / data.full_cost
    ratios = [0.0, *np.exp(np.linspace(-3, 3, steps)), np.inf]
    shares = np.stack([exit_shares(ratio, data.exits) for ratio in ratios])
    return [(float(c), float(q)) for c, q in zip(shares @ costs, shares @ gain, strict=True)]
