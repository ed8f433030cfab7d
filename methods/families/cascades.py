"""A chain of separate models, and a pure policy that decides after each whether to ask another, and perhaps which.

Nothing is shared: a sample costs the sum of the members that it visits. A member may be a network, a linear model or
trees (`engine.members`). Any rule for exits decides here, too; a `policies.base.Routing` one may pass members over.
``exits`` of an operating point are the shares of samples that each member answers; the full model is the last member.
"""

from __future__ import annotations

import hashlib
import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eelit.methods.engine.cascade import Cascade, StoredMembers
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.members import Estimator, Network, counted
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, select
from eelit.methods.engine.records import Effort, Execution, Timing
from eelit.methods.engine.timing import BATCH, TIMED, devices_of, in_turn
from eelit.methods.families.stepwise import StepwiseMethod, StepwisePrepared
from eelit.methods.policies.base import Policy
from eelit.methods.recipes.plain import train_plain


@dataclass
class Prepared(StepwisePrepared):
    """Trained members and their data; what all members say on a split is computed once, when asked for."""

    model: Cascade
    method: CascadeMethod

    def store(self, examples: Examples, name: str) -> StoredMembers:
        """Return what all members say on a part of the data, with the cost of each."""
        own = self.model.costs(examples)
        outputs = self.model.outputs(examples, self.bench, name)
        return StoredMembers(examples, outputs, own.cumsum(axis=0), own, lambda said: self.method.answers(said, self))

    def split(self, name: str) -> StoredMembers:
        """Return what all members say on a part of the data (see `StepwisePrepared.split`)."""
        found = super().split(name)
        assert isinstance(found, StoredMembers)
        return found


class CascadeMethod(StepwiseMethod):
    """A method that asks separate models in turn: it says which, how to train them, and which policy a knob means."""

    epochs: float
    batch: int
    rate: float

    @abstractmethod
    def build(self, data: Data, seed: int) -> Cascade:
        """Return the untrained members, from the cheapest to the costliest; everything random follows the seed."""

    def train(self, model: Cascade, data: Data, bench: Bench) -> None:
        """Train each member by itself, in place: ``L = L_m`` for member m alone."""
        train_members(model, data, bench, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `fit` that are settings here, for the members that are networks."""
        return {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}

    @abstractmethod
    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """Return the policy at one knob, from trained members and ``prepared.fitted``; test data are out of reach."""

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; neither sees the test examples."""
        model, data = self.trained(bench)
        return Prepared(model, data, bench, self)

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> Timing:
        """Time test samples in full batches, beside the last member alone."""
        seen, policy = prepared.split("test"), self.rule(knob, prepared)
        index = seen.examples.filled(batch, TIMED[batch == 1])
        spent = seen.spent(seen.followed(policy))[index].sum() / seen.full_costs[index].sum()
        ours, plain = timed(prepared.model, seen.examples.at(index), policy, batch, bench.repeats)
        return Timing(batch=batch, knob=knob, samples=len(index), saved=1 - spent, seconds=ours, full_seconds=plain)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Ask members about those test samples alone that reach them: once counted from outside, then timed."""
        seen, policy = prepared.split("test"), self.rule(knob, prepared)
        course, chosen = seen.followed(policy), seen.examples.head(bench.executed)
        expected, cost, agrees, flawed = seen.read(course.outputs), 0.0, True, 0
        for index, x in chosen.batches(BATCH):
            with counted(prepared.model) as work:
                found = prepared.model.run(x, policy)
            cost += work.cost
            agrees &= torch.equal(found.exits, course.exits[index])
            agrees &= torch.equal(found.visited, course.visited[:, index])
            agrees &= torch.allclose(seen.read(found.outputs), select(expected, index), atol=1e-3, equal_nan=True)
            flawed += len(found.not_finite)
        ours, plain = timed(prepared.model, chosen, policy, BATCH, bench.repeats)
        claimed = float(seen.spent(course)[: len(chosen)].sum())
        return Execution(
            knob=knob,
            samples=len(chosen),
            claimed=claimed,
            counted=cost,
            agrees=agrees,
            seconds=ours,
            full_seconds=plain,
            not_finite=flawed,
        )


def train_members(model: Cascade, data: Data, bench: Bench, **options: Any) -> None:
    """Train each member by itself: networks with these ``options`` of `fit`, estimators as they are set."""
    for member in model.members:
        if isinstance(member, Estimator):
            fit_estimator(member, data, bench)
        elif isinstance(member, Network):
            train_network(member, data, bench, **options)


def train_network(member: Network, data: Data, bench: Bench, **options: Any) -> None:
    """Minimise a network's loss on what it answers; ``options`` are those of `fit`."""
    train_plain(MultiExit([member.network], [nn.Identity()]), data, bench, **options)


def fit_estimator(member: Estimator, data: Data, bench: Bench, weights: Tensor | None = None) -> None:
    """Fit a model of scikit-learn or LightGBM, samples weighed by ``weights [N]`` if given. It is fitted on every run.

    The estimator's own settings hold, its random state among them, which must follow the seed. Raises `ValueError`
    unless inputs have one shape and there is one weight for each.
    """
    start, began = time.perf_counter(), time.process_time()
    index, inputs = next(data.train.batches(len(data.train)))
    if len(index) < len(data.train):
        raise ValueError("an estimator needs inputs of one shape")
    if weights is not None and weights.shape != (len(data.train),):
        raise ValueError(f"{len(data.train)} samples need as many weights, not {list(weights.shape)}")
    more = {} if weights is None else {"sample_weight": weights.cpu()[index].numpy()}
    bench.progress(f"fitting {type(member.estimator).__name__}", None)
    member.estimator.fit(member.view(inputs), data.train.targets.cpu()[index].numpy(), **more)
    facts = f"{bench.seed} {data.digest} {len(data.train)} {member.estimator!r}"
    name = hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()
    bench.trainings[name] = Effort(seconds=time.process_time() - began, steps=0)
    bench.prepared_seconds += time.perf_counter() - start
    bench.prepared_from_cache = False


def timed(model: Cascade, examples: Examples, policy: Policy, batch: int, repeats: int) -> tuple[float, float]:
    """Return median seconds of the cascade and of its last member alone over the examples."""
    batches = (x for _, x in examples.batches(batch))
    return in_turn(lambda x: model.run(x, policy), model.full, batches, repeats, devices_of(model))
