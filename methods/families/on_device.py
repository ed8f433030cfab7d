"""Inference on the device alone, while no server can be reached: a network with exits on one processor, simulated.

Frames are taken up one after the other. A scheduler says which exit a frame is asked first, from what it knows before
it sees it, or that the frame is dropped; after each exit it says which is next, or that this one answers. The same loop
(`drive`) takes what an exit says and costs from tables (`Stored`), or has it really run (`Executed`). Seconds are
multiply-accumulates ÷ the speed of a simulated computer; none is measured.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.backbones.normalisation import folded
from eelit.methods.engine import chance, tasks
from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.multi_exit import MultiExit, device_of
from eelit.methods.engine.records import Baseline, Chance, Execution, ExitFacts, OperatingPoint, Rate, Simulation
from eelit.methods.engine.stored_outputs import StoredOutputs, exit_facts
from eelit.methods.engine.timing import devices_of, in_turn
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import JointImages
from eelit.methods.policies.base import finite
from eelit.methods.world.machines import Computer
from eelit.methods.world.shown import SECONDS
from eelit.methods.world.traces import Trace, wandering

THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.1)
"""Of the baseline that stops at the first exit as confident as this."""


@dataclass(frozen=True)
class Served:
    """What became of one frame; seconds are simulated."""

    frame: int
    came: float  # second at which it came
    begun: float  # second at which the phone took it up
    answered: float  # second at which it was done with it
    exit: int  # that answered, from 0; -1: it was dropped
    confidence: float  # of that exit; 0 if that was not finite
    macs: float  # that the phone spent on it
    asked: tuple[int, ...] = ()  # exits on the way, the last being the one that answered

    @property
    def latency(self) -> float:
        """Seconds that the phone worked on it."""
        return self.answered - self.begun

    @property
    def delay(self) -> float:
        """Seconds from its coming to its answer."""
        return self.answered - self.came


class Scheduler(Protocol):
    """What decides for each frame which exits are asked; it learns what was seen there and nothing else."""

    def first(self, frame: int, now: float) -> int | None:
        """Return the exit (from 0) that a frame is asked first, at second ``now``; None drops it."""
        ...

    def then(self, exit_: int, confidence: float, latency: float) -> int | None:
        """Return the exit to ask after one that was this confident, so many seconds in; None: that one answers."""
        ...

    def learn(self, served: Served) -> None:
        """Take in how a frame fared."""
        ...


@dataclass(frozen=True)
class Fixed:
    """One exit for all frames, chosen beforehand."""

    exit: int

    def first(self, frame: int, now: float) -> int:
        """Return the fixed exit; no frame is dropped."""
        return self.exit

    def then(self, exit_: int, confidence: float, latency: float) -> None:
        """Return None: the fixed exit answers, however confident it is."""

    def learn(self, served: Served) -> None:
        """Ignore how a frame fared: the exit stays fixed."""


@dataclass(frozen=True)
class Confident:
    """The first exit whose confidence is at least a threshold answers, or else the last."""

    threshold: float
    exits: int

    def first(self, frame: int, now: float) -> int:
        """Return exit 0; no frame is dropped."""
        return 0

    def then(self, exit_: int, confidence: float, latency: float) -> int | None:
        """Return None if the confidence reaches the threshold or this is the last exit, else the next exit."""
        return None if confidence >= self.threshold or exit_ == self.exits - 1 else exit_ + 1

    def learn(self, served: Served) -> None:
        """Ignore how a frame fared: the threshold stays fixed."""


class Phone(Protocol):
    """What runs the network; a frame goes on from where it stands."""

    def ask(self, frame: int, exit_: int, after: int) -> tuple[float, float]:
        """Run a frame from behind exit ``after`` (-1: from the start) up to an exit, and its head.

        Return what that took in multiply-accumulates, and how confident the exit is.
        """
        ...


def drive(
    scheduler: Scheduler,
    phone: Phone,
    computer: Computer,
    frames: Iterable[tuple[int, float]],
    *,
    pause: float = 0.0,
    until: float = math.inf,
) -> list[Served]:
    """Serve frames ``(number, second at which it comes)`` in this order, each when it is there and the phone is free.

    The phone is free ``pause`` seconds after it was done with the frame before. A frame that would not be done at
    second ``until`` is the end, and is left out.
    """
    found: list[Served] = []
    free = pause
    for frame, came in frames:
        begun = now = max(free, came)
        exit_, sure, macs = -1, 0.0, 0.0
        asked: list[int] = []
        due = scheduler.first(frame, begun)
        while due is not None:
            if due <= exit_:
                raise ValueError(f"exit {due} cannot be asked after exit {exit_}: a frame goes on, not back")
            cost, sure = phone.ask(frame, due, exit_)
            exit_, now, macs = due, computer.finish(now, cost), macs + cost
            asked.append(due)
            due = scheduler.then(exit_, sure, now - begun)
        if now > until:
            break
        found.append(Served(frame, came, begun, now, exit_, sure, macs, tuple(asked)))
        if exit_ >= 0:
            scheduler.learn(found[-1])
            free = now + pause
    return found


def confidence(outputs: Tensor) -> NDArray[np.float64]:
    """Return the largest class probability of logits ``[..., C]``; 0, which is never sure, where it is not finite."""
    sure = outputs.detach().cpu().double().softmax(dim=-1).amax(dim=-1).numpy()
    return np.where(np.isfinite(sure), sure, 0.0)


@dataclass(frozen=True)
class Stored:
    """A phone that looks everything up."""

    confidences: NDArray[np.float64]  # [E, N]
    costs: NDArray[np.float64]  # [E, N], multiply-accumulates up to each exit with its own head alone
    heads: NDArray[np.float64]  # [E, N], of each head; that of the last is never run in vain

    @classmethod
    def of(cls, seen: StoredOutputs) -> Stored:
        """Return the phone of one part of the data."""
        heads = np.diff(seen.costs - seen.static_costs, axis=0)
        return cls(confidence(seen.answers), seen.static_costs, np.concatenate([heads, np.zeros_like(heads[:1])]))

    def ask(self, frame: int, exit_: int, after: int) -> tuple[float, float]:
        """Look up the cost from behind exit ``after`` up to this exit, in multiply-accumulates, and its confidence."""
        before = self.costs[after, frame] - self.heads[after, frame] if after >= 0 else 0.0
        return float(self.costs[exit_, frame] - before), float(self.confidences[exit_, frame])


class Executed:
    """A phone that really runs the network, counted from outside."""

    def __init__(self, model: MultiExit, examples: Examples, *, count: bool = True) -> None:
        self.model, self.examples, self.count = model, examples, count
        self.answers: dict[int, Tensor] = {}  # frame → what the last exit that it was asked says, [C]
        self._state = torch.empty(0)

    @torch.inference_mode()
    def ask(self, frame: int, exit_: int, after: int) -> tuple[float, float]:
        """Run the stages between two exits, and the head of the second."""
        if after < 0:
            self._state = self.examples.inputs[frame][None].to(device_of(self.model))
        if not self.count:
            return 0.0, self._run(frame, exit_, after)
        with MacCounter() as counter:
            sure = self._run(frame, exit_, after)
        return float(counter.macs), sure

    def _run(self, frame: int, exit_: int, after: int) -> float:
        for stage in self.model.stages[after + 1 : exit_ + 1]:
            self._state = stage(self._state)
        self.answers[frame] = self.model.heads[exit_](self._state)[0].cpu()
        return float(confidence(self.answers[frame]))


class OnDeviceMethod(JointImages, Method):
    """A method that schedules exits on a phone: it says what decides at a knob, and perhaps when frames come."""

    unit = "simulated ms"
    images: str
    train_size: int
    speed: float  # multiply-accumulates per second of the phone when it is not throttled
    throttled: tuple[float, ...]  # shares of its speed between which it wanders
    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    fits_on: ClassVar[float] = 0.0  # share of the validation data that `fit` has for itself

    @abstractmethod
    def scheduler(self, prepared: Prepared, knob: float, frames: int) -> Scheduler:
        """Return what decides for so many frames at a knob, made without sight of the test data."""

    def fit(self, prepared: Prepared) -> Any:
        """Return what must be known of the network beforehand, from ``prepared.split("fitting")``."""
        return None

    def came(self, prepared: Prepared, frames: int) -> list[float]:
        """Return the seconds at which frames come, whatever decides about them: here one is always there."""
        return [0.0] * frames

    def counted(self, prepared: Prepared, served: Sequence[Served]) -> NDArray[np.bool_]:
        """Return of which frames the answer counts ``[N]``: here of all that were not dropped."""
        return np.array([each.exit >= 0 for each in served])

    def cut_off(self, prepared: Prepared, exit_: int, frames: int) -> Scheduler:
        """Return what sends frames to one exit."""
        return Fixed(exit_)

    def sure(self, prepared: Prepared, threshold: float, frames: int) -> Scheduler:
        """Return what lets a frame leave at the first exit that is so confident."""
        return Confident(threshold, prepared.model.exits)

    @property
    def gap(self) -> float:
        """Seconds that pass between two frames, whatever exits are asked."""
        return 0.0

    def computer(self, split: Split, seed: int) -> Computer:
        """Return the phone's processor, whose speed wanders by a seeded Markov chain, another on each split."""
        seeds = [seed, int(split == "test")]
        return Computer(wandering(self.speed, self.throttled, stay=0.5, seconds=900.0, seed=seeds))

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def answers(self, outputs: Tensor, prepared: Any) -> Tensor:
        """Return the answers in what is said: the logits as they are."""
        return outputs

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train, neither of which sees the test examples; fold normalisations."""
        data = self.load()
        known = data.without_test()
        model = self.build(known, bench.seed)
        self.train(model, known, bench)
        bench.data["examples"] = data.digest
        bench.data["sizes"] = " / ".join(str(len(part)) for part in (data.train, data.validation, data.test))
        deployed = folded(model.eval()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Prepared(deployed, data, bench, self)  # type: ignore[arg-type]

    def served(self, prepared: Prepared, split: Split, scheduler: Scheduler) -> list[Served]:
        """Return what becomes of the frames of a split under a scheduler."""
        seen = prepared.split(split)
        came = self.came(prepared, len(seen.examples))
        computer = self.computer(split, prepared.bench.seed)
        return drive(scheduler, Stored.of(seen), computer, enumerate(came), pause=self.gap)

    def point(self, prepared: Prepared, split: Split, served: Sequence[Served], knob: float) -> OperatingPoint:
        """Measure what became of frames: one whose answer does not count is answered wrongly, a dropped one is free."""
        seen = prepared.split(split)
        exits = np.array([each.exit for each in served])
        answers = seen.at(np.maximum(exits, 0)).argmax(dim=-1)
        right = (answers == seen.targets).numpy() & self.counted(prepared, served)
        cost = milliseconds(served)
        full = milliseconds(self._full(prepared, split))
        found = point(knob, right, exits, count=len(seen.costs), cost=max(cost, 1e-6 * full), full=full)
        return found.model_copy(update={"cost": cost})

    def _full(self, prepared: Prepared, split: Split) -> list[Served]:
        """Return what becomes of frames that all run the plain network."""
        return self.served(prepared, split, Fixed(prepared.model.exits - 1))

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Send the frames of the split through the phone at each knob; what learns starts anew each time."""
        frames, found = len(prepared.split(split).examples), []
        for knob in knobs:
            scheduler = self.scheduler(prepared.for_choosing, knob, frames)
            found.append(self.point(prepared, split, self.served(prepared, split, scheduler), knob))
        return found

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return accuracy of the plain network on the test split, and its mean time."""
        found = self.point(prepared, "test", self._full(prepared, "test"), prepared.model.exits)
        return found.quality, found.cost

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return the accuracy of always saying the commonest class."""
        return chance.of_classes(prepared.split("test").targets)

    def static(self, prepared: Prepared, split: Split) -> list[OperatingPoint]:
        """Return each exit for all frames; the knob is its number, from 1."""
        frames, found = len(prepared.split(split).examples), []
        for i in range(prepared.model.exits):
            served = self.served(prepared, split, self.cut_off(prepared, i, frames))
            found.append(self.point(prepared, split, served, i + 1))
        return found

    def confident(self, prepared: Prepared, split: Split) -> list[OperatingPoint]:
        """Return what leaving at the first confident exit reaches at each threshold."""
        frames, found = len(prepared.split(split).examples), []
        for threshold in THRESHOLDS:
            served = self.served(prepared, split, self.sure(prepared, threshold, frames))
            found.append(self.point(prepared, split, served, threshold))
        return found

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return each exit by itself, and stopping at the first exit that is sure: what looks at each frame alone."""
        rules = {"static exit": self.static, "max-confidence": self.confident}
        return [
            Baseline(name=name, validation=rule(prepared, "validation"), test=rule(prepared, "test"))
            for name, rule in rules.items()
        ]

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return quality, time and calibration error of each exit, and the share overthought."""
        seen = prepared.split("test")
        return exit_facts(self.static(prepared, "test"), seen.answers, seen.targets)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Have the first frames really run, half as many as the bench allows, one by one.

        The same simulation makes milliseconds of what was counted. Seconds are those that were really taken.
        """
        seen = prepared.split("test")
        examples = seen.examples.head(max(1, bench.executed // 2))
        frames, computer = len(examples), self.computer("test", bench.seed)
        came = self.came(prepared, frames)

        def go(phone: Phone) -> list[Served]:
            scheduler = self.scheduler(prepared.for_choosing, knob, frames)
            return drive(scheduler, phone, computer, enumerate(came), pause=self.gap)

        phone = Executed(prepared.model, examples)
        claimed, counted = go(Stored.of(seen)), go(phone)
        exits = np.array([each.exit for each in claimed])
        same = exits.tolist() == [each.exit for each in counted]
        kept = np.flatnonzero(exits >= 0)
        said = torch.stack([phone.answers[i] for i in kept.tolist()]) if same and len(kept) else seen.answers[0, :0]
        expected = seen.answers[torch.as_tensor(exits[kept]), torch.as_tensor(kept)]
        ours, plain = self.timed(prepared, examples, counted, bench.repeats)
        return Execution(
            knob=knob,
            samples=frames,
            claimed=milliseconds(claimed) * frames,
            counted=milliseconds(counted) * frames,
            agrees=same and torch.allclose(said, expected, atol=1e-3, equal_nan=True),
            seconds=ours,
            full_seconds=plain,
            not_finite=int((~finite(said)).sum()),
        )

    def timed(
        self, prepared: Prepared, examples: Examples, served: Sequence[Served], repeats: int
    ) -> tuple[float, float]:
        """Return median seconds of running frames through the exits that they asked, and of the plain network."""
        phone, model = Executed(prepared.model, examples, count=False), prepared.model

        def ours(i: int) -> None:
            for after, exit_ in pairwise((-1, *served[i].asked)):
                phone.ask(i, exit_, after)

        def plain(i: int) -> None:
            model.full(examples.inputs[i][None].to(device_of(model)))

        with torch.inference_mode():
            return in_turn(ours, plain, range(len(examples)), repeats, devices_of(model))

    def simulation(self, prepared: Prepared, bench: Bench) -> Simulation:
        """Return what test frames meet: the processor's speed, and what else `constants` names."""
        speed = self.computer("test", bench.seed).speed
        if len(set(speed.rates)) == 1:
            steady = f"processor: {speed.rates[0] / 1e9:.4g} billion MACs/s"
            return Simulation(seconds=SECONDS, rates=[], constants=[steady, *self.constants(prepared)])
        shown = told(speed, "processor, speed", "billion MACs/s", SECONDS, 1e9)
        return Simulation(seconds=SECONDS, rates=[shown], constants=self.constants(prepared))

    def constants(self, prepared: Prepared) -> list[str]:
        """Return what else frames meet, in words."""
        return ["a frame is always there"]


def told(trace: Trace, part: str, unit: str, seconds: float, scale: float = 1.0) -> Rate:
    """Return the first seconds of a rate that changes; they lie before the trace's end."""
    number = sum(time < seconds for time in trace.times)
    rates = [rate / scale for rate in trace.rates[:number]]
    return Rate(part=part, unit=unit, times=list(trace.times[:number]), rates=rates)


def milliseconds(served: Sequence[Served]) -> float:
    """Return the simulated milliseconds that the phone worked on a frame, on average."""
    return 1000 * mean(each.latency for each in served)
