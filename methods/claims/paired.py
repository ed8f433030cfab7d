"""Differences between two ways of answering the same test samples, with how certain they are.

Both sides answer the same samples, so their difference is taken sample by sample, or, where quality is no mean over
samples, on the same resamples: what is hard for both cancels. A claim holds only beyond two standard errors, which
cover other test samples, not other trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.operating_points import mixture
from eelit.methods.engine.records import Baseline, OperatingPoint

if TYPE_CHECKING:
    from eelit.methods.families.translation import Matches

Floats = NDArray[np.float64]
ERRORS = 2.0
"""Standard errors by which a difference must be beyond what is asked of it."""
RESAMPLES = 500
BEYOND = "by more than two standard errors of the paired difference"
GAINS = f"and {BEYOND}"
KEEPS = "two standard errors of the paired difference included"


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs, and its standard error."""

    mean: float
    error: float
    digits: int = 4  # as it is told

    def gains(self, least: float = 0.0) -> bool:
        """Whether ours is better by so much at least, and beyond chance."""
        return self.mean >= least and self.mean > ERRORS * self.error

    def keeps(self, most: float) -> bool:
        """Whether ours is worse by so much at most, beyond chance."""
        return self.mean - ERRORS * self.error >= -most

    def __str__(self) -> str:
        return f"{self.mean:+.{self.digits}f} ± {self.error:.{self.digits}f}"


def over_samples(ours: NDArray[np.generic], theirs: NDArray[np.generic] | float = 0.0, digits: int = 4) -> Difference:
    """Return the difference of what each of the same samples ``[N]`` is worth on either side."""
    apart = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    error = float(apart.std(ddof=1)) / len(apart) ** 0.5 if len(apart) > 1 else np.inf
    return Difference(float(apart.mean()), error, digits)


def resampled(statistic: Callable[[NDArray[np.int64]], float], n: int, digits: int = 4) -> Difference:
    """Return a difference that is no mean over ``n`` samples: the statistic is told how often each is taken ``[n]``.

    Its standard error is that over samples drawn anew with replacement, the same draws at every call.
    """
    rng = np.random.default_rng(0)
    drawn = [statistic(np.bincount(rng.integers(n, size=n), minlength=n)) for _ in range(RESAMPLES)]
    return Difference(statistic(np.ones(n, dtype=np.int64)), float(np.std(drawn, ddof=1)), digits)


def of_bleu(ours: Sequence[Matches], theirs: Sequence[Matches]) -> Difference:
    """Return the difference in BLEU of translations of the same sentences, a mean over pairs of runs."""

    def apart(times: NDArray[np.int64]) -> float:
        return float(np.mean([a.score(times) - b.score(times) for a, b in zip(ours, theirs, strict=True)]))

    return resampled(apart, len(ours[0].counts), digits=2)


def of_samples(point: OperatingPoint) -> Floats:
    """Return what each test sample ``[N]`` is worth at a point."""
    assert point.samples is not None
    assert point.samples.quality is not None
    return np.asarray(point.samples.quality, dtype=np.float64)


def gains_of_mixtures(ours: Baseline, theirs: Baseline, shares: Sequence[float] | None = None) -> list[Floats]:
    """Return for each share of cost by how much each test sample ``[N]`` is worth more with our best mixture within it.

    Shares are those of their settings if not given. A mixture treats some samples with one setting and the rest with
    another, so a coarse knob is no drawback; either side's is chosen on validation data. Shares below all of either
    side's settings are left out. Both have the same full model.
    """
    found = []
    for share in shares or [1 / point.speed_up for point in theirs.validation]:
        mixed = [mixture(side.validation, share) for side in (ours, theirs)]
        if mixed[0] and mixed[1]:
            a, b = (
                each.of([of_samples(point) for point in side.test])
                for each, side in zip(mixed, (ours, theirs), strict=True)
                if each
            )
            found.append(a - b)
    return found


def mean_gain(found: Sequence[Floats]) -> Difference:
    """Return the mean of such gains over shares of cost; without any share nothing is gained, for certain."""
    return over_samples(np.mean(found, axis=0)) if found else Difference(float("nan"), 0.0)


def told(found: Sequence[Floats]) -> str:
    """Say what was gained on the mean, and between which ends."""
    if not found:
        return "no setting is as cheap"
    means = [float(each.mean()) for each in found]
    return f"{mean_gain(found)} on the mean, from {min(means):+.3f} to {max(means):+.3f}"
