"""Learning Early Exit Strategies for Additive Ranking Ensembles (LEAR).

Idea
    A ranker of many trees scores every candidate to the end although only the first few will be looked at. After a few
    trees, ask a tiny forest whether this document can still end up relevant and near the top; if not, score it no further.
    The forest knows the labels, which older rules on partial scores alone do not.

Model
    s(d) = sum_{t=1..N} f_t(d), a LambdaMART ensemble; the sentinel stands after e trees, with partial score s_e(d).

Training
    After the ranker, on queries it was not trained on. A document is worth going on with (y+ = 1) iff it is among the first
    K' = 15 by the final score s and its grade y is above 0. The forest (10 trees, log loss) sees the features that matter
    most to the ranker, the document's rank by s_e in its query, s_e, s_e scaled to [0, 1] within the query, and the number
    of candidates n_q. Weights: w(d) = (2^y if y+ else 1) * n_q / (2 n_{q,c}), c being d's class: both classes of a query
    weigh alike before the factor of the grade.

Exit rule
    A document leaves at the sentinel when p(y+ | d) <= t. It ranks below all survivors, in the order of its partial score.
    t = 1 sends everybody away, t = 0 nobody. High t is fast.

Skipped
    Trees e+1 … N for the documents that left. Trees per document: 10 + e + (share staying) * (N - e).

Deviations
    1. MovieLens as graded queries instead of MSLR-WEB30K and Istella: a user is a query, rated films are its candidates,
       stars are grades. It is recommendation data dressed as ranking, with few queries and few features.
    2. 300 trees with the sentinel after 30, instead of about 1,100 and 1,500 with sentinels after 50, 100 or 200.
    3. The forest's settings come from 9 trials on validation queries that also choose the threshold, not from 100.
    4. The notebook orders leavers by their full score minus a constant, which a running system would not have: here by the
       partial score. Its top 15 by final score are the same.
    5. Importance of features is LightGBM's total gain, not rankeval's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import lightgbm
import numpy as np

from eelit.methods import tasks
from eelit.methods.families.ranking import (
    Floats, Integers, Measured, Prepared, Queries, RankingMethod, Sentinel, positions, spans,
)  # fmt: skip
from eelit.methods.method import Bench
from eelit.methods.policies.prospect import Prospect
from eelit.methods.policies.proximity import Proximity
from eelit.methods.recipes.boosting import boosted
from eelit.methods.results import Curve, Outcome


def worth(final: Floats, grades: Integers, sizes: Integers, k: int) -> Integers:
    """Return 1 for documents ``[n]`` that are relevant and among their query's first ``k`` by final score, else 0."""
    top = np.concatenate([positions(final[rows]) < k for rows in spans(sizes)])
    return (top & (grades > 0)).astype(np.int64)


def weights(wanted: Integers, grades: Integers, sizes: Integers) -> Floats:
    """Return w(d) ``[n]``: 2^grade for those worth going on, 1 for others, both classes balanced within each query."""
    found = np.where(wanted == 1, 2.0**grades, 1.0)
    for rows in spans(sizes):
        n, positive = len(wanted[rows]), wanted[rows].sum()
        found[rows] *= np.where(wanted[rows] == 1, n / (2 * max(positive, 1)), n / (2 * max(n - positive, 1)))
    return found


def standing(queries: Queries, partial: Floats, important: Integers) -> Floats:
    """Return what the forest sees: important features, rank, partial score, the same in [0, 1], candidates."""
    columns = []
    for rows in spans(queries.sizes):
        s = partial[rows]
        scaled = (s - s.min()) / (np.ptp(s) or 1.0)
        columns.append(np.stack([positions(s), s, scaled, np.full(len(s), len(s))], axis=1))
    return np.hstack([queries.features[:, important], np.concatenate(columns)])
