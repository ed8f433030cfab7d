"""One network with exit heads, cut between a device and a cloud where a rule says, which may learn online, unlabelled.

The method says how it learns where to cut: it sees only what it has paid for, as it asks a `World` to run the device
and, perhaps, the cloud. Here the network is trained on one domain and streams another, `Stored` is the world that
answers from outputs computed before, and in `Executed` the two sides run for real, instrumented from outside.

The cost is the device's, in units of lambda, the cost of one layer with its exit head: 0.8 for a layer, 0.2 for a head,
and a fixed price for sending a sample to the cloud. What the cloud computes is free in this model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from eelit.methods.engine import chance
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.exit_outputs import digest, remembered
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.metrics import accuracy, right
from eelit.methods.engine.multi_exit import MultiExit, device_of
from eelit.methods.engine.records import Baseline, Chance, Execution, ExitFacts, OperatingPoint, Timing
from eelit.methods.engine.stored_outputs import StoredOutputs, baselines_of, exit_facts
from eelit.methods.engine.timing import TIMED, devices_of, now
from eelit.methods.policies.base import on_host

LAYER, HEAD = 0.8, 0.2
"""Of lambda: what running one layer and one exit head costs."""


class World(Protocol):
    """Where a stream of samples is processed; both operations cost something."""

    @property
    def exits(self) -> int:
        """Number of exits, the last one included."""
        ...

    def device(self, sample: int, exits: Sequence[int]) -> NDArray[np.float64]:
        """Run the device up to the last of these exits, their heads alone; return the confidence at each."""
        ...

    def cloud(self, sample: int) -> float:
        """Run the rest for the sample that the device has just processed; return the last exit's confidence."""
        ...


@dataclass(frozen=True)
class Stream:
    """What happened to a stream of samples."""

    cuts: NDArray[np.int64]  # [N], the exit at which each was cut
    offloaded: NDArray[np.bool_]  # [N], whether it was sent to the cloud
    not_finite: NDArray[np.bool_]  # [N], whether a confidence that was asked for is not finite

    def exits(self, last: int) -> NDArray[np.int64]:
        """The exit ``[N]`` that answered each sample."""
        return np.where(self.offloaded, last, self.cuts)


class Splitting(Protocol):
    """How a stream is cut at one knob, and what that costs."""

    def drive(self, world: World, samples: int) -> Stream:
        """Process samples 0, 1, … one after the other, perhaps learning from each."""
        ...

    def costs(self, cuts: NDArray[np.int64], offloaded: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the cost ``[N]`` in lambda of samples cut at exits ``[N]``."""
        ...

    def sending(self, samples: int) -> float:
        """Return what it costs, in lambda, to send so many samples to the cloud."""
        ...


@dataclass(frozen=True)
class Stored:
    """A world that answers from the confidences ``[E, N]`` of all exits, in the order of the stream."""

    confidences: NDArray[np.float64]

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.confidences)

    def device(self, sample: int, exits: Sequence[int]) -> NDArray[np.float64]:
        """Look up the confidences at these exits."""
        return self.confidences[exits, sample]

    def cloud(self, sample: int) -> float:
        """Look up the last exit's confidence."""
        return float(self.confidences[-1, sample])


class Executed:
    """A world that really runs: device and cloud hold the same network, and each runs only its own part of it."""

    def __init__(self, model: MultiExit, examples: Examples, meter: Meter | None = None) -> None:
        self.model, self.examples, self.exits = model, examples, model.exits
        self.answers: list[Tensor] = []  # logits [C] of each sample, from the device or else from the cloud
        self.seconds = 0.0  # that the device took
        self._meter, self._devices = meter, devices_of(model)
        self._state, self._next = torch.empty(0), 0

    @torch.inference_mode()
    def device(self, sample: int, exits: Sequence[int]) -> NDArray[np.float64]:
        """Run the stages up to the last of these exits and their heads."""
        start = now(self._devices)
        self._state, self._next = self.examples.inputs[sample][None].to(device_of(self.model)), exits[-1] + 1
        found = []
        with self._counted("device"):
            for i in range(self._next):
                self._state = self.model.stages[i](self._state)
                if i in exits:
                    found.append(self.model.heads[i](self._state)[0])
        self.answers.append(found[-1])
        sure = confidence(torch.stack(found))
        self.seconds += now(self._devices) - start
        return sure

    @torch.inference_mode()
    def cloud(self, sample: int) -> float:
        """Run the remaining stages on the state that the device sent, and the last head."""
        with self._counted("cloud"):
            for stage in self.model.stages[self._next :]:
                self._state = stage(self._state)
            self.answers[-1] = self.model.heads[-1](self._state)[0]
        return float(confidence(self.answers[-1]))

    def _counted(self, side: str) -> AbstractContextManager[None]:
        return self._meter.on(side) if self._meter else nullcontext()


class Meter:
    """Counts from outside, by hooks, how often each side executes stages and heads."""

    def __init__(self, model: MultiExit) -> None:
        self.stages, self.heads = {"device": 0, "cloud": 0}, {"device": 0, "cloud": 0}
        self._model, self._side = model, "device"
        self._hooks: list[RemovableHandle] = []

    def on(self, side: str) -> Meter:
        """Count what runs inside the ``with`` block for this side."""
        self._side = side
        return self

    def __enter__(self) -> None:
        for counts, modules in ((self.stages, self._model.stages), (self.heads, self._model.heads)):
            for module in modules:
                self._hooks.append(module.register_forward_hook(lambda *_, counts=counts: self._add(counts)))

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _add(self, counts: dict[str, int]) -> None:
        counts[self._side] += 1

    def cost(self, rule: Splitting) -> float:
        """The counted executions in lambda; each answer of the cloud's head was one sample sent."""
        sent = self.heads["cloud"]
        return LAYER * self.stages["device"] + HEAD * self.heads["device"] + rule.sending(sent)


@dataclass
class Seen:
    """One stream of examples as all exits see it: logits ``[E, N, C]`` and what follows from them."""

    examples: Examples
    outputs: Tensor
    order: NDArray[np.int64] | None = None  # [N], the number of each sample in the data; None: they stream as they lie
    confidences: NDArray[np.float64] = field(init=False)  # [E, N]

    def __post_init__(self) -> None:
        self.confidences = confidence(self.outputs)

    def right(self, exits: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each sample ``[N]`` is answered rightly by its exit."""
        said = self.outputs[torch.as_tensor(exits), torch.arange(len(exits))]
        return right(said, self.examples.targets).numpy()

    def quality(self, exits: NDArray[np.int64]) -> float:
        """Accuracy when each sample is answered by its exit."""
        return float(self.right(exits).mean())

    @property
    def back(self) -> NDArray[Any]:
        """Where in the stream the samples of the data are, ``[N]``, in their order there."""
        return np.arange(len(self.examples)) if self.order is None else np.argsort(self.order)

    @property
    def full_quality(self) -> float:
        """Accuracy of the last exit."""
        return accuracy(self.outputs[-1], self.examples.targets)

    @property
    def as_stored_outputs(self) -> StoredOutputs:
        """The same in the data's order, for rules that stay on the device; costs are in lambda."""
        exits, n = self.confidences.shape
        index = torch.as_tensor(self.back)
        lying = Examples([self.examples.inputs[i] for i in self.back], self.examples.targets[index])
        on_the_way = [[(LAYER + HEAD) * i] * n for i in range(1, exits + 1)]
        cut_off = [[full_cost(i)] * n for i in range(1, exits + 1)]
        return StoredOutputs(lying, self.outputs[:, index], np.array(on_the_way), np.array(cut_off))

    def shuffled(self, seed: int) -> Seen:
        """The same samples in an order of their own for each seed."""
        order = np.random.default_rng(seed).permutation(len(self.examples))
        index = torch.as_tensor(order)
        inputs = [self.examples.inputs[i] for i in order]
        return Seen(Examples(inputs, self.examples.targets[index]), self.outputs[:, index], order)


@dataclass
class Prepared:
    """A trained model, and the two streams: labelled data of the source (validation), the target domain (test)."""

    model: MultiExit
    streams: dict[Split, Seen]


def confidence(outputs: Tensor) -> NDArray[np.float64]:
    """The largest class probability of logits ``[..., C]``."""
    return torch.as_tensor(on_host(outputs)).softmax(dim=-1).amax(dim=-1).numpy()


class SplitMethod(Method):
    """A method that cuts a network between device and cloud: it says how to train and which rule a knob means."""

    unit = "λ (one layer with its exit on the device)"
    cost_noise = 0.05  # a bandit that explores a short stream comes out a little costlier or cheaper by luck

    @abstractmethod
    def load(self) -> tuple[Data, Examples]:
        """Return the labelled data of the source domain, and the stream of the target domain."""

    @abstractmethod
    def build(self, data: Data, seed: int) -> MultiExit:
        """Return the untrained network."""

    @abstractmethod
    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the network in place on the source domain."""

    @abstractmethod
    def rule(self, knob: float, exits: int) -> Splitting:
        """Return the rule at one knob."""

    def prepare(self, bench: Bench) -> Prepared:
        """Train, without sight of the test examples, then let all exits answer both streams once.

        The bandit sees of these only what it pays for.
        """
        data, stream = self.load()
        stream, known = stream.head(bench.test), data.without_test()
        model = self.build(known, bench.seed)
        self.train(model, known, bench)
        model.eval()
        bench.data["source"], bench.data["stream"] = data.digest, digest(stream)
        bench.data["sizes"] = " / ".join(str(len(part)) for part in (data.train, data.validation, stream))
        streams: dict[Split, Examples] = {"validation": data.validation.head(bench.test), "test": stream}
        found = {name: Seen(part, remembered(model, part, bench, name)) for name, part in streams.items()}
        return Prepared(model, {name: seen.shuffled(bench.seed) for name, seen in found.items()})

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Send the stream through at each knob; the bandit starts anew each time."""
        stream, exits = prepared.streams[split], prepared.model.exits
        return [self.point(stream, self.rule(knob, exits), knob) for knob in knobs]

    def point(self, stream: Seen, rule: Splitting, knob: float) -> OperatingPoint:
        """Send one stream through."""
        exits = len(stream.outputs)
        told = rule.drive(Stored(stream.confidences), len(stream.examples))
        cost = float(rule.costs(told.cuts, told.offloaded).mean())
        answered, back = told.exits(exits - 1), stream.back
        worth = stream.right(answered)[back]
        return point(knob, worth, answered[back], count=exits, cost=cost, full=full_cost(exits))

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return accuracy on the target stream when the device runs the whole plain network, and that cost."""
        stream, exits = prepared.streams["test"], prepared.model.exits
        return stream.full_quality, full_cost(exits)

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return the accuracy of always saying the commonest class of the target stream."""
        return chance.of_classes(prepared.streams["test"].examples.targets)

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return each exit as a fixed depth on the device, and stopping there at the largest probability: no cloud."""
        held, test = prepared.streams["validation"].as_stored_outputs, prepared.streams["test"].as_stored_outputs
        return baselines_of(held, test, accuracy)

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return every exit by itself on the target stream, on the device, and the share that is overthought."""
        seen = prepared.streams["test"].as_stored_outputs
        return exit_facts(seen.cut_off(accuracy), seen.outputs, seen.targets)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Send the first samples of the stream through the real device and cloud, counted by hooks.

        Half as many as the bench allows: an online learner takes them one by one, which is slow.
        """
        stream, rule = prepared.streams["test"], self.rule(knob, prepared.model.exits)
        chosen = stream.examples.head(max(1, bench.executed // 2))
        claimed = rule.drive(Stored(stream.confidences), len(chosen))
        meter = Meter(prepared.model)
        world = Executed(prepared.model, chosen, meter)
        told = rule.drive(world, len(chosen))
        ours, plain = self.timed(prepared.model, chosen, rule, bench.repeats)
        said = stream.outputs[torch.as_tensor(claimed.exits(world.exits - 1)), torch.arange(len(chosen))]
        return Execution(
            knob=knob,
            samples=len(chosen),
            claimed=float(rule.costs(claimed.cuts, claimed.offloaded).sum()),
            counted=meter.cost(rule),
            agrees=bool((told.cuts == claimed.cuts).all() and (told.offloaded == claimed.offloaded).all())
            and torch.allclose(torch.stack(world.answers).cpu(), said, atol=1e-3, equal_nan=True),
            seconds=ours,
            full_seconds=plain,
            not_finite=int(told.not_finite.sum()),
        )

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> Timing | None:
        """Time the device alone, the bandit's thinking left out, beside the plain network on it; one by one only.

        What is saved is the device's cost, without the price of sending. An online learner has no batches.
        """
        if batch != 1:
            return None
        stream, rule = prepared.streams["test"], self.rule(knob, prepared.model.exits)
        chosen = stream.examples.head(TIMED[False])
        told = rule.drive(Stored(stream.confidences), len(chosen))
        spent = float(rule.costs(told.cuts, np.zeros_like(told.offloaded)).mean())
        ours, plain = self.timed(prepared.model, chosen, rule, bench.repeats)
        saved = 1 - spent / full_cost(prepared.model.exits)
        return Timing(batch=1, knob=knob, samples=len(chosen), saved=saved, seconds=ours, full_seconds=plain)

    @torch.inference_mode()
    def timed(self, model: MultiExit, chosen: Examples, rule: Splitting, repeats: int) -> tuple[float, float]:
        """Return the median seconds of the device under the rule, and of the plain network, in turn, one by one."""
        taken, devices = [], devices_of(model)
        for _ in range(repeats):
            world = Executed(model, chosen)
            rule.drive(world, len(chosen))
            start = now(devices)
            for x in chosen.inputs:
                model.full(x[None].to(device_of(model)))
            taken.append((world.seconds, now(devices) - start))
        return median(a for a, _ in taken), median(b for _, b in taken)


def full_cost(exits: int) -> float:
    """Cost in lambda of the plain network of so many layers on the device: every layer and the last head."""
    return LAYER * exits + HEAD
