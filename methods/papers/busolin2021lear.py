"""Learning Early Exit Strategies for Additive Ranking Ensembles (LEAR).

Idea
    A ranker of many trees scores every candidate to the end although only the first few will be looked at. After a few
    trees, ask a tiny forest whether this document can still end up relevant and near the top; if not, stop scoring it.
    The forest knows the labels, which older rules on partial scores alone do not.

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
    score. t = 1 sends everybody away, t = 0 nobody.

Skipped
    Trees e+1 … N for the documents that left. Trees per document: e + 10 + (share staying) * (N - e).

Deviations
    1. MovieLens as graded queries instead of MSLR-WEB30K and Istella: a user is a query, rated films are candidates,
       stars give grades. It is recommendation data in the clothes of a ranking task, with few queries and features.
    2. 271 train queries; 200 for validation, half for the forest, half for its settings and the threshold; 200 for
       testing.
    3. 300 trees with the sentinel after 15, instead of 1,129 and 1,481 with sentinels after 50, 100 or 200.
    4. The forest's settings come from 9 trials, not from 100; importance is LightGBM's gain, not rankeval's.
    5. Leavers are ordered by partial score; the notebook takes the full score less a constant, which nobody has.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from lightgbm import Booster

from eelit.methods.engine import tasks
from eelit.methods.engine.method import Bench
from eelit.methods.engine.queries import Floats, Integers, Queries, spans
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.trees import probabilities, scores
from eelit.methods.families.ranking import Judge, Prepared, RankingMethod, Sentinel, positions
from eelit.methods.policies.continuation import ContinuationThreshold
from eelit.methods.recipes.boosting import Labelled, best_classifier, lambdamart

LOSS = 0.0005  # relative, the larger of the two losses that the abstract reports


def worth(final: Floats, grades: Integers, sizes: Integers, k: int) -> Integers:
    """Return y+ ``[n]``: 1 for documents that are relevant and among their query's first ``k`` by final score."""
    top = np.concatenate([positions(final[rows]) < k for rows in spans(sizes)])
    return (top & (grades > 0)).astype(np.int64)


def weights(wanted: Integers, grades: Integers, sizes: Integers) -> Floats:
    """Return w(d) ``[n]`` from y+, grades and the documents per query."""
    found = np.where(wanted == 1, 2.0**grades, 1.0)
    for rows in spans(sizes):
        n, positive = len(wanted[rows]), wanted[rows].sum()
        found[rows] *= np.where(wanted[rows] == 1, n / (2 * max(positive, 1)), n / (2 * max(n - positive, 1)))
    return found


def standing(queries: Queries, partial: Floats, important: Integers) -> Floats:
    """Return what the forest sees ``[n, F + 4]``: important features, rank, s_e, the same in [0, 1], n_q."""
    columns = []
    for s in (partial[rows] for rows in queries.spans()):
        columns.append(np.stack([positions(s), s, (s - s.min()) / (np.ptp(s) or 1.0), np.full(len(s), len(s))], axis=1))
    return np.hstack([queries.features[:, important], np.concatenate(columns)])


@dataclass(frozen=True)
class Lear(RankingMethod):
    """Learned early exit for additive ranking ensembles."""

    corpus: str = "movielens"  # the paper: MSLR-WEB30K, Istella
    train: int = 271  # train queries
    validation: int = 200  # validation queries, half for the forest, half for choosing
    trees: int = 300  # N; the paper: 1,129 and 1,481
    rate: float = 0.02  # the ranker's learning rate; not stated
    leaves: int = 15  # of each of the ranker's trees; not stated
    sentinel: int = 15  # e; the paper: 50, 100 or 200
    top: int = 15  # K': the 10 that count and a margin of 5
    kept: int = 15  # of the original features; the paper: 54 of 136, 118 of 220
    forest: int = 10  # trees of the forest; the paper: 10, of at most 64 leaves and depth 8

    data: ClassVar[tuple[str, ...]] = ("movielens",)
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.4, 0.2, 0.0)
    tiny: ClassVar[Mapping[str, Any]] = {"corpus": "made", "train": 60, "validation": 60, "trees": 60, "kept": 3}
    full: ClassVar[Mapping[str, Any]] = {"trees": 600, "rate": 0.01, "sentinel": 30}

    def prepare(self, bench: Bench) -> Prepared:
        """Train the ranker on train queries, the forest on the first half of validation."""
        data = tasks.queries(self.corpus, train=self.train, validation=self.validation)
        bench.data[self.corpus] = data.digest
        ranker = lambdamart(data.train, bench, trees=self.trees, rate=self.rate, leaves=self.leaves)
        half = len(data.validation) // 2
        fitting, choosing = data.validation.part(0, half), data.validation.part(half, len(data.validation))
        important = np.argsort(-ranker.feature_importance("gain"), kind="stable")[: self.kept]
        judge = self.judge(ranker, important, fitting, choosing, bench)
        return Prepared(Sentinel(ranker, self.sentinel, judge, self.forest), data, choosing, bench)

    def judge(self, ranker: Booster, important: Integers, fitting: Queries, choosing: Queries, bench: Bench) -> Judge:
        """Train forests on ``fitting``; the one with the smallest weighted log loss on ``choosing`` judges."""

        def examples(q: Queries) -> Labelled:
            wanted = worth(scores(ranker, q.features), q.grades, q.sizes, self.top)
            seen = standing(q, scores(ranker, q.features, 0, self.sentinel), important)
            return Labelled(seen, wanted, weights(wanted, q.grades, q.sizes))

        grid = itertools.product((0.1, 0.2, 0.4), (20, 50, 100))
        trials = [{"num_leaves": 64, "max_depth": 8, "learning_rate": r, "min_data_in_leaf": m} for r, m in grid]
        forest = best_classifier(examples(fitting), examples(choosing), bench, trees=self.forest, trials=trials)
        return lambda q, partial: probabilities(forest, standing(q, partial, important))

    def policy(self, knob: float) -> ContinuationThreshold:
        """The knob is the probability at or below which a document leaves."""
        return ContinuationThreshold(knob)

    def claims(self, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
        """Three times fewer trees at no loss; better than EPT at equal cost."""
        held = curve.validation
        good = [ours for seen, ours in zip(held, curve.test, strict=True) if seen.quality >= held[-1].quality]
        loss = 1 - good[0].quality / curve.full_quality
        rivals = [self.proximity(prepared, p.cost, self.top) for p in held]
        gains = [ours.quality - theirs.quality for ours, theirs in zip(curve.test, rivals, strict=True)]
        return [
            *super().claims(prepared, bench, curve),
            Outcome(
                name="3× at no loss",
                statement=f"The fastest threshold without loss on validation is 3× faster and loses ≤ {LOSS:.2%}.",
                holds=good[0].speed_up >= 3 and loss <= LOSS,
                measured=f"loss {loss:.2%} at threshold {good[0].knob:g}, speed-up {good[0].speed_up:.2f}×",
            ),
            Outcome(
                name="better than proximity",
                statement="At equal cost NDCG@10 is above that of the proximity threshold (EPT), averaged over knobs.",
                holds=float(np.mean(gains)) > 0,
                measured=f"{np.mean(gains):+.4f} on average, above at {sum(g > 0 for g in gains)} of {len(gains)}",
            ),
        ]
