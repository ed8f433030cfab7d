"""One network with exit heads, and a pure policy that decides after each head."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods import costs
from eelit.methods.evaluate import infer, replay
from eelit.methods.examples import Data, Examples
from eelit.methods.method import Bench, Method, Split
from eelit.methods.multi_exit import MultiExit
from eelit.methods.policies.base import Policy
from eelit.methods.results import Execution, OperatingPoint

BATCH = 64


@dataclass
class Measured:
    """One split seen by all exits: outputs ``[E, N, C]`` (``[E, N]`` for regression) and costs ``[E, N]``."""

    examples: Examples
    outputs: Tensor
    costs: NDArray[np.float64]  # MACs of each sample up to and including each exit
    full_costs: NDArray[np.float64]  # MACs of each sample in the plain network

    @property
    def targets(self) -> Tensor:
        """Classes or values ``[N]``."""
        return self.examples.targets

    def at(self, exits: NDArray[np.int64]) -> Tensor:
        """Return the output ``[N, C]`` of each sample at its exit."""
        return self.outputs[torch.as_tensor(exits), torch.arange(len(exits))]


@dataclass
class Prepared:
    """A trained model with its data; what the exits say on a split is computed once, when first asked for."""

    model: MultiExit
    data: Data
    bench: Bench
    _seen: dict[str, Measured] = field(default_factory=dict)

    @cached_property
    def tables(self) -> tuple[dict[torch.Size, list[int]], dict[torch.Size, int]]:
        """MACs by input shape: of each exit, and of the plain network."""
        inputs = [*self.data.validation.inputs, *self.data.test.inputs]
        every = costs.by_shape(inputs, lambda x: costs.exit_costs(self.model, x))
        plain = costs.by_shape(inputs, lambda x: costs.full_cost(self.model, x))
        return every, plain

    def split(self, name: Split) -> Measured:
        """Return what all exits say on the split, up to the bench's limit."""
        if name not in self._seen:
            examples = (self.data.validation if name == "validation" else self.data.test).head(self.bench.test)
            every, plain = self.tables
            self._seen[name] = Measured(
                examples,
                all_outputs(self.model, examples, self.bench, f"all exits on {len(examples)} {name} samples"),
                np.array([every[x.shape] for x in examples.inputs], dtype=np.float64).T,
                np.array([plain[x.shape] for x in examples.inputs], dtype=np.float64),
            )
        return self._seen[name]


@torch.inference_mode()
def all_outputs(model: MultiExit, examples: Examples, bench: Bench, label: str) -> Tensor:
    """Return the outputs of all exits for all examples, ``[E, N, C]`` or ``[E, N]``, in the examples' order."""
    found: Tensor | None = None
    done = 0
    for index, x in examples.batches(BATCH):
        out = model(x)
        if found is None:
            found = out.new_empty((out.shape[0], len(examples), *out.shape[2:]))
        found[:, index] = out
        done += len(index)
        bench.progress(label, done / len(examples))
    if found is None:
        raise ValueError("no examples")
    return found.clone()


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of samples whose largest logit ``[N, C]`` is at the target."""
    return float((outputs.argmax(dim=-1) == targets).double().mean())


def pearson(outputs: Tensor, targets: Tensor) -> float:
    """Pearson correlation of values ``[N]`` with targets ``[N]``; 0 if either is constant."""
    x, y = outputs.double() - outputs.double().mean(), targets.double() - targets.double().mean()
    norm = float(x.norm() * y.norm())
    return float((x * y).sum()) / norm if norm > 0 else 0.0


class ExitMethod(Method):
    """A method that adds exits to a network: it says how to build, how to train, and which policy a knob means."""

    @abstractmethod
    def load(self) -> Data:
        """Return the data of the experiment."""

    @abstractmethod
    def build(self, data: Data, seed: int) -> MultiExit:
        """Return the untrained network; everything random follows the seed."""

    @abstractmethod
    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the network in place (with `recipes`, which cache)."""

    @abstractmethod
    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """Return the policy at one knob. It may be fitted on the validation split, never on the test split."""

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the quality of answers ``[N, C]``; for values ``[N]`` Pearson's correlation."""
        return pearson(outputs, targets) if outputs.dim() == 1 else accuracy(outputs, targets)

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train."""
        data = self.load()
        model = self.build(data, bench.seed)
        self.train(model, data, bench)
        bench.data["examples"] = data.digest
        return Prepared(model.eval(), data, bench)

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Replay every knob on the stored outputs of the split."""
        seen = prepared.split(split)
        return [self.point(prepared, seen, knob) for knob in knobs]

    def point(self, prepared: Prepared, seen: Measured, knob: float) -> OperatingPoint:
        """Replay one knob."""
        return self.trial(self.policy(knob, prepared), seen, knob)

    def trial(self, policy: Policy, seen: Measured, knob: float = 0.0) -> OperatingPoint:
        """Replay any policy; the knob is only written down."""
        exits = replay(policy, seen.outputs)
        cost = float(seen.costs[exits, np.arange(len(exits))].mean())
        return OperatingPoint(
            knob=knob,
            quality=self.score(seen.at(exits), seen.targets),
            cost=cost,
            speed_up=float(seen.full_costs.mean()) / cost,
            exits=(np.bincount(exits, minlength=len(seen.outputs)) / len(exits)).tolist(),
        )

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return quality and mean MACs of the plain network on the test split."""
        seen = prepared.split("test")
        return self.score(seen.outputs[-1], seen.targets), float(seen.full_costs.mean())

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Run `infer` on test samples: once counted from outside, then timed in turn with the plain network."""
        seen, policy = prepared.split("test"), self.policy(knob, prepared)
        chosen = seen.examples.head(bench.executed)
        n = len(chosen)
        exits = replay(policy, seen.outputs[:, :n])
        counted, agrees = 0, True
        for index, x in chosen.batches(BATCH):
            with costs.MacCounter() as counter:
                found = infer(prepared.model, x, policy)
            counted += counter.macs
            expected = torch.as_tensor(exits[index.numpy()])
            said = seen.outputs[expected, index]
            agrees &= bool((found.exits == expected).all()) and torch.allclose(found.outputs, said, atol=1e-3)
        ours, plain = timed(prepared.model, chosen, policy)
        return Execution(
            knob=knob,
            samples=n,
            claimed=float(seen.costs[exits, np.arange(n)].sum()),
            counted=counted,
            agrees=agrees,
            seconds=ours,
            full_seconds=plain,
        )


@torch.inference_mode()
def timed(model: MultiExit, examples: Examples, policy: Policy, repeats: int = 3) -> tuple[float, float]:
    """Return median seconds of `infer` and of the plain network over the examples, run in turn in this process."""
    batches = [x for _, x in examples.batches(BATCH)]
    infer(model, batches[0], policy)
    ours: list[float] = []
    plain: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        for x in batches:
            infer(model, x, policy)
        middle = time.perf_counter()
        for x in batches:
            model.full(x)
        ours.append(middle - start)
        plain.append(time.perf_counter() - middle)
    return median(ours), median(plain)
