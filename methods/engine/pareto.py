"""Which designs no other is better than, and what such a front is worth. Neither torch nor numpy here.

A design is judged by two figures, both to be small: its error, and its mean cost as a share of the full model's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def front(judged: Sequence[tuple[float, float]]) -> list[int]:
    """Return the numbers of the designs that no other dominates, the cheapest first; of equal ones the first.

    One dominates another if neither its error nor its cost is larger, and one of them is smaller.
    """
    order = sorted(range(len(judged)), key=lambda i: (judged[i][1], judged[i][0]))
    found, least = [], math.inf
    for i in order:
        if judged[i][0] < least:
            found.append(i)
            least = judged[i][0]
    return found


def hypervolume(judged: Sequence[tuple[float, float]]) -> float:
    """Return the area that designs dominate, up to error 1 and the cost of the full model.

    So it is the mean, over all budgets up to the full model's cost, of the accuracy that the best design within the
    budget reaches (0 where none fits).
    """
    best = [judged[i] for i in front(judged) if judged[i][1] < 1]
    ends = [*(share for _, share in best), 1.0][1:]
    return math.fsum((1 - error) * (end - share) for (error, share), end in zip(best, ends, strict=True))
