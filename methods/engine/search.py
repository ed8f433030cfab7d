"""A search over designs, judged by what is stored of held-out data: NSGA-II, and one at random to compare it with.

A design is a row of whole numbers, one for each gene. NSGA-II (Deb et al., 2002) is pymoo's: binary tournaments by
dominance and crowding, uniform crossover, survival of the best fronts. A gene mutates with probability ``1 / genes``:
one of two values flips, one of more goes to a neighbouring value or, as often, to any. A gene without effect, such as
the threshold of an exit that is not there, is inherited all the same; designs that differ in such genes alone are one
and are recorded alike, so that none stands twice in a population. One that has died out may be found again: it is not
judged again, so a search's budget is how many different designs it has judged. Searches of one seed begin with the same
designs, so what is found later is their own doing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.method import Bench
from eelit.methods.engine.pareto import front, hypervolume
from eelit.methods.engine.records import DesignPoint, Search
from eelit.methods.policies.base import checked

Designs = NDArray[np.int64]
"""Rows of genes, ``[n, G]``."""
Judge = Callable[[Designs], NDArray[np.float64]]
"""From designs to ``[n, 2]``: the error of each, and its mean cost as a share of the full model's."""


SPARE = 8
"""How many designs are drawn for one that a random search may judge: some are drawn twice."""


def as_it_is(designs: Designs) -> Designs:
    """Return designs in which every gene has an effect."""
    return designs


@dataclass(frozen=True)
class Space:
    """What may be chosen: how many values each gene has, and designs that are known beforehand."""

    values: tuple[int, ...]  # of each gene, numbered from 0
    known: tuple[tuple[int, ...], ...] = ()  # such as the full model: every search judges them first
    written: Callable[[Designs], Designs] = as_it_is  # sets genes without effect to 0: what is judged and recorded

    @property
    def size(self) -> float:
        """How many rows of genes there are."""
        return float(math.prod(self.values))

    def drawn(self, count: int, seed: int) -> Designs:
        """Return so many designs, the known ones first, the others drawn at random; fewer are the first of more."""
        rng = np.random.default_rng(seed)
        rows = [rng.integers(0, self.values) for _ in range(count - len(self.known))]
        return np.array([*self.known, *rows], dtype=np.int64).reshape(-1, len(self.values))[:count]


@dataclass(frozen=True)
class Judged:
    """All designs that a search has judged, in the order in which it did."""

    designs: Designs  # [n, G]
    scores: NDArray[np.float64]  # [n, 2]

    @cached_property
    def front(self) -> list[int]:
        """The numbers of those that no other dominates, the cheapest first."""
        return front(self.pairs)

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Error and mean cost (a share of the full model's) of each design, in the order judged."""
        return [(error, share) for error, share in self.scores.tolist()]

    @property
    def hypervolume(self) -> float:
        """What the front is worth (see `pareto.hypervolume`)."""
        return hypervolume(self.pairs)

    @property
    def once(self) -> Judged:
        """The same with each design once, where it was judged first."""
        first = firsts(self.designs)
        return Judged(self.designs[first], self.scores[first])


def nsga2(space: Space, judge: Judge, *, population: int, generations: int, seed: int) -> Judged:
    """Return what NSGA-II judges: in each generation as many designs as the population has, the first ones drawn.

    Those that were judged in an earlier generation are not judged, nor returned, again. In a small space a generation
    may find fewer that the population has not, or none, which ends the search. Raises `ValueError` for a population or
    a number of generations below 1.
    """
    checked("nsga2", "population", population, whole=True, least=1)
    checked("nsga2", "generations", generations, whole=True, least=1)
    ask, tell = _evolution(space, population, seed)
    known: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for _ in range(generations):
        rows = [tuple(row) for row in ask().tolist()]
        if not rows:
            break
        if new := [row for row in dict.fromkeys(rows) if row not in known]:
            known.update(zip(new, judge(np.array(new, dtype=np.int64)), strict=True))
        tell(np.array([known[row] for row in rows]))
    return Judged(np.array([*known], dtype=np.int64), np.array([*known.values()]))


def _evolution(
    space: Space, population: int, seed: int
) -> tuple[Callable[[], Designs], Callable[[NDArray[np.float64]], None]]:
    """Return what asks pymoo for the next generation, and what tells it the scores of these designs."""
    from pymoo.algorithms.moo.nsga2 import NSGA2  # imported when needed: it takes half a second
    from pymoo.core.duplicate import DefaultDuplicateElimination
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.problems.static import StaticProblem

    class Stepping(Mutation):  # type: ignore[misc]
        def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
            return mutated(X, space, random_state)

    problem = Problem(n_var=len(space.values), n_obj=2, xl=0, xu=np.array(space.values) - 1, vtype=int)
    algorithm = NSGA2(
        population,
        sampling=space.drawn(population, seed),
        crossover=UniformCrossover(),
        mutation=Stepping(),
        eliminate_duplicates=DefaultDuplicateElimination(func=lambda rows: space.written(rows.get("X"))),
    )
    algorithm.setup(problem, termination=NoTermination(), seed=seed, verbose=False)
    asked: list[Any] = []

    def ask() -> Designs:
        asked[:] = [algorithm.ask()]
        rows = np.array([] if asked[0] is None else asked[0].get("X"), dtype=np.int64)
        return space.written(rows.reshape(-1, len(space.values)))

    def tell(scores: NDArray[np.float64]) -> None:
        Evaluator().eval(StaticProblem(problem, F=scores), asked[0])
        algorithm.tell(infills=asked[0])

    return ask, tell


def mutated(designs: Designs, space: Space, random: np.random.Generator) -> Designs:
    """Return designs in which some genes have another value."""
    top, shape = np.array(space.values), designs.shape
    near = np.clip(designs + random.choice([-1, 1], size=shape), 0, top - 1)
    other = np.where(random.random(shape) < 0.5, near, random.integers(0, top, size=shape))
    other = np.where(top == 2, 1 - designs, other)
    return np.where(random.random(shape) < 1 / len(top), other, designs)


def at_random(space: Space, judge: Judge, *, budget: int, seed: int) -> Judged:
    """Return what as many different designs are worth that are drawn at random; fewer where there are hardly more."""
    drawn = space.written(space.drawn(SPARE * budget, seed))
    designs = drawn[firsts(drawn)[:budget]]
    return Judged(designs, judge(designs))


def firsts(designs: Designs) -> NDArray[np.int64]:
    """Return the numbers of the rows that are like none before them, in order."""
    found: NDArray[np.int64] = np.sort(np.unique(designs, axis=0, return_index=True)[1])
    return found


class DesignSearch(ABC):
    """A method that searches among designs before it is run: it shows the search, beside a random one."""

    @abstractmethod
    def search(self, prepared: Any, bench: Bench) -> Search:
        """Return the record of the search, and of one at random with the same budget on the same data."""


def points(found: Judged, name: Callable[[NDArray[np.int64]], str]) -> list[DesignPoint]:
    """Return what a record keeps of the designs: of the front a name too, of the others those that differ in print."""
    best = [
        DesignPoint(quality=_quality(found, i), share=_share(found, i), front=True, design=name(found.designs[i]))
        for i in found.front
    ]
    seen = {(_quality(found, i), _share(found, i)): None for i in range(len(found.designs))}
    for point in best:
        seen.pop((point.quality, point.share), None)
    return [*best, *(DesignPoint(quality=quality, share=share, front=False) for quality, share in sorted(seen))]


def _quality(found: Judged, i: int) -> float:
    return round(1 - float(found.scores[i, 0]), 4)


def _share(found: Judged, i: int) -> float:
    return round(float(found.scores[i, 1]), 4)
