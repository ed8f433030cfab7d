"""A network with an exit wherever one may stand, and a search that decides which of them stay and when they stop.

What all exits say is stored once for each part of the data, and a design is judged on that: nothing is run again. Half
of the validation data are for the search, the other half for choosing among what it found. Exits that a design leaves
out are taken out of the network, so that they cost nothing; what is executed is the network that is left.

A design may also say which of several networks it is about. The full model is the first of them, without exits.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Execution, OperatingPoint, Search, Timing
from eelit.methods.engine.search import Designs, DesignSearch, Judged, Space, at_random, nsga2, points
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families import exits
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.base import Policy


@dataclass(frozen=True)
class Design:
    """What a search decides: which early exits stay, what each asks for, and which of the networks they belong to."""

    kept: tuple[bool, ...]  # of each early exit, whether it stays
    thresholds: tuple[Any, ...]  # of each early exit, those that go included
    network: int = 0


@dataclass
class Prepared(exits.Prepared):
    """The first network with all its exits, and the others that designs may be about."""

    method: DesignMethod
    others: tuple[exits.Prepared, ...] = ()

    @property
    def networks(self) -> tuple[exits.Prepared, ...]:
        """All of them, the first one first."""
        return (self, *self.others)

    @property
    def for_choosing(self) -> Self:
        """The same with the test data out of reach."""
        return replace(super().for_choosing, others=tuple(other.for_choosing for other in self.others))


@dataclass
class Built(exits.Prepared):
    """What is left of a network once the exits that a design leaves out are gone."""

    rule: Policy | None = None


class Remainder(MultiExit):
    """A network with some of its exits; its full model is that of another, with which it is compared."""

    def __init__(self, stages: Iterable[nn.Module], heads: Iterable[nn.Module], whole: MultiExit) -> None:
        super().__init__(stages, heads)
        self.whole = whole

    def full(self, x: Any) -> Tensor:
        """Return the answer of the full model."""
        return self.whole.full(x)


def remaining(model: MultiExit, kept: Sequence[bool], whole: MultiExit) -> Remainder:
    """Return the network with the early exits that are kept, and its last; stages between them are run as one."""
    places = _places(kept)
    bounds = [0, *(i + 1 for i in places)]
    stages = [nn.Sequential(*model.stages[a:b]) for a, b in pairwise(bounds)]
    return Remainder(stages, [model.heads[i] for i in places], whole).eval()


def costs_without(seen: StoredOutputs, kept: Sequence[bool]) -> NDArray[np.float64]:
    """Return MACs ``[E, N]`` up to each exit where only the heads of those that are kept are on the way.

    What a head costs is how much more the cost rises up to the next exit with all heads on the way than without.
    """
    heads = np.diff(seen.costs, axis=0) - np.diff(seen.static_costs, axis=0)
    before = (heads * np.array(kept)[:, None]).cumsum(axis=0)
    found: NDArray[np.float64] = (
        seen.static_costs + np.concatenate([np.zeros_like(before[:1]), before])[: len(seen.costs)]
    )
    return found


def best_of(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return `pareto.front` of scores ``[n, 2]``, for millions of them."""
    order = np.lexsort((scores[:, 0], scores[:, 1]))
    errors = scores[order, 0]
    least = np.concatenate([[np.inf], np.minimum.accumulate(errors)[:-1]])
    found: NDArray[np.int64] = order[errors < least]
    return found


def without_idle(designs: Designs, early: int, each: int = 1) -> Designs:
    """Return designs ``[n, G]`` in which the thresholds of exits that go are 0: they have no effect.

    Genes are a bit for each early exit, whether it stays, then so many thresholds of ``each``, then any others.
    """
    kept, found = designs[:, :early], designs.copy()
    found[:, early : early * (1 + each)] *= np.repeat(kept, each, axis=1)
    return found


def scores_of_all(
    stops: NDArray[np.bool_],
    right: NDArray[np.bool_],
    static: NDArray[np.float64],
    heads: NDArray[np.float64],
    counts: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return how many samples are right, and the sum of costs, of all designs: ``[(Q + 1) ** (E - 1), 2]``.

    Given are who would stop at each early exit by each of Q thresholds, ``[E - 1, Q, N]``; who is right at each exit,
    and MACs up to it without other heads, both ``[E, N]``; those of the early heads, ``[E - 1, N]``; and for whom cost
    counts, ``[N]``. A design's number has a digit in base ``Q + 1`` for each early exit, the first one leading: 0 if it
    is not there, else its threshold, from 1. Designs that begin alike have who is left at an exit in common.
    """
    early, samples = len(stops), stops.shape[2]

    def further(here: NDArray[np.float64], k: int) -> NDArray[np.float64]:
        """From who is left ``[n, N]`` before exit k to sums over what follows, ``[n, (Q + 1) ** (E - 1 - k), 2]``."""
        leave = np.concatenate([np.zeros((1, samples)), stops[k]])
        spent = leave * static[k]
        spent[1:] += (1 - leave[1:]) * heads[k]
        worth = leave * right[k]
        if k == early - 1:
            worth, spent = worth + (1 - leave) * right[-1], spent + (1 - leave) * static[-1]
        found: NDArray[np.float64] = np.stack([here @ worth.T, here @ (spent * counts).T], axis=-1)
        if k < early - 1:
            onward = (here[:, None] * (1 - leave)).reshape(-1, samples)
            # The first exit's branches go on one by one, so that who is left at the last one fits into memory.
            after = [further(rows, k + 1) for rows in (onward[:, None] if k == 0 else [onward])]
            found = (found.reshape(-1, 1, 2) + np.concatenate(after)).reshape(len(here), -1, 2)
        return found

    return further(np.ones((1, samples)), 0)[0]


def _places(kept: Sequence[bool]) -> list[int]:
    return [*(i for i, stays in enumerate(kept) if stays), len(kept)]


class DesignMethod(ImageMethod, DesignSearch):
    """A method whose exits are those that a search has left: it says what may be chosen, and what a design is."""

    population: int
    generations: int

    fits_on: ClassVar[float] = 0.5  # of the validation images: the search; budgets are judged on the others
    algorithm: ClassVar[str] = "NSGA-II"
    searched: ClassVar[str]  # what designs differ in, in words
    averaged: ClassVar[str] = "MACs of an image"

    @abstractmethod
    def space(self, exits: int) -> Space:
        """Return what may be chosen for a network of so many exits, the last one included."""

    @abstractmethod
    def design(self, genes: Sequence[int], exits: int) -> Design:
        """Return the design that a row of genes means, given how many exits there are, the last one included."""

    @property
    def each(self) -> int:
        """How many thresholds an exit has."""
        return 1

    def different(self, exits: int) -> float:
        """Return how many designs differ: thresholds of exits that are not there do not."""
        values, early = self.space(exits).values, exits - 1
        thresholds = [values[early + i * self.each : early + (i + 1) * self.each] for i in range(early)]
        return float(math.prod([1 + math.prod(own) for own in thresholds] + [*values[early * (1 + self.each) :]]))

    @abstractmethod
    def stop(self, thresholds: Sequence[Any]) -> Policy:
        """Return the rule that asks of each early exit what its threshold says."""

    @property
    @abstractmethod
    def never(self) -> Any:
        """A threshold by which nobody stops."""

    @abstractmethod
    def told(self, design: Design) -> str:
        """Return a design in a few words."""

    def further(self, data: Data, bench: Bench) -> list[MultiExit]:
        """Train and return the networks beside the first that designs may be about."""
        return []

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; none of that sees the test examples."""
        model, data = self.trained(bench)
        more = [exits.Prepared(each, data, bench, self) for each in self.further(data.without_test(), bench)]
        return Prepared(model, data, bench, self, others=tuple(more))

    def everywhere(self, design: Design) -> Policy:
        """Return the rule of a design for the network with all exits: at those that it leaves out nobody stops."""
        pairs = zip(design.thresholds, design.kept, strict=True)
        return self.stop([threshold if stays else self.never for threshold, stays in pairs])

    def weighed(self, seen: StoredOutputs) -> Tensor:
        """Return of which samples ``[N]`` the cost counts in the search."""
        return torch.ones(len(seen.examples), dtype=torch.bool)

    def judged(self, designs: Designs, prepared: Prepared, part: str) -> NDArray[np.float64]:
        """Return error and mean cost ``[n, 2]`` of designs on a part of the data, from what is stored of it."""
        seen = [network.split(part) for network in prepared.networks]
        right = [(each.answers.argmax(dim=-1) == each.targets).numpy() for each in seen]
        mask, rows = self.weighed(seen[0]).numpy(), np.arange(len(seen[0].examples))
        full, found = seen[0].full_costs[mask].mean(), np.zeros((len(designs), 2))
        for i, genes in enumerate(designs.tolist()):
            design = self.design(genes, prepared.model.exits)
            own = seen[design.network]
            left = replay(self.everywhere(design), own.outputs)
            spent = costs_without(own, design.kept)[left, rows]
            found[i] = 1 - right[design.network][left, rows].mean(), spent[mask].mean() / full
        return found

    def best_of_all(self, prepared: Prepared, part: str) -> Judged:
        """Return the front of all designs on a part of the data: none is left out, so no search finds a better one.

        Each exit has one threshold, which decides by what this exit says alone, and a last gene is the network.
        """
        exits, values = prepared.model.exits, self.space(prepared.model.exits).values
        early, Q, last = exits - 1, values[exits - 1], values[2 * (exits - 1) :]
        assert self.each == 1
        scores = []
        for network, ready in enumerate(prepared.networks):
            own = ready.split(part)
            stops = np.zeros((early, Q, len(own.examples)), dtype=bool)
            for k in range(early):
                for q in range(Q):
                    alone = [int(i == k) for i in range(early)] + [q * (i == k) for i in range(early)] + [network]
                    design = self.design(alone[: len(values)], exits)
                    stops[k, q] = replay(self.everywhere(design), own.outputs) == k
            right = (own.answers.argmax(dim=-1) == own.targets).numpy()
            heads = np.diff(own.costs, axis=0) - np.diff(own.static_costs, axis=0)
            counts = self.weighed(own).numpy()
            full = prepared.split(part).full_costs[counts].sum()
            sums = scores_of_all(stops, right, own.static_costs / full, heads / full, counts)
            scores.append(np.stack([1 - sums[:, 0] / right.shape[1], sums[:, 1]], axis=1))
        numbers = best_of(np.concatenate(scores))
        digits = np.stack(np.unravel_index(numbers, (len(scores), *(Q + 1,) * early)), axis=1).astype(np.int64)
        genes = np.concatenate([digits[:, 1:] > 0, np.maximum(digits[:, 1:] - 1, 0), digits[:, : len(last)]], axis=1)
        return Judged(genes, self.judged(genes, prepared, part))

    def fit(self, prepared: Prepared) -> Judged:
        """Search, on the share of the validation data that no budget is judged on."""
        return nsga2(
            self.space(prepared.model.exits),
            lambda designs: self.judged(designs, prepared, "fitting"),
            population=self.population,
            generations=self.generations,
            seed=prepared.bench.seed,
        )

    def taken(self, knob: float, found: Judged) -> int:
        """Return the number of the design for a knob: the best on the front within this share of the full cost.

        Where none is as cheap, the cheapest is taken.
        """
        return next((i for i in reversed(found.front) if found.scores[i, 1] <= knob), found.front[0])

    def chosen(self, knob: float, prepared: Prepared) -> Design:
        """Return the design for a knob; a share of 1 is no limit, and means the full model."""
        exits = prepared.model.exits
        if knob >= 1:
            return Design((False,) * (exits - 1), (self.never,) * (exits - 1))
        found: Judged = prepared.fitted
        return self.design(found.designs[self.taken(knob, found)].tolist(), exits)

    def policy(self, knob: float, prepared: exits.Prepared) -> Policy:
        """The rule of the design for a knob: of a built network its own, else for all exits of the first."""
        if isinstance(prepared, Built) and prepared.rule is not None:
            return prepared.rule
        assert isinstance(prepared, Prepared)
        return self.everywhere(self.chosen(knob, prepared))

    def seen(self, design: Design, prepared: Prepared, part: str) -> StoredOutputs:
        """Return what is stored of the design's network, with what it costs there; the full model is the first's."""
        own = prepared.networks[design.network].split(part)
        return replace(own, costs=costs_without(own, design.kept), static_costs=prepared.split(part).static_costs)

    def operating_point(self, design: Design, prepared: Prepared, part: str, knob: float = 0.0) -> OperatingPoint:
        """Replay a design on a part of the data; the knob is only written down."""
        return self.seen(design, prepared, part).under(self.everywhere(design), self.score, knob)

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Replay the design of each knob on what is stored of the split."""
        return [self.operating_point(self.chosen(knob, prepared.for_choosing), prepared, split, knob) for knob in knobs]

    def built(self, knob: float, prepared: Prepared) -> Built:
        """Return the network of the knob's design without the exits that go, and what is stored of those that stay."""
        design = self.chosen(knob, prepared.for_choosing)
        own, seen = prepared.networks[design.network], self.seen(design, prepared, "test")
        places = _places(design.kept)
        stored = replace(
            seen,
            outputs=seen.outputs[places],
            costs=seen.costs[places],
            static_costs=seen.static_costs[places],
        )
        rule = self.stop([design.thresholds[i] for i in places[:-1]])
        model = remaining(own.model, design.kept, prepared.model)
        return Built(model, prepared.data, prepared.bench, self, _test=[stored], rule=rule)

    def time(self, prepared: Any, bench: Bench, knob: float, batch: int) -> Timing:
        """Time what is left of the network of the knob's design, beside the full model."""
        return super().time(self.built(knob, prepared), bench, knob, batch)

    def execute(self, prepared: Any, bench: Bench, knob: float) -> Execution:
        """Run what is left of the network of the knob's design, which must do as replay on the whole one says."""
        return super().execute(self.built(knob, prepared), bench, knob)

    def search(self, prepared: Prepared, bench: Bench) -> Search:
        """Return the record of the search, beside as many designs drawn at random."""
        ready, exits = prepared.for_choosing, prepared.model.exits
        found = ready.fitted
        rival = self.rival(ready)
        name = lambda genes: self.told(self.design(genes.tolist(), exits))  # noqa: E731
        return Search(
            algorithm=self.algorithm,
            space=self.searched,
            designs=self.different(exits),
            budget=len(found.designs),
            seed=bench.seed,
            quality=self.quality,
            cost=self.averaged,
            judged_on=f"{len(ready.split('fitting').examples)} validation images",
            found=points(found, name),
            random=points(rival, name),
            hypervolume=found.hypervolume,
            random_hypervolume=rival.hypervolume,
        )

    def rival(self, prepared: Prepared) -> Judged:
        """Return as many designs, drawn at random and judged on the same data, as the search has judged."""
        return at_random(
            self.space(prepared.model.exits),
            lambda designs: self.judged(designs, prepared, "fitting"),
            budget=len(prepared.fitted.designs),
            seed=prepared.bench.seed,
        )
