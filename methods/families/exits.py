"""One network with exit heads, and a pure policy that decides after each head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.engine.examples import Data, Examples, TestDataAsked, parted
from eelit.methods.engine.exit_outputs import remembered
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.multi_exit import MultiExit, of_samples
from eelit.methods.engine.records import Baseline, Execution, ExitFacts, OperatingPoint, Timing
from eelit.methods.engine.stored_outputs import StoredOutputs, baselines_of, exit_facts
from eelit.methods.engine.timing import BATCH, TIMED, in_turn
from eelit.methods.policies.base import Output, Policy, said


@dataclass
class Prepared:
    """A trained model with its data; what the exits say on a split is computed once, when first asked for."""

    model: MultiExit
    data: Data
    bench: Bench
    method: ExitMethod
    _seen: dict[str, StoredOutputs] = field(default_factory=dict)
    _costs: dict[torch.Size, tuple[list[int], list[int]]] = field(default_factory=dict)
    _fitted: list[Any] = field(default_factory=list)  # empty, or what `ExitMethod.fit` returned

    def costs(self, examples: Examples) -> NDArray[np.float64]:
        """Return MACs ``[2, E, N]`` up to each exit: with all heads on the way, and with its own head alone."""
        for x in examples.inputs:
            if x.shape not in self._costs:
                self._costs[x.shape] = costs.both_costs(self.model, x[None])
        return np.array([self._costs[x.shape] for x in examples.inputs], dtype=np.float64).transpose(1, 2, 0)

    def split(self, name: str) -> StoredOutputs:
        """Return what all exits say on a part of the data, up to the bench's limit.

        ``fitting`` is the share of the validation data on which the method fits its rule (``fits_on``), and
        ``validation`` the rest, on which knobs are chosen.
        """
        if name not in self._seen:
            examples = self._part(name).head(self.bench.test)
            every, static = self.costs(examples)
            outputs = remembered(self.model, examples, self.bench, name)
            self._seen[name] = StoredOutputs(
                examples, outputs, every, static, lambda said: self.method.answers(said, self)
            )
        return self._seen[name]

    def _part(self, name: str) -> Examples:
        if name not in ("fitting", "validation"):
            return self.data.part(name)
        share = self.method.fits_on
        return parted(self.data.validation, {"fitting": share, "validation": 1 - share})[name]

    @property
    def fitted(self) -> Any:
        """What the method's rule was fitted to, once for all knobs."""
        if not self._fitted:
            self._fitted.append(self.method.fit(self.for_choosing))
        return self._fitted[0]

    @property
    def for_choosing(self) -> Prepared:
        """The same with the test data out of reach: all that a policy may be made from."""
        return _ForChoosing(
            self.model, self.data.without_test(), self.bench, self.method, self._seen, self._costs, self._fitted
        )


class _ForChoosing(Prepared):
    def split(self, name: str) -> StoredOutputs:
        if name == "test":
            raise TestDataAsked("a policy is chosen and fitted on validation data; it must not see the test split")
        return super().split(name)


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

    fits_on: ClassVar[float] = 0.0  # share of the validation data that `fit` has for itself

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
        """Return the policy at one knob, from the trained model and ``prepared.fitted``; test data are out of reach."""

    def fit(self, prepared: Prepared) -> Any:
        """Return what the rule needs beyond weights (thresholds, temperatures), from ``prepared.split("fitting")``.

        It is called once for all knobs, and the share ``fits_on`` of the validation data is there for it alone.
        """
        return None

    def rule(self, knob: float, prepared: Prepared) -> Policy:
        """Return the policy at one knob, made without sight of the test data."""
        return self.policy(knob, prepared.for_choosing)

    def score(self, answers: Tensor, targets: Tensor) -> float:
        """Return the quality of answers ``[N, C]``; for values ``[N]`` Pearson's correlation."""
        return pearson(answers, targets) if answers.dim() == 1 else accuracy(answers, targets)

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; neither sees the test examples."""
        data = self.load()
        known = data.without_test()
        model = self.build(known, bench.seed)
        self.train(model, known, bench)
        bench.data["examples"] = data.digest
        bench.data["sizes"] = " / ".join(str(len(part)) for part in (data.train, data.validation, data.test))
        return Prepared(model.eval(), data, bench, self)

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Replay every knob on the stored outputs of the split."""
        seen = prepared.split(split)
        return [self.trial(self.rule(knob, prepared), seen, knob) for knob in knobs]

    def trial(
        self, policy: Policy, seen: StoredOutputs, knob: float = 0.0, shown: Output | None = None
    ) -> OperatingPoint:
        """Replay any policy on the outputs, or on what else it is shown of each exit; the knob is only written down."""
        return seen.under(policy, self.score, knob, shown)

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return quality and mean MACs of the plain network on the test split."""
        seen = prepared.split("test")
        return self.score(seen.answers[-1], seen.targets), float(seen.full_costs.mean())

    def answers(self, outputs: Output, prepared: Prepared) -> Tensor:
        """Return the answers ``[..., C]`` or ``[...]`` in what exits say, which may be more, or not the answer yet."""
        return said(outputs)

    def shown(self, outputs: Output, prepared: Prepared) -> Tensor:
        """Return what the policy takes for the confidence in answers ``[E, N, ...]``: themselves, or scaled."""
        return self.answers(outputs, prepared)

    def labels(self, targets: Tensor) -> Tensor:
        """Return the classes ``[N]`` in the targets, which may say more than that."""
        return targets

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return each exit as a fixed depth and, for classes, the same model stopped by its largest probability."""
        return baselines_of(prepared.split("validation"), prepared.split("test"), self.score)

    def static(self, seen: StoredOutputs) -> list[OperatingPoint]:
        """Return the network cut off for good after each exit; the knob is the exit's number, from 1."""
        return seen.cut_off(self.score)

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return quality, cost and calibration error of each exit, and the share overthought (see `exit_facts`)."""
        seen = prepared.split("test")
        return exit_facts(self.static(seen), self.shown(seen.outputs, prepared), self.labels(seen.targets))

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> Timing:
        """Time `infer` on test samples in full batches, beside the plain network: from inputs to predictions."""
        seen, policy = prepared.split("test"), self.rule(knob, prepared)
        index = seen.examples.filled(batch, TIMED[batch == 1])
        exits = replay(policy, seen.outputs)[index]
        spent = seen.costs_under(policy)[exits, index].sum() / seen.full_costs[index].sum()
        ours, plain = timed(prepared.model, seen.examples.at(index), policy, batch, bench.repeats)
        return Timing(batch=batch, knob=knob, samples=len(index), saved=1 - spent, seconds=ours, full_seconds=plain)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Run `infer` on test samples: once counted from outside, then timed in turn with the plain network."""
        seen, policy = prepared.split("test"), self.rule(knob, prepared)
        chosen = seen.examples.head(bench.executed)
        n = len(chosen)
        outputs = of_samples(seen.outputs, slice(n))
        exits = replay(policy, outputs)
        expected = seen.read(answered(policy, outputs, exits))
        table = seen.costs_under(policy)
        counted, claimed, agrees = 0, 0.0, True
        for index, x in chosen.batches(BATCH):
            with costs.MacCounter() as counter:
                # costs are the same for all inputs of one shape
                found = infer(prepared.model, x, policy, table[:, int(index[0])].tolist())
            counted, claimed = counted + counter.macs, claimed + float(found.macs.sum())
            agrees &= bool((found.exits == torch.as_tensor(exits[index.numpy()])).all())
            agrees &= torch.allclose(seen.read(found.outputs), expected[index], atol=1e-3)
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
