"""How certain the figures of a leaderboard are: intervals from the stored outcomes of test samples, and level rows.

All rows were measured on the same test samples, so the difference of two rows is computed sample by sample, seed by
seed: most of the uncertainty of single figures is common to both and cancels. Its 95 % interval covers other test
samples and other seeds. It is a crossed bootstrap of both, because all seeds are tested on the same samples: samples
are resampled from the differences averaged over seeds, seeds from the differences averaged over samples, and both
deviations are added. (Resampling samples separately within each seed would treat one test set as several.) Three
resampled seeds vary too little, by √(2/3), and their variance is itself an estimate. So the deviations of S seeds are
widened by √(S/(S-1)), and the interval by Student's t instead of the normal distribution, with Satterthwaite's degrees
of freedom, which are few if seeds cause most of the deviation: the expanded percentile interval of Hesterberg (2015).
With one seed the interval covers other test samples only.

At a share of the cost, the score of a sample is that of the mixture of two knobs that was chosen on validation data:
the weighted mean of its scores at both.

**Level with the best.** Each row is compared with the row of the highest quality. Its p-value is two-sided, from the
same deviation and degrees of freedom, with Holm's correction over all rows of the group. A row whose difference is not
significant at 5 % is level with the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

RESAMPLES = 2000
LEVEL = 0.95
AT_ONCE = 100
"""Resamples of the test samples in memory at a time."""
ENDLESS = 1e9
"""Degrees of freedom with which Student's t is as good as normal."""

Floats = NDArray[np.float64]
Outcome = Mapping[int, NDArray[Any]]
"""Seed → score of each test sample, ``[N]``."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and test samples, and how certain it is."""

    mean: float
    low: float
    high: float
    deviation: float  # standard error
    freedom: float | None  # degrees of freedom; None: infinite, as seeds are no part of the deviation
    seeds: int

    @property
    def p(self) -> float:
        """Probability of a mean as far from 0, if it were 0."""
        if self.deviation == 0:
            return float(self.mean == 0)
        return float(2 * stdtr(self.freedom or ENDLESS, -abs(self.mean) / self.deviation))


@dataclass(frozen=True)
class Standing:
    """How certain a row's quality is, and its difference from the best row of its group."""

    quality: Interval
    samples: int  # number of test samples
    sampling: float  # standard error from the choice of these only
    behind: Interval | None  # quality minus the best row's; None: the samples of that are not known
    level: bool | None  # whether it is not significantly different from the best


def intervals(values: Sequence[Outcome]) -> list[Interval]:
    """Return the interval of the mean of each of several outcomes, which are of as many test samples.

    All use the same resamples, so that what is common to them is common to their intervals.
    """
    if not values:
        return []
    each = [np.stack([np.asarray(one[seed], dtype=np.float64) for seed in sorted(one)]) for one in values]  # [S, N]
    drawn = _samples_drawn(np.stack([one.mean(axis=0) for one in each]))
    return [_interval(one.mean(axis=1), deviations) for one, deviations in zip(each, drawn, strict=True)]


def _interval(by_seed: Floats, drawn: Floats) -> Interval:
    """Return the interval from the means of seeds ``[S]``, and how the mean deviates over resampled samples ``[B]``."""
    mean, seeds = float(by_seed.mean()), len(by_seed)
    deviations = drawn + _seeds_drawn(by_seed)
    own = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    total = float(deviations.var())
    freedom = (seeds - 1) * (total / own) ** 2 if own > 1e-12 * total else None
    ends = np.quantile(deviations, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    wider = float(stdtrit(freedom or ENDLESS, (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2))
    low, high = (mean + wider * ends).tolist()
    return Interval(mean, low, high, total**0.5, freedom, seeds)


def _samples_drawn(means: Floats) -> Floats:
    """Return by how much the mean of each row of samples ``[R, N]`` deviates in each resample, ``[R, B]``."""
    rows, n = means.shape
    centred = (means - means.mean(axis=1, keepdims=True)).astype(np.float32)
    drawn, found = _drawn(n), np.empty((rows, RESAMPLES))
    for start in range(0, RESAMPLES, AT_ONCE):
        some = slice(start, start + AT_ONCE)
        found[:, some] = centred @ drawn[some].T.astype(np.float32) / n
    return found


@lru_cache(maxsize=1)
def _drawn(n: int) -> NDArray[np.uint8]:
    """Return how often each of n samples is drawn in each resample, ``[B, N]``."""
    rng = np.random.default_rng(0)
    return np.stack([np.bincount(rng.integers(n, size=n), minlength=n).astype(np.uint8) for _ in range(RESAMPLES)])


def _seeds_drawn(by_seed: Floats) -> Floats:
    """Return by how much the mean over seeds ``[S]`` deviates in each resample of them ``[B]``, widened for few."""
    seeds = len(by_seed)
    if seeds == 1:
        return np.zeros(RESAMPLES)
    weights = np.random.default_rng(1).multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    found: Floats = (weights @ (by_seed - by_seed.mean())) * (seeds / (seeds - 1)) ** 0.5
    return found


def difference(ours: Outcome, theirs: Outcome) -> dict[int, NDArray[Any]]:
    """Return the score of each sample in ours minus that in theirs, with the seeds that both have."""
    return {seed: np.subtract(ours[seed], theirs[seed], dtype=np.float64) for seed in ours if seed in theirs}


def standings(rows: Sequence[Outcome | None], means: Sequence[float | None]) -> list[Standing | None]:
    """Return how rows of one group stand, whose qualities are ``means``; None of those whose samples are not known.

    Rows of other numbers of test samples than the best row (or, if nothing is known of that, the first) were not
    measured on the same ones.
    """
    known = [i for i, row in enumerate(rows) if row]
    if not known:
        return [None] * len(rows)
    best = max((i for i, mean in enumerate(means) if mean is not None), key=lambda i: means[i] or 0.0)
    like = _size(rows[best] or rows[known[0]])
    known = [i for i in known if _size(rows[i]) == like]
    outcomes = [rows[i] or {} for i in known]
    top = rows[best] or {}
    behind = [difference(outcome, top) for outcome in outcomes]
    paired = [i for i, one in zip(known, behind, strict=True) if one]
    found = intervals([*outcomes, *(one for one in behind if one)])
    qualities = dict(zip(known, found[: len(known)], strict=True))
    gaps = dict(zip(paired, found[len(known) :], strict=True))
    others = [i for i in gaps if i != best]
    corrected = dict(zip(others, holm([gaps[i].p for i in others]), strict=True)) | {best: 1.0}
    stand: list[Standing | None] = [None] * len(rows)
    for i, outcome in zip(known, outcomes, strict=True):
        level = corrected[i] > 1 - LEVEL if i in gaps else None
        stand[i] = Standing(qualities[i], max(like), _sampling(outcome), gaps.get(i), level)
    return stand


def _size(outcome: Outcome | None) -> set[int]:
    return {len(each) for each in (outcome or {}).values()}


def _sampling(outcome: Outcome) -> float:
    """Return the standard error of a mean by the choice of samples, mean over seeds."""
    return float(np.mean([np.std(each, ddof=1) / len(each) ** 0.5 for each in outcome.values()]))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are, by Holm's step-down procedure."""
    order, found, highest = np.argsort(p, kind="stable"), [1.0] * len(p), 0.0
    for rank, i in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        found[i] = highest
    return found
