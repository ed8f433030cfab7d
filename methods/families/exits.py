"""One network with exit heads, and a pure policy that decides after each head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.exit_outputs import remembered
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Baseline, Execution, ExitFacts, OperatingPoint, Timing
from eelit.methods.engine.stored_outputs import StoredOutputs, baselines_of, exit_facts
from eelit.methods.engine.timing import BATCH, TIMED, in_turn
from eelit.methods.policies.base import Policy


@dataclass
class Prepared:
    """A trained model with its data; what the exits say on a split is computed once, when first asked for."""

    model: MultiExit
    data: Data
    bench: Bench
    _seen: dict[str, StoredOutputs] = field(default_factory=dict)
    _costs: dict[torch.Size, tuple[list[int], list[int]]] = field(default_factory=dict)

    def costs(self, examples: Examples) -> NDArray[np.float64]:
        """Return MACs ``[2, E, N]`` up to each exit: with all heads on the way, and with its own head alone."""
        for x in examples.inputs:
            if x.shape not in self._costs:
                self._costs[x.shape] = costs.both_costs(self.model, x[None])
        return np.array([self._costs[x.shape] for x in examples.inputs], dtype=np.float64).transpose(1, 2, 0)

    def split(self, name: str) -> StoredOutputs:
        """Return what all exits say on a part of the data, such as ``validation``, up to the bench's limit."""
        if name not in self._seen:
            examples = self.data.part(name).head(self.bench.test)
            every, static = self.costs(examples)
            self._seen[name] = StoredOutputs(
                examples, remembered(self.model, examples, self.bench, name), every, static
            )
        return self._seen[name]


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
        answers = self.answers(outputs)
        return pearson(answers, targets) if answers.dim() == 1 else accuracy(answers, targets)

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train."""
        data = self.load()
        model = self.build(data, bench.seed)
        self.train(model, data, bench)
        bench.data["examples"] = data.digest
        bench.data["sizes"] = " / ".join(str(len(part)) for part in (data.train, data.validation, data.test))
        return Prepared(model.eval(), data, bench)

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Replay every knob on the stored outputs of the split."""
        seen = prepared.split(split)
        return [self.point(prepared, seen, knob) for knob in knobs]

    def point(self, prepared: Prepared, seen: StoredOutputs, knob: float) -> OperatingPoint:
        """Replay one knob."""
        return self.trial(self.policy(knob, prepared), seen, knob)

    def trial(
        self, policy: Policy, seen: StoredOutputs, knob: float = 0.0, shown: Tensor | None = None
    ) -> OperatingPoint:
        """Replay any policy on the outputs, or on what else it is shown of each exit; the knob is only written down."""
        return seen.under(policy, self.score, knob, shown)

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return quality and mean MACs of the plain network on the test split."""
        seen = prepared.split("test")
        return self.score(seen.outputs[-1], seen.targets), float(seen.full_costs.mean())

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the answers ``[..., C]`` or ``[...]`` in the outputs of exits, which may say more than that."""
        return outputs

    def shown(self, outputs: Tensor, prepared: Prepared) -> Tensor:
        """Return what the policy takes for the confidence in answers ``[E, N, ...]``: themselves, or scaled."""
        return self.answers(outputs)

    def labels(self, targets: Tensor) -> Tensor:
        """Return the classes ``[N]`` in the targets, which may say more than that."""
        return targets

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return each exit as a fixed depth and, for classes, the same model stopped by its largest probability."""
        return baselines_of(prepared.split("validation"), prepared.split("test"), self.score, self.answers)

    def static(self, seen: StoredOutputs) -> list[OperatingPoint]:
        """Return the network cut off for good after each exit; the knob is the exit's number, from 1."""
        return seen.cut_off(self.score)

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return quality, cost and calibration error of each exit, and the share overthought (see `exit_facts`)."""
        seen = prepared.split("test")
        return exit_facts(self.static(seen), self.shown(seen.outputs, prepared), self.labels(seen.targets))

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> Timing:
        """Time `infer` on test samples in full batches, beside the plain network: from inputs to predictions."""
        seen, policy = prepared.split("test"), self.policy(knob, prepared)
        index = seen.examples.filled(batch, TIMED[batch == 1])
        exits = replay(policy, seen.outputs)[index]
        spent = seen.costs[exits, index].sum() / seen.full_costs[index].sum()
        ours, plain = timed(prepared.model, seen.examples.at(index), policy, batch, bench.repeats)
        return Timing(batch=batch, knob=knob, samples=len(index), saved=1 - spent, seconds=ours, full_seconds=plain)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Run `infer` on test samples: once counted from outside, then timed in turn with the plain network."""
        seen, policy = prepared.split("test"), self.policy(knob, prepared)
        chosen = seen.examples.head(bench.executed)
        n = len(chosen)
        exits = replay(policy, seen.outputs[:, :n])
        said = answered(policy, seen.outputs[:, :n], exits)
        counted, claimed, agrees = 0, 0.0, True
        for index, x in chosen.batches(BATCH):
            table = seen.costs[:, int(index[0])]  # the same for all inputs of one shape
            with costs.MacCounter() as counter:
                found = infer(prepared.model, x, policy, table.tolist())
            counted, claimed = counted + counter.macs, claimed + float(found.macs.sum())
            expected = torch.as_tensor(exits[index.numpy()])
            agrees &= bool((found.exits == expected).all()) and torch.allclose(found.outputs, said[index], atol=1e-3)
        ours, plain = timed(prepared.model, chosen, policy, BATCH, bench.repeats)
        return Execution(
            knob=knob,
            samples=n,
            claimed=claimed,
            counted=counted,
            agrees=agrees,
            seconds=ours,
            full_seconds=plain,
        )


def timed(model: MultiExit, examples: Examples, policy: Policy, batch: int, repeats: int) -> tuple[float, float]:
    """Return median seconds of `infer` and of the plain network over the examples."""
    batches = (x for _, x in examples.batches(batch))
    return in_turn(lambda x: infer(model, x, policy), model.full, batches, repeats)
