"""One network with exit heads, and a pure policy that decides after each head, and perhaps which head is next."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.exit_outputs import remembered
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of, of_samples
from eelit.methods.engine.records import Baseline, Execution, ExitFacts, Timing
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.engine.timing import BATCH, TIMED, devices_of, in_turn
from eelit.methods.families.stepwise import StepwiseMethod, StepwisePrepared
from eelit.methods.policies.base import Policy


@dataclass
class Prepared(StepwisePrepared):
    """A trained network with exits and its data; what the exits say on a split is computed once, when asked for."""

    model: MultiExit
    method: ExitMethod

    def costs(self, examples: Examples) -> NDArray[np.float64]:
        """Return MACs ``[2, E, N]`` up to each exit: with all heads on the way, and with its own head alone."""
        table = costs.counted(self.model)
        for x in examples.inputs:
            if x.shape not in table:
                table[x.shape] = costs.both_costs(self.model, x[None].to(device_of(self.model)))
        return np.array([table[x.shape] for x in examples.inputs], dtype=np.float64).transpose(1, 2, 0)

    def store(self, examples: Examples, name: str) -> StoredOutputs:
        """Return what all exits say on a part of the data, with MACs."""
        every, static = self.costs(examples)
        outputs = remembered(self.model, examples, self.bench, name)
        return StoredOutputs(examples, outputs, every, static, lambda said: self.method.answers(said, self))


class ExitMethod(StepwiseMethod):
    """A method that adds exits to a network: it says how to build, how to train, and which policy a knob means."""

    @abstractmethod
    def build(self, data: Data, seed: int) -> MultiExit:
        """Return the untrained network; everything random follows the seed."""

    @abstractmethod
    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the network in place (with `recipes`, which cache)."""

    @abstractmethod
    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """Return the policy at one knob, from the trained model and ``prepared.fitted``; test data are out of reach."""

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; neither sees the test examples."""
        model, data = self.trained(bench)
        return Prepared(model, data, bench, self)

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> Timing:
        """Time `infer` on test samples in full batches, beside the plain network: from inputs to predictions."""
        seen, policy = prepared.split("test"), self.rule(knob, prepared)
        index = seen.examples.filled(batch, TIMED[batch == 1])
        spent = seen.paid(policy)[index].sum() / seen.full_costs[index].sum()
        ours, plain = timed(prepared.model, seen.examples.at(index), policy, batch, bench.repeats)
        return Timing(batch=batch, knob=knob, samples=len(index), saved=1 - spent, seconds=ours, full_seconds=plain)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Run `infer` on test samples: once counted from outside, then timed in turn with the plain network.

        Batches are full, of the commonest shapes, so that samples really leave a batch in which others stay.
        """
        seen, policy = prepared.split("test"), self.rule(knob, prepared)
        taken = seen.examples.filled(min(BATCH, bench.executed), bench.executed)
        chosen, outputs = seen.examples.at(taken), of_samples(seen.outputs, taken)
        exits = replay(policy, outputs)
        expected = seen.read(answered(policy, outputs, exits))
        counted, agrees, flawed = 0, True, 0
        for index, x in chosen.batches(BATCH, device=device_of(prepared.model)):
            with costs.MacCounter() as counter:
                found = infer(prepared.model, x, policy)
            counted += counter.macs
            agrees &= bool((found.exits.cpu() == torch.as_tensor(exits[index.numpy()])).all())
            agrees &= torch.allclose(seen.read(found.outputs).cpu(), expected[index], atol=1e-3, equal_nan=True)
            flawed += len(found.not_finite)
        ours, plain = timed(prepared.model, chosen, policy, BATCH, bench.repeats)
        return Execution(
            knob=knob,
            samples=len(chosen),
            claimed=float(seen.paid(policy)[taken].sum()),
            counted=counted,
            agrees=agrees,
            seconds=ours,
            full_seconds=plain,
            not_finite=flawed,
        )


class ClasslessExitMethod(ExitMethod):
    """A method whose answers are no probabilities of classes: none can be the largest, and none be calibrated."""

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return the network cut off after each exit."""
        held, test = (self.static(prepared.split(name)) for name in ("validation", "test"))
        return [Baseline(name="static exit", validation=held, test=test)]

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return quality and cost of each exit."""
        points = self.static(prepared.split("test"))
        return [ExitFacts(quality=point.quality, cost=point.cost) for point in points], None


def timed(model: MultiExit, examples: Examples, policy: Policy, batch: int, repeats: int) -> tuple[float, float]:
    """Return median seconds of `infer` and of the plain network over the examples."""
    batches = (x for _, x in examples.batches(batch, device=device_of(model)))
    return in_turn(lambda x: infer(model, x, policy), model.full, batches, repeats, devices_of(model))
