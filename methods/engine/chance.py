"""What answers reach that do not look at the input, for each measure of quality: where a model has learnt nothing."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine.records import Chance

SHUFFLES = 100
"""Random orders that chance is measured with, where no formula gives it."""


def of_classes(labels: Tensor, what: str = "samples") -> Chance:
    """Return the accuracy of always saying the commonest of the labels ``[N]``, and its binomial standard error."""
    counts = labels.unique(return_counts=True)[1]
    p = float(counts.max()) / len(labels)
    said = f"the commonest of {len(counts)} classes, of {len(labels)} {what}"
    return Chance(what=said, quality=p, error=sqrt(p * (1 - p) / len(labels)))


def of_values(values: Tensor) -> Chance:
    """Return the correlation, 0, of values ``[N]`` with any that have nothing to do with them."""
    n = len(values)
    said = f"no correlation, of {n} samples"
    return Chance(what=said, quality=0.0, error=1 / sqrt(max(1, n - 1)))


def of_answers(answers: Tensor, targets: Tensor) -> Chance:
    """Return the chance of answers ``[N, C]`` with classes ``[N]``, or of values ``[N]`` with others."""
    return of_values(targets) if answers.dim() == 1 else of_classes(targets)


def of_orders(score: Callable[[NDArray[np.float64]], float], documents: int) -> Chance:
    """Return mean and deviation of the score of random values ``[documents]``, by which documents are ranked."""
    rng = np.random.default_rng(0)
    found = [score(rng.random(documents)) for _ in range(SHUFFLES)]
    return Chance(
        what=f"{SHUFFLES} random orders of {documents} documents",
        quality=float(np.mean(found)),
        error=float(np.std(found)),
    )
