"""An additive ensemble of trees ranks the candidates of a query; at several sentinels a policy sends candidates away.

As in `ranking`, but for the number of sentinels. Who leaves keeps the partial score of the sentinel where it left.
Those that were scored to the end come first, by full score; then those that left, the latest sentinel first, by partial
score. Cost is the number of trees traversed per document: the rules compare what is there, and ask no tree.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import lightgbm
import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine import routing
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.queries import Floats, Integers, Queries, RankingData, spans
from eelit.methods.engine.records import Baseline, ExitFacts, OperatingPoint
from eelit.methods.engine.trees import scores
from eelit.methods.families.ranking import RankerMethod, Ranking, positions
from eelit.methods.policies.base import Policy


def descend(policy: Policy, sizes: Integers, sentinels: int, ask: Callable[[int, Integers], Floats]) -> Ranking:
    """Send documents from sentinel to sentinel, query by query as the policy says.

    ``ask(j, rows [m])`` gives the scores of documents after part ``j`` of the ensemble, of those alone that reach it.
    """
    n = int(sizes.sum())
    exits, values, flawed = np.full(n, sentinels, dtype=np.int64), np.zeros(n), np.zeros(n, dtype=bool)
    running = [np.arange(rows.start, rows.stop) for rows in spans(sizes)]
    states = [policy.start() for _ in running]
    for j in range(sentinels):
        alive = np.concatenate(running)
        values[alive] = ask(j, alive)
        for q, rows in enumerate(running):
            if len(rows):
                state, gone, sound = routing.decide(policy, states[q], values[rows])
                exits[rows[gone]], flawed[rows] = j, flawed[rows] | ~sound
                running[q], states[q] = rows[~gone], tuple(part[~gone] for part in state)
    alive = np.concatenate(running)
    values[alive] = ask(sentinels, alive)
    return Ranking(exits, np.concatenate([positions(values[rows], exits[rows]) for rows in spans(sizes)]), flawed)


@dataclass(frozen=True)
class Sentinels:
    """An ensemble with sentinels behind some numbers of its trees, ascending."""

    ranker: lightgbm.Booster
    after: tuple[int, ...]

    @property
    def trees(self) -> int:
        """Number of trees of the whole ensemble."""
        return self.ranker.num_trees()

    @property
    def depths(self) -> Integers:
        """Trees that a document traversed that left at each sentinel, or at none ``[J + 1]``."""
        return np.array([*self.after, self.trees])

    def part(self, j: int, features: NDArray[np.float32]) -> Floats:
        """Return what the trees between a sentinel and the one before add ``[n]``."""
        return scores(self.ranker, features, int(self.depths[j - 1]) if j else 0, int(self.depths[j]))

    def traverse(self, queries: Queries, policy: Policy) -> Ranking:
        """Rank for real: trees see only the documents that the policy has kept so far."""
        known = np.zeros(len(queries.grades))

        def ask(j: int, rows: Integers) -> Floats:
            known[rows] += self.part(j, queries.features[rows])
            return known[rows]

        return descend(policy, queries.sizes, len(self.after), ask)

    def full(self, queries: Queries) -> Integers:
        """Return the places ``[n]`` that the whole ensemble gives, without sentinels."""
        values = scores(self.ranker, queries.features)
        return np.concatenate([positions(values[rows]) for rows in queries.spans()])


@dataclass(frozen=True)
class PartialScores:
    """A split as replay needs it: its queries and the scores after each part ``[J + 1, n]``, computed once."""

    queries: Queries
    scores: Floats

    @classmethod
    def of(cls, sentinels: Sentinels, queries: Queries) -> PartialScores:
        """Run all trees on all documents."""
        parts = [sentinels.part(j, queries.features) for j in range(len(sentinels.after) + 1)]
        return cls(queries, np.cumsum(parts, axis=0))

    def replay(self, policy: Policy) -> Ranking:
        """Return what `Sentinels.traverse` would, from the stored scores."""
        return descend(policy, self.queries.sizes, len(self.scores) - 1, lambda j, rows: self.scores[j, rows])


@dataclass
class Prepared:
    """The ranker with its sentinels, the data, and the splits seen so far."""

    method: SentinelMethod
    sentinels: Sentinels
    data: RankingData
    tuning: Queries  # validation queries on which thresholds are fitted
    selection: Queries  # the others, on which knobs are chosen
    bench: Bench
    rules: dict[float, Policy] = field(default_factory=dict)
    _seen: dict[str, PartialScores] = field(default_factory=dict)

    def split(self, name: Split | str) -> PartialScores:
        """Return the stored scores of ``tuning``, ``validation`` or ``test`` (that up to the bench's limit)."""
        if name not in self._seen:
            known = {"tuning": self.tuning, "validation": self.selection}
            queries = known[name] if name in known else self.data.test.head(self.bench.test)
            self.bench.progress(f"all trees on {len(queries)} {name} queries", None)
            self._seen[name] = PartialScores.of(self.sentinels, queries)
        return self._seen[name]

    def rule(self, knob: float) -> Policy:
        """Return the policy at one knob, made once."""
        if knob not in self.rules:
            self.rules[knob] = self.method.policy(knob, self.split("tuning"))
        return self.rules[knob]


class SentinelMethod(RankerMethod):
    """A method with sentinels in an additive ranker."""

    @abstractmethod
    def train(self, data: RankingData, bench: Bench) -> Sentinels:
        """Train the ranker and place its sentinels; test queries are out of reach."""

    @abstractmethod
    def policy(self, knob: float, seen: PartialScores) -> Policy:
        """Return the policy at one knob, its thresholds fitted on queries that nothing else has seen."""

    def prepare(self, bench: Bench) -> Prepared:
        """Load the queries and train; the first half of the validation queries is for fitting thresholds."""
        data = self.load()
        sentinels, half = self.train(data.without_test(), bench), len(data.validation) // 2
        self.describe(data, bench)
        tuning, selection = data.validation.part(0, half), data.validation.part(half, len(data.validation))
        return Prepared(self, sentinels, data, tuning, selection, bench)

    def ranker(self, prepared: Prepared) -> Sentinels:
        """The ensemble with its sentinels."""
        return prepared.sentinels

    def policy_at(self, prepared: Prepared, knob: float) -> Policy:
        """The policy whose thresholds were fitted once."""
        return prepared.rule(knob)

    def spent(self, prepared: Prepared, found: Ranking) -> float:
        """Add up the depths at which documents left: the rules compare what is there, and ask no tree."""
        return float(prepared.sentinels.depths[found.exits].sum())

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Replay every knob on the stored scores of the split."""
        return [self.point(prepared, split, knob, prepared.rule(knob)) for knob in knobs]

    def point(self, prepared: Prepared, split: Split, knob: float, policy: Policy) -> OperatingPoint:
        """Replay one policy on a split's stored scores; cost is counted in trees, on average over documents."""
        seen, depths = prepared.split(split), prepared.sentinels.depths
        found = seen.replay(policy)
        cost = self.spent(prepared, found) / len(found.exits)
        worth, full = self.each(found.places, seen.queries), float(prepared.sentinels.trees)
        return point(knob, worth, found.exits, count=len(depths), cost=cost, full=full)

    def static(self, prepared: Prepared, split: Split) -> list[OperatingPoint]:
        """Return the ensemble cut off for good at each sentinel, and whole; the knob is the number of the part."""
        seen, depths = prepared.split(split), prepared.sentinels.depths
        found = []
        for j, values in enumerate(seen.scores):
            places = np.concatenate([positions(values[rows]) for rows in seen.queries.spans()])
            worth, exits = self.each(places, seen.queries), np.full(len(places), j)
            cost, full = float(depths[j]), float(depths[-1])
            found.append(point(j + 1, worth, exits, count=len(depths), cost=cost, full=full))
        return found

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return the ensemble with fewer trees for everybody."""
        held, test = (self.static(prepared, split) for split in ("validation", "test"))
        return [Baseline(name="static exit", validation=held, test=test)]

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return the ensemble cut off at each sentinel."""
        return [ExitFacts(quality=p.quality, cost=p.cost) for p in self.static(prepared, "test")], None
