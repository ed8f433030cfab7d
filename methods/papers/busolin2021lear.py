"""Learning Early Exit Strategies for Additive Ranking Ensembles (LEAR).

Idea
    A ranker of many trees scores every candidate to the end although only the first few will be looked at. After a few
    trees, a tiny forest predicts whether this document can still prove relevant and near the top; if not, scoring
    stops. The forest is trained on the labels, while older rules use only partial scores.

Model
    s(d) = sum_{t=1..N} f_t(d), a LambdaMART ensemble; the sentinel stands after e trees, with partial score s_e(d).

Training
    After the ranker, on queries it was not trained on. A document is worth going on with (y+ = 1) iff it is among the
    first K' = 15 by the final score s and its grade y is above 0. The forest (10 trees, log loss) sees the features
    that matter most to the ranker, the document's rank by s_e in its query, s_e, s_e scaled to [0, 1] in the query, and
    the number of candidates n_q. Weights: w(d) = (2^y if y+ else 1) * n_q / (2 n_{q,c}), c being d's class: but for the
    factor of the grade, both classes of a query weigh alike.

Exit rule
    A document leaves at the sentinel when p(y+ | d) <= t. It ranks below all survivors, in the order of its partial
    score. With t = 1 all documents leave, with t = 0 none.

Skipped
    Trees e+1 … N for the documents that left. Trees per document: e + 10 + (share staying) * (N - e).

Deviations
    1. MovieLens as graded queries instead of MSLR-WEB30K and Istella: a user is a query, rated films are candidates,
       stars give grades. These are recommendation data used as a ranking task, with few queries and features.
    2. 271 train queries; 200 for validation: 70 teach the forest, 30 choose its settings, and on the other 100, which
       neither has met, the threshold is chosen; 200 for testing.
    3. 300 trees with the sentinel after 15, instead of about a thousand (the notebook loads the rankers; how large they
       are was not read) with sentinels after 50, 100 or 200.
    4. The forest's settings come from 9 trials, not from 100; importance is LightGBM's gain, not rankeval's.
    5. Dropped documents are ordered by partial score; the notebook uses the full score minus a constant, which is not
       known at that point.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from lightgbm import Booster
from numpy.typing import NDArray

from eelit.methods.engine import tasks
from eelit.methods.engine.method import Bench
from eelit.methods.engine.queries import Floats, Integers, Queries, RankingData, spans
from eelit.methods.engine.trees import boosted, probabilities, scores
from eelit.methods.families.ranking import RankingMethod, Sentinel, first_of, positions
from eelit.methods.policies.continuation import ContinuationThreshold
from eelit.methods.recipes.lambdamart import lambdamart


def continuation_labels(final: Floats, grades: Integers, sizes: Integers, k: int) -> Integers:
    """Return y+ ``[n]``: 1 for documents that are relevant and among their query's first ``k`` by final score."""
    return (first_of(final, sizes, k) & (grades > 0)).astype(np.int64)


def document_weights(wanted: Integers, grades: Integers, sizes: Integers) -> Floats:
    """Return w(d) ``[n]`` from y+, grades and the documents per query."""
    found = np.where(wanted == 1, 2.0**grades, 1.0)
    for rows in spans(sizes):
        n, positive = len(wanted[rows]), wanted[rows].sum()
        found[rows] *= np.where(wanted[rows] == 1, n / (2 * max(positive, 1)), n / (2 * max(n - positive, 1)))
    return found


def forest_features(queries: Queries, partial: Floats, important: Integers) -> Floats:
    """Return what the forest sees ``[n, F + 4]``: important features, rank, s_e, the same in [0, 1], n_q."""
    columns = []
    for s in (partial[rows] for rows in queries.spans()):
        columns.append(np.stack([positions(s), s, (s - s.min()) / (np.ptp(s) or 1.0), np.full(len(s), len(s))], axis=1))
    return np.hstack([queries.features[:, important], np.concatenate(columns)])


class Labelled(NamedTuple):
    """Rows ``[n, F]``, classes 0 and 1 ``[n]``, and weights ``[n]``."""

    features: NDArray[Any]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]


def best_classifier(
    train: Labelled, held: Labelled, bench: Bench, *, trees: int, trials: Sequence[Mapping[str, Any]]
) -> Booster:
    """Train a classifier of ``trees`` trees for each of the trials' settings; return the one best on ``held``.

    Best is the smallest weighted log loss; the first of equals.
    """
    sign = 2 * held.labels - 1

    def loss(forest: Booster) -> float:
        return float(np.average(np.logaddexp(0, -sign * scores(forest, held.features)), weights=held.weights))

    forests = [
        boosted(
            train.features,
            train.labels,
            bench,
            trees=trees,
            label="training small forests",
            settings={"objective": "binary", **settings},
            weights=train.weights,
        )
        for settings in trials
    ]
    return min(forests, key=loss)


@dataclass(frozen=True)
class Lear(RankingMethod):
    """Learned early exit for additive ranking ensembles."""

    corpus: str = "movielens"  # the paper: MSLR-WEB30K, Istella
    train_size: int = 271  # train queries
    validation: int = 200  # validation queries, half for the forest, half for choosing the threshold
    trees: int = 300  # N; the paper: about a thousand
    rate: float = 0.02  # the ranker's learning rate; not stated
    leaves: int = 15  # of each of the ranker's trees; not stated
    sentinel: int = 15  # e; the paper: 50, 100 or 200
    top: int = 15  # K': the 10 that count and a margin of 5
    kept: int = 15  # of the original features; the notebook: 54 of 136, 118 of 220
    forest: int = 10  # trees of the forest; the paper: 10, of at most 64 leaves and depth 8

    data: ClassVar[tuple[str, ...]] = ("movielens",)
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.4, 0.2, 0.0)
    tiny: ClassVar[Mapping[str, Any]] = {"corpus": "made", "train_size": 60, "validation": 60, "trees": 60, "kept": 3}
    full: ClassVar[Mapping[str, Any]] = {"trees": 600, "rate": 0.01, "sentinel": 30}

    def load(self) -> RankingData:
        """Users as queries, films as documents."""
        return tasks.queries(self.corpus, train=self.train_size, validation=self.validation)

    def train(self, data: RankingData, bench: Bench) -> tuple[Sentinel, Queries]:
        """The ranker on train queries, the forest and its settings on the first half of validation.

        The second half is for choosing the threshold: the forest has met none of it.
        """
        ranker = lambdamart(data.train, bench, trees=self.trees, rate=self.rate, leaves=self.leaves)
        half = len(data.validation) // 2
        important = np.argsort(-ranker.feature_importance("gain"), kind="stable")[: self.kept]
        forest = self.fit_forest(ranker, important, data.validation.part(0, half), bench)

        def p(q: Queries, partial: Floats) -> Floats:
            return probabilities(forest, forest_features(q, partial, important))

        return Sentinel(ranker, self.sentinel, p, self.forest), data.validation.part(half, len(data.validation))

    def fit_forest(self, ranker: Booster, important: Integers, queries: Queries, bench: Bench) -> Booster:
        """Train forests on seven tenths of the queries; return that with the smallest weighted log loss on the rest."""

        def labelled(q: Queries) -> Labelled:
            wanted = continuation_labels(scores(ranker, q.features), q.grades, q.sizes, self.top)
            seen = forest_features(q, scores(ranker, q.features, 0, self.sentinel), important)
            return Labelled(seen, wanted, document_weights(wanted, q.grades, q.sizes))

        grid = itertools.product((0.1, 0.2, 0.4), (20, 50, 100))
        trials = [{"num_leaves": 64, "max_depth": 8, "learning_rate": r, "min_data_in_leaf": m} for r, m in grid]
        taught = 7 * len(queries) // 10
        fitting, held = queries.part(0, taught), queries.part(taught, len(queries))
        return best_classifier(labelled(fitting), labelled(held), bench, trees=self.forest, trials=trials)

    def policy(self, knob: float) -> ContinuationThreshold:
        """The knob is the probability at or below which a document leaves."""
        return ContinuationThreshold(knob)
