"""An additive ensemble of trees ranks the candidates of a query; at a sentinel tree a policy sends candidates away.

What leaves is a document of a query. Those that leave keep their partial score and are placed below all that were
scored to the end, which are ordered by their full score. Cost is the number of trees traversed per document, whatever
decides at the sentinel included. The full model is the whole ensemble on every document.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import lightgbm
import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine import chance, routing
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.metrics import ndcg, ndcg_per_query
from eelit.methods.engine.queries import Floats, Integers, Queries, RankingData, spans
from eelit.methods.engine.records import Chance, Execution, OperatingPoint
from eelit.methods.engine.timing import in_turn
from eelit.methods.engine.trees import TreeCounter, scores
from eelit.methods.policies.base import Policy

Predictor = Callable[[Queries, Floats], Floats]
"""From queries and their partial scores ``[n]`` to what the policy is shown of each document ``[n]``."""


def positions(values: Floats, exits: Integers | None = None) -> Integers:
    """Return each document's position ``[n]`` (0 = best) in one query: who went further first, then by last score.

    Without ``exits`` all went as far. Of equal ones the later is first.
    """
    further = np.zeros(len(values), dtype=np.int64) if exits is None else exits
    found = np.empty(len(values), dtype=np.int64)
    found[np.lexsort((values, further))[::-1]] = np.arange(len(values))
    return found


def first_of(values: Floats, sizes: Integers, k: int) -> NDArray[np.bool_]:
    """Return which documents ``[n]`` are among the first k of their query by a score ``[n]``."""
    return np.concatenate([positions(values[rows]) < k for rows in spans(sizes)])


@dataclass(frozen=True)
class Ranking:
    """The outcome for a batch of queries. Who is shown to the policy as not finite does not leave there."""

    exits: Integers  # [n], the sentinel, from 0, at which each left; as many as there are: scored to the end
    places: Integers  # [n], each document's position in its query's result
    not_finite: NDArray[np.bool_]  # [n], of whom the policy was shown what is not finite

    def head(self, n: int) -> Ranking:
        """Return the outcome of the first documents, which are those of whole queries."""
        return Ranking(self.exits[:n], self.places[:n], self.not_finite[:n])


class Ranker(Protocol):
    """An additive ensemble of trees with sentinels."""

    @property
    def trees(self) -> int:
        """Number of trees of the whole ensemble."""

    def traverse(self, queries: Queries, policy: Policy) -> Ranking:
        """Rank for real: trees see only the documents that the policy has kept so far."""

    def full(self, queries: Queries) -> Integers:
        """Return the places ``[n]`` that the whole ensemble gives, without sentinels."""


class RankerMethod(Method):
    """What methods in an additive ranker have in common; samples are queries, cost is trees per document."""

    unit: ClassVar[str] = "trees"

    @property
    def quality(self) -> str:
        """Mean NDCG of the first ten."""
        return "NDCG@10"

    @abstractmethod
    def load(self) -> RankingData:
        """Return the queries of the experiment."""

    @abstractmethod
    def policy_at(self, prepared: Any, knob: float) -> Policy:
        """Return the policy at one knob."""

    @abstractmethod
    def spent(self, prepared: Any, found: Ranking) -> float:
        """Return the trees that the documents of an outcome traverse in all."""

    def describe(self, data: RankingData, bench: Bench) -> None:
        """Tell what is measured on."""
        bench.data["examples"] = data.digest
        bench.data["sizes"] = " / ".join(str(len(part)) for part in (data.train, data.validation, data.test))

    def each(self, places: Integers, queries: Queries) -> NDArray[np.float64]:
        """Return the NDCG@10 of each query ``[Q]`` from places ``[n]`` in the queries' results."""
        return ndcg_per_query(-places, queries.grades, queries.sizes)

    def score(self, places: Integers, queries: Queries) -> float:
        """Return the mean NDCG@10 of places ``[n]`` in the queries' results."""
        return float(self.each(places, queries).mean())

    def full_model(self, prepared: Any, bench: Bench) -> tuple[float, float]:
        """Return the quality of the whole ensemble on the test split, and its trees."""
        ranker, queries = self.ranker(prepared), prepared.split("test").queries
        return self.score(ranker.full(queries), queries), float(ranker.trees)

    @abstractmethod
    def ranker(self, prepared: Any) -> Ranker:
        """Return the ensemble of trees with its sentinels, which `prepare` trained."""

    def chance(self, prepared: Any, bench: Bench) -> Chance:
        """Return what random orders of each query's documents reach."""
        queries = prepared.split("test").queries
        return chance.of_orders(lambda values: ndcg(values, queries.grades, queries.sizes), len(queries.grades))

    def execute(self, prepared: Any, bench: Bench, knob: float) -> Execution:
        """Run test queries: once with trees counted from outside, then timed in turn with the whole ensemble."""
        ranker, seen, policy = self.ranker(prepared), prepared.split("test"), self.policy_at(prepared, knob)
        queries = seen.queries.head(bench.executed)
        expected = seen.replay(policy).head(len(queries.grades))
        with TreeCounter() as counter:
            found = ranker.traverse(queries, policy)
        ours, plain = in_turn(lambda q: ranker.traverse(q, policy), ranker.full, [queries], bench.repeats, ())
        return Execution(
            knob=knob,
            samples=len(queries),
            claimed=self.spent(prepared, expected),
            counted=counter.trees,
            agrees=bool((found.exits == expected.exits).all() and (found.places == expected.places).all()),
            seconds=ours,
            full_seconds=plain,
            not_finite=sum(bool(found.not_finite[rows].any()) for rows in queries.spans()),
        )


@dataclass(frozen=True)
class Sentinel:
    """An ensemble cut in two, with what is asked between the parts at the price of ``price`` trees a document."""

    ranker: lightgbm.Booster
    tree: int  # trees before the sentinel
    predictor: Predictor
    price: int

    @property
    def trees(self) -> int:
        """Number of trees of the whole ensemble."""
        return self.ranker.num_trees()

    def traverse(self, queries: Queries, policy: Policy) -> Ranking:
        """Rank for real: the trees behind the sentinel see only the documents that the policy keeps."""
        partial = scores(self.ranker, queries.features, 0, self.tree)
        gone, flawed = decide(policy, self.predictor(queries, partial), queries.sizes)
        full = partial.copy()
        full[~gone] += scores(self.ranker, queries.features[~gone], self.tree)
        return Ranking(left(gone), place_all(partial, full, gone, queries.sizes), flawed)

    def full(self, queries: Queries) -> Integers:
        """Return the places ``[n]`` that the whole ensemble gives, without a sentinel."""
        values = scores(self.ranker, queries.features)
        return place_all(values, values, np.zeros(len(values), dtype=bool), queries.sizes)


def decide(policy: Policy, shown: Floats, sizes: Integers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Ask the policy query by query who leaves, ``[n]``; return that, and of whom it was shown what is not finite."""
    told = [routing.decide(policy, policy.start(), shown[rows])[1:] for rows in spans(sizes)]
    gone, sound = (np.concatenate(part) for part in zip(*told, strict=True))
    return gone, ~sound


def left(gone: NDArray[np.bool_]) -> Integers:
    """Return the exit ``[n]`` of documents that left at the one sentinel, or did not."""
    return (~gone).astype(np.int64)


def place_all(partial: Floats, full: Floats, gone: NDArray[np.bool_], sizes: Integers) -> Integers:
    """Return the places ``[n]``: in each query survivors by full score, then the others by partial score.

    The full score of those that left is not looked at.
    """
    values, stayed = np.where(gone, partial, full), left(gone)
    return np.concatenate([positions(values[rows], stayed[rows]) for rows in spans(sizes)])


@dataclass
class StoredScores:
    """A split as replay needs it: partial and full scores and what the policy is shown, each ``[n]``, computed once."""

    queries: Queries
    partial: Floats
    full: Floats
    shown: Floats

    def replay(self, policy: Policy) -> Ranking:
        """Return what `Sentinel.traverse` would, from the stored scores."""
        gone, flawed = decide(policy, self.shown, self.queries.sizes)
        return Ranking(left(gone), place_all(self.partial, self.full, gone, self.queries.sizes), flawed)


@dataclass
class Prepared:
    """The ranker with its sentinel, the data, and the splits seen so far."""

    sentinel: Sentinel
    data: RankingData
    selection: Queries  # the part of validation that nothing was fitted on: knobs are chosen on it
    bench: Bench
    _seen: dict[str, StoredScores] = field(default_factory=dict)

    def split(self, name: Split) -> StoredScores:
        """Return the stored scores of the split (the test split up to the bench's limit)."""
        if name not in self._seen:
            queries = self.selection if name == "validation" else self.data.test.head(self.bench.test)
            self.bench.progress(f"all trees on {len(queries)} {name} queries", None)
            partial = scores(self.sentinel.ranker, queries.features, 0, self.sentinel.tree)
            rest = scores(self.sentinel.ranker, queries.features, self.sentinel.tree)
            self._seen[name] = StoredScores(queries, partial, partial + rest, self.sentinel.predictor(queries, partial))
        return self._seen[name]


class RankingMethod(RankerMethod):
    """A method with one sentinel in an additive ranker."""

    @abstractmethod
    def train(self, data: RankingData, bench: Bench) -> tuple[Sentinel, Queries]:
        """Train the ranker and what is asked at its sentinel; test queries are out of reach.

        Return both, and the validation queries on which nothing was fitted: knobs are chosen on them.
        """

    @abstractmethod
    def policy(self, knob: float) -> Policy:
        """Return the policy at one knob."""

    def prepare(self, bench: Bench) -> Prepared:
        """Load the queries and train."""
        data = self.load()
        sentinel, selection = self.train(data.without_test(), bench)
        self.describe(data, bench)
        return Prepared(sentinel, data, selection, bench)

    def ranker(self, prepared: Prepared) -> Sentinel:
        """The ensemble with its sentinel."""
        return prepared.sentinel

    def policy_at(self, prepared: Prepared, knob: float) -> Policy:
        """The policy needs nothing of what was prepared."""
        return self.policy(knob)

    def spent(self, prepared: Prepared, found: Ranking) -> float:
        """Add up the trees of documents, with what is asked at the sentinel."""
        return self.cost(prepared.sentinel, found)

    def cost(self, sentinel: Sentinel, found: Ranking) -> float:
        """Return the trees that the documents of an outcome traverse in all."""
        asked = len(found.exits) * (sentinel.tree + sentinel.price)
        return float(asked + found.exits.sum() * (sentinel.trees - sentinel.tree))

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Replay every knob on the stored scores of the split."""
        seen = prepared.split(split)
        return [self.point(prepared.sentinel, seen, knob, self.policy(knob)) for knob in knobs]

    def point(self, sentinel: Sentinel, seen: StoredScores, knob: float, policy: Policy) -> OperatingPoint:
        """Replay one policy on stored scores; cost is counted in trees, on average over documents."""
        ranking = seen.replay(policy)
        worth, cost = self.each(ranking.places, seen.queries), self.cost(sentinel, ranking) / len(ranking.exits)
        return point(knob, worth, ranking.exits, count=2, cost=cost, full=float(sentinel.trees))
