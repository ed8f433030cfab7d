"""Early Exit Optimizations for Additive Machine Learned Ranking Systems (EST, ECT, ERT, EPT).

Idea
    In a ranker that is a sum of many scorers, partial scores show early which candidates of a query will not come near
    the top. They are dropped there. Four rules differ in what a partial score is compared with; their thresholds are
    tuned offline, so that the visible results hardly change.

Model
    s_j(d) = sum_{i<=j} f_i(d), a LambdaMART ensemble of N trees, with sentinels after trees e_1 < … < e_J. The result
    is the top k by s_N.

Training
    The ranker as ever. Then, on other queries and without their labels, the thresholds t_1 … t_J are set for a required
    recall rho of the documents that finally belong to the top k: sentinel by sentinel, t_j is the smallest value with
    which at most the share (1 - rho) * j / J of them is lost so far. rho = 0 requires none of them, and all t_j are
    minus infinity.

Exit rule
    Of the candidates A_j of a query that still run at sentinel j, d leaves when g_j(d) > t_j:
    EST, score: g_j(d) = -s_j(d), so when the score is below a fixed one, the same for every query.
    ECT, capacity: g_j(d) = 1 + #{d' in A_j before d : s_j(d') > s_j(d)}. That is a heap of the t_j best partial scores
    seen so far, which fills while documents come one by one; so the first t_j never leave.
    ERT, rank: g_j(d) = 1 + #{d' in A_j : s_j(d') > s_j(d)}.
    EPT, proximity: g_j(d) = kappa_j - s_j(d), kappa_j the k-th largest s_j in A_j.
    Dropped documents rank below all that were scored to the end, those of later sentinels first, then by partial score.

Skipped
    All further trees, for the documents that left. EST and ECT do not need all documents of the query at the same time,
    and so allow scoring document by document; ERT and EPT need scoring tree by tree. The trees traversed are the same.

Deviations
    1. Only the abstract could be read. EPT is known from notebooks by others, and agrees with one on the same numbers;
       EST, ECT and ERT are reconstructed from their names. Lecture notes explain capacity differently, as a bound on
       what the rest can add.
    2. How the paper tunes is not known: here one required recall sets all thresholds of all four rules, by the sum over
       sentinels above. At low recall this gives ranks and capacities below k, which no search engine would use.
    3. MovieLens as graded queries instead of web search: a user is a query, rated films are candidates in the order
       of their numbers, which is the stream that ECT sees; stars give grades. k = 10.
    4. 300 boosted trees, a sentinel every 25; the paper's additive ranker is one of a search engine, its size not read.
    5. 271 train queries; of 200 for validation the first half tunes thresholds, the other chooses among recalls.
    6. How the paper orders those that left is not known: they are in the order of their partial scores, as in the
       notebook, which has one sentinel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, inf
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine import tasks
from eelit.methods.engine.method import Bench
from eelit.methods.engine.queries import Floats, Integers, RankingData, spans
from eelit.methods.families.ranking import first_of
from eelit.methods.families.sentinels import PartialScores, SentinelMethod, Sentinels
from eelit.methods.policies.document_threshold import DocumentThreshold, criterion
from eelit.methods.recipes.lambdamart import lambdamart


def criteria(rule: str, values: Floats, alive: NDArray[np.bool_], sizes: Integers, k: int) -> Floats:
    """Return g_j ``[n]`` of the documents that still run, query by query; NaN for the others."""
    found = np.full(len(values), np.nan)
    for rows in spans(sizes):
        here = np.arange(rows.start, rows.stop)[alive[rows]]
        found[here] = criterion(rule, values[here], k)
    return found


def thresholds(rule: str, seen: PartialScores, recall: float, k: int) -> tuple[float, ...]:
    """Return t_1 … t_J, with which at least the share ``recall`` of the final top k stays; above 1 nobody leaves."""
    sentinels = len(seen.scores) - 1
    if recall <= 0 or recall > 1:
        return (inf if recall > 1 else -inf,) * sentinels
    sizes = seen.queries.sizes
    wanted, alive = first_of(seen.scores[-1], sizes, k), np.ones(seen.scores.shape[1], dtype=bool)
    total, found = int(wanted.sum()), []
    for j in range(sentinels):
        g = criteria(rule, seen.scores[j], alive, sizes, k)
        may_go = floor((1 - recall) * total * (j + 1) / sentinels + 1e-9) - int((wanted & ~alive).sum())
        worst_first = np.sort(g[wanted & alive])[::-1]
        found.append(float(worst_first[may_go]) if may_go < len(worst_first) else -inf)
        alive &= ~(g > found[-1])
    return tuple(found)


@dataclass(frozen=True)
class EarlyRanking(SentinelMethod):
    """Thresholds on partial scores in an additive ranker."""

    corpus: str = "movielens"  # the paper: queries and documents of a web search engine
    train_size: int = 271  # train queries
    validation: int = 200  # validation queries, half for the thresholds, half for choosing among recalls
    trees: int = 300  # N; not known
    rate: float = 0.02  # the ranker's learning rate; not known
    leaves: int = 15  # of each tree; not known
    every: int = 25  # trees from one sentinel to the next; not known
    top: int = 10  # k: results that should stay as they are; not known
    rule: str = "proximity"  # what a partial score is compared with; the paper: score, capacity, rank and proximity

    data: ClassVar[tuple[str, ...]] = ("movielens",)
    knob: ClassVar[str] = "recall"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "EPT": {},
        "ERT": {"rule": "rank"},
        "ECT": {"rule": "capacity"},
        "EST": {"rule": "score"},
    }
    tiny: ClassVar[Mapping[str, Any]] = {
        "corpus": "made", "train_size": 60, "validation": 60, "trees": 60, "every": 15,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {"trees": 600, "rate": 0.01}

    def __post_init__(self) -> None:
        if not 0 < self.every < self.trees:
            raise ValueError(f"sentinels stand every few of the {self.trees} trees, not every {self.every}")

    def load(self) -> RankingData:
        """Users as queries, films as documents."""
        return tasks.queries(self.corpus, train=self.train_size, validation=self.validation)

    def train(self, data: RankingData, bench: Bench) -> Sentinels:
        """The ranker on train queries; the last trees have no sentinel behind them."""
        ranker = lambdamart(data.train, bench, trees=self.trees, rate=self.rate, leaves=self.leaves)
        return Sentinels(ranker, tuple(range(self.every, self.trees, self.every)))

    def policy(self, knob: float, seen: PartialScores) -> DocumentThreshold:
        """The knob is the share of the final top k that the thresholds must keep on the tuning queries."""
        return DocumentThreshold(self.rule, thresholds(self.rule, seen, knob, self.top), self.top)
