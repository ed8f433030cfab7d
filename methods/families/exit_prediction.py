"""Exit prediction: a predictor chooses one exit for each sample before the network runs.

The predictor reads the input, and says something of each exit but the last; a rule makes of that the exit to go to. No
other head is run. An exit whose answer is not finite is not the last word: the sample goes on to the next one. The full
model is the plain network without the predictor, which is paid for at all knobs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.engine import costs
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.exit_outputs import remembered
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.metrics import Score, judged
from eelit.methods.engine.multi_exit import MultiExit, at_exits, device_of, evaluating, select
from eelit.methods.engine.records import Baseline, Execution, ExitFacts, OperatingPoint, Timing
from eelit.methods.engine.stored_outputs import StoredOutputs, baselines_of, exit_facts
from eelit.methods.engine.timing import BATCH, TIMED, devices_of, in_turn
from eelit.methods.policies.base import finite

Rule = Callable[[Tensor], Tensor]
"""From what the predictor says ``[n, E - 1]`` to the exit to go to ``[n]``, from 0."""


class PredictedExits(MultiExit):
    """A network with exits, and its predictor."""

    def __init__(self, stages: Iterable[nn.Module], heads: Iterable[nn.Module], predictor: nn.Module) -> None:
        super().__init__(stages, heads)
        self.predictor = predictor

    def exits_alone(self) -> MultiExit:
        """Return the network with its exits, weights shared, without the predictor."""
        return MultiExit(self.stages, self.heads)


class Ran(NamedTuple):
    """What a run gives: the answering exit ``[n]``, the answers ``[n, ...]``, and of whom something is not finite."""

    exits: Tensor
    answers: Tensor
    not_finite: Tensor


@torch.inference_mode()
def run(model: PredictedExits, x: Tensor, rule: Rule) -> Ran:
    """Run a batch: the predictor on all, then stages as far as somebody needs them, and one head for each sample."""
    found, n = [], len(x)
    with evaluating(model):
        said = model.predictor(x)
        due, flawed = rule(said), ~finite(said)
        state, rest = x, torch.arange(n, device=x.device)
        for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
            state = stage(state)
            here = (due == i).nonzero().flatten()
            if len(here):
                answers: Tensor = head(select(state, here, len(rest)))
                sound = finite(answers)
                flawed[rest[here[~sound]]] = True
                out = torch.ones_like(sound) if i == model.exits - 1 else sound
                found.append((rest[here[out]], i, answers[out]))
                due[here] = torch.where(out, -1, i + 1)
            keep = (due >= 0).nonzero().flatten()
            if not len(keep):
                break
            state, rest, due = select(state, keep, len(rest)), rest[keep], due[keep]
    order = torch.argsort(torch.cat([who for who, _, _ in found]))
    exits = torch.cat([torch.full_like(who, i) for who, i, _ in found])[order]
    return Ran(exits, torch.cat([answers for _, _, answers in found])[order], flawed)


@dataclass
class Seen(StoredOutputs):
    """One part of the data: what all exits and the predictor say of it, and what that costs."""

    forecasts: Tensor = field(default_factory=lambda: torch.zeros(0))  # [N, E - 1]
    predicting: float = 0.0  # MACs of the predictor

    def gone(self, rule: Rule) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the exit ``[N]`` that answers each sample under a rule, and what it costs."""
        due, last = rule(self.forecasts), len(self.costs) - 1
        heads, spent = np.diff(self.costs - self.static_costs, axis=0), np.full(len(due), self.predicting)
        for i in range(last):
            on = (due == i) & ~finite(self.answers[i])
            spent += heads[i] * on.numpy()
            due = torch.where(on, i + 1, due)
        exits: NDArray[np.int64] = due.numpy()
        return exits, spent + self.static_costs[exits, np.arange(len(exits))]


@dataclass
class Prepared:
    """A trained network and its data; what is said of a part of the data is computed once, when asked for."""

    model: PredictedExits
    data: Data
    bench: Bench
    method: ExitPredictionMethod
    _seen: dict[str, Seen] = field(default_factory=dict)

    def split(self, name: str) -> Seen:
        """Return what is said of a part of the data, up to the bench's limit."""
        if name not in self._seen:
            self._seen[name] = self._look(self.data.part(name).head(self.bench.test), name)
        return self._seen[name]

    @torch.inference_mode()
    def _look(self, examples: Examples, name: str) -> Seen:
        exits, device = self.model.exits_alone(), device_of(self.model)
        x = examples.inputs[0][None].to(device)
        every, static = (np.array(each, dtype=np.float64)[:, None] for each in costs.both_costs(exits, x))
        outputs, ones = remembered(exits, examples, self.bench, name), np.ones(len(examples))
        with evaluating(self.model):
            predicting = costs.count(lambda: self.model.predictor(x))
            found = [(index, self.model.predictor(x).cpu()) for index, x in examples.batches(BATCH, device=device)]
        order = torch.cat([index for index, _ in found]).argsort()
        said = torch.cat([part for _, part in found])[order]
        return Seen(examples, outputs, every * ones, static * ones, forecasts=said, predicting=float(predicting))


class ExitPredictionMethod(Method):
    """A method that names the exit beforehand: it says how to build, how to train, and what rule a knob means."""

    @abstractmethod
    def load(self) -> Data:
        """Return the data of the experiment, all inputs of one shape."""

    @abstractmethod
    def build(self, data: Data, seed: int) -> PredictedExits:
        """Return the untrained network; everything random follows the seed."""

    @abstractmethod
    def train(self, model: PredictedExits, data: Data, bench: Bench) -> None:
        """Train the network and its predictor in place (with `recipes`, which cache)."""

    @abstractmethod
    def rule(self, knob: float) -> Rule:
        """Return which exit is taken at one knob."""

    @property
    @abstractmethod
    def score(self) -> Score:
        """What makes quality of answers ``[N, ...]`` and targets."""

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
        """Try every knob on what is stored of the split."""
        seen = prepared.split(split)
        return [self.point(self.rule(knob), seen, knob) for knob in knobs]

    def point(self, rule: Rule, seen: Seen, knob: float = 0.0) -> OperatingPoint:
        """Measure a rule; the knob is only written down."""
        exits, spent = seen.gone(rule)
        return seen.point(knob, judged(self.score, at_exits(seen.answers, exits), seen.targets), exits, spent)

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return quality on the test split and cost of the plain network."""
        seen = prepared.split("test")
        return self.score(seen.answers[-1], seen.targets), float(seen.full_costs.mean())

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return each exit by itself, without the predictor."""
        return baselines_of(prepared.split("validation"), prepared.split("test"), self.score)

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return quality and cost of each exit."""
        seen = prepared.split("test")
        return exit_facts(seen.cut_off(self.score), seen.answers, seen.targets)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Run test samples: once counted from outside, then timed in turn with the plain network."""
        seen, model, rule = prepared.split("test"), prepared.model, self.rule(knob)
        exits, spent = seen.gone(rule)
        expected, chosen = at_exits(seen.answers, exits), seen.examples.head(bench.executed)
        counted, agrees, flawed, device = 0, True, 0, device_of(model)
        for index, x in chosen.batches(BATCH, device=device):
            with costs.MacCounter() as counter:
                found = run(model, x, rule)
            counted += counter.macs
            agrees &= torch.equal(found.exits.cpu(), torch.as_tensor(exits)[index])
            agrees &= torch.allclose(found.answers.cpu(), expected[index], atol=1e-3, equal_nan=True)
            flawed += int(found.not_finite.sum())
        batches = (x for _, x in chosen.batches(BATCH, device=device))
        ours, plain = in_turn(lambda x: run(model, x, rule), model.full, batches, bench.repeats, devices_of(model))
        return Execution(
            knob=knob,
            samples=len(chosen),
            claimed=float(spent[: len(chosen)].sum()),
            counted=counted,
            agrees=agrees,
            seconds=ours,
            full_seconds=plain,
            not_finite=flawed,
        )

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> Timing:
        """Time test samples in full batches, beside the plain network."""
        seen, model, rule = prepared.split("test"), prepared.model, self.rule(knob)
        index = seen.examples.filled(batch, TIMED[batch == 1])
        spent = seen.gone(rule)[1][index].sum() / seen.full_costs[index].sum()
        batches = (x for _, x in seen.examples.at(index).batches(batch, device=device_of(model)))
        ours, plain = in_turn(lambda x: run(model, x, rule), model.full, batches, bench.repeats, devices_of(model))
        return Timing(batch=batch, knob=knob, samples=len(index), saved=1 - spent, seconds=ours, full_seconds=plain)
