"""One network with exits, divided among a chain of machines; its samples are a stream in a simulated world.

The device runs the first stages and asks their exits; what no exit there answers crosses a link, and the next machine
goes on. The same simulation (`world.stream`) takes what each machine does from tables, or has it really done: then each
runs its own part alone, and a state crosses as the bytes that are counted. Costs are simulated: a method says in `unit`
what its `price` of a sample's journey is.
"""

from __future__ import annotations

import math
import struct
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from statistics import mean
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from eelit.methods.engine.costs import MacCounter, decision_costs
from eelit.methods.engine.evaluate import answered, followed, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.exit_outputs import Kept, empty_like
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.metrics import judged
from eelit.methods.engine.multi_exit import (
    MultiExit,
    at_exits,
    device_of,
    evaluating,
    of_samples,
    said_at,
    select,
    stacked,
    to_policy,
)
from eelit.methods.engine.records import Baseline, Execution, ExitFacts, OperatingPoint, Simulation
from eelit.methods.engine.routing import decide
from eelit.methods.engine.stored_outputs import StoredOutputs, exit_facts
from eelit.methods.engine.timing import BATCH, devices_of, in_turn
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ExitMethod
from eelit.methods.families.exits import Prepared as ExitsPrepared
from eelit.methods.policies.base import ANSWER, Assembling, Output, Policy, Routing, State, finite, said
from eelit.methods.world.shown import shown
from eelit.methods.world.stream import Always, Journey, Leg, Scheduler, Work, World, stream
from eelit.methods.world.wire import Codec, Row, Whole

Rule = Callable[[float], Policy]
"""From a knob to the exit rule."""
ON, ANSWERED = 0, 1
"""How a message begins: the state of a sample that goes on, or an answer."""


@dataclass(frozen=True)
class Plan:
    """What is done with one sample: where the network is cut for it, and by which rule it leaves."""

    cuts: tuple[int, ...]  # for each link, how many stages have run when a sample comes to it; never falling
    knob: float | None = None  # of the exit rule; None: `exit` is the only one that is asked, and answers
    exit: int = -1  # from 0, or counted back from the end

    def target(self, exits: int) -> int:
        """Return the number (from 0) of the only exit that is asked, of so many."""
        return self.exit % exits

    def bounds(self, exits: int) -> list[tuple[int, int]]:
        """Return for each machine the stages that it runs, from the first number to before the second."""
        return list(pairwise((0, *self.cuts, exits)))


class Ran(NamedTuple):
    """What a machine did with a sample."""

    exit: int | None  # the last exit that it asked; None if it asked none
    answer: Tensor | None  # what that exit, or the rule with it, answers: [1, C] or [1]
    left: bool  # whether that is the answer
    message: bytes  # what crosses the link: the answer, or else the state with all that the next machine must know
    state: Any = None  # behind the last stage that it ran
    memory: State = ()  # of the rule
    due: int = 0  # the exit that is to be asked next


class Machine:
    """One machine of the chain with its part of the network: it holds no stage and no head but those ``within``.

    ``rule`` makes the exit rule that a knob means, ``codec`` writes states, and ``read`` takes the answer from what an
    exit says. A message is what `begin` or `handle` returned on the machine before.
    """

    def __init__(
        self,
        number: int,
        model: MultiExit,
        within: range,
        rule: Rule,
        codec: Codec,
        read: Callable[[Output], Tensor] = said,
    ) -> None:
        self.number, self.exits, self.rule, self.codec, self.read = number, model.exits, rule, codec, read
        self.stages = {i: model.stages[i] for i in within}
        self.heads = {i: model.heads[i] for i in within}
        self.device = device_of(model)

    def begin(self, x: Tensor, plan: Plan) -> Ran:
        """Take up a sample ``[1, ...]`` on the first machine."""
        due = 0 if plan.knob is not None else plan.target(self.exits)
        return self._run(x.to(self.device), (), due, plan, plan.bounds(self.exits)[0])

    def finish(self, ran: Ran, plan: Plan) -> Ran:
        """Go on by itself with a sample that it has passed on, to the end if need be."""
        bounds = plan.bounds(self.exits)[0][1], self.exits
        return self._run(ran.state, ran.memory, ran.due, plan, bounds)

    def handle(self, message: bytes) -> bytes:
        """Go on with a sample from the machine before, and return what crosses the next link, there or back."""
        _, knob, due, exit_, cuts = struct.unpack_from("<BdBbB", message)
        at = struct.calcsize("<BdBbB")
        plan = Plan(tuple(message[at : at + cuts]), None if math.isnan(knob) else knob, exit_)
        (size,) = struct.unpack_from("<H", message, at + cuts)
        at += cuts + 2
        memory = tuple(part.to(self.device) for part in Row().unpack(message[at : at + size]))
        state = pytree.tree_map_only(Tensor, self._here, self.codec.unpack(message[at + size :]))
        return self._run(state, memory, due, plan, plan.bounds(self.exits)[self.number]).message

    def _here(self, part: Tensor) -> Tensor:
        return part.to(self.device)

    @torch.inference_mode()
    def _run(self, state: Any, memory: State, due: int, plan: Plan, bounds: tuple[int, int]) -> Ran:
        """Run stages within bounds on a state, with the heads that are due, until the rule stops it."""
        policy = None if plan.knob is None else self.rule(plan.knob)
        exit_, answer = None, None
        for i in range(*bounds):
            with evaluating(self.stages[i]):
                state = self.stages[i](state)
            if i != due:
                continue
            with evaluating(self.heads[i]):
                output = self.heads[i](state)
            memory, stops, due = self._asked(policy, memory, output, i)
            exit_, answer = i, self.read(_told(policy, memory, output))
            if stops:
                return Ran(exit_, answer, True, answer_message(i, answer) if self.number else b"")
        return Ran(exit_, answer, False, on_message(plan, due, memory, self.codec.pack(state)), state, memory, due)

    def _asked(self, policy: Policy | None, memory: State, output: Output, i: int) -> tuple[State, bool, int]:
        """Return what the rule remembers after exit ``i``, whether the sample stops there, and which exit is next."""
        last = i == self.exits - 1
        if policy is None:
            return memory, True, i
        if isinstance(policy, Assembling) or not last:
            memory, stop, _ = decide(policy, memory, output)
        if last or bool(stop):
            return memory, True, i
        return memory, False, int(policy.route(memory, to_policy(output))[0]) if isinstance(policy, Routing) else i + 1


def _told(policy: Policy | None, memory: State, output: Output) -> Output:
    """Return what a sample is told by an exit, if it answers: the exit's own output, or what the rule makes of all."""
    if not isinstance(policy, Assembling):
        return output
    answer = policy.answer(memory, to_policy(output))
    return {**output, ANSWER: answer} if isinstance(output, dict) else answer


def on_message(plan: Plan, due: int, memory: State, state: bytes) -> bytes:
    """Return what a machine is sent: the plan, which exit is next, what the rule remembers, and the state."""
    kept = Row().pack(memory)
    knob = math.nan if plan.knob is None else plan.knob
    head = struct.pack("<BdBbB", ON, knob, due, plan.exit, len(plan.cuts))
    return head + bytes(plan.cuts) + struct.pack("<H", len(kept)) + kept + state


def answer_message(exit_: int, answer: Tensor) -> bytes:
    """Return what is sent back: which exit answers, and its numbers, four bytes each."""
    return struct.pack("<BB", ANSWERED, exit_) + answer.detach().cpu().float().numpy().tobytes()


def read_answer(message: bytes) -> tuple[int, Tensor] | None:
    """Return the exit and its numbers from a message; None if the sample has gone on instead."""
    if message[0] != ANSWERED:
        return None
    return message[1], torch.from_numpy(np.frombuffer(message[2:], "<f4").astype(np.float32))


class Executed:
    """Work that is really done: each machine of the chain runs its part, and what crosses is the bytes that it sends.

    ``others`` are the machines behind the device, in their order, each as what takes a message and returns one: they
    may be anywhere.
    """

    def __init__(
        self,
        device: Machine,
        others: Sequence[Callable[[bytes], bytes]],
        examples: Examples,
        *,
        count: bool = True,
    ) -> None:
        self.device, self.others, self.examples, self.count = device, others, examples, count
        self.own: dict[int, Tensor] = {}  # sample → the last answer of an exit of the device
        self.far: dict[int, Tensor] = {}  # sample → what was sent back
        self._ran: dict[int, Ran] = {}  # sample → what the device has passed on

    def legs(self, sample: int, plan: Plan) -> Iterator[Leg]:
        """Have each machine do its part when it is asked for, its multiply-accumulates counted from outside."""
        x = self.examples.inputs[sample][None]
        macs, ran = self._counted(lambda: self.device.begin(x, plan))
        if ran.answer is not None:
            self.own[sample] = ran.answer[0].cpu()
        self._ran[sample] = ran
        yield Leg(macs, ran.exit, ran.left, len(ran.message))
        message = ran.message
        for machine in self.others if not ran.left else ():
            macs, message = self._counted(partial(machine, message))
            found = read_answer(message)
            if found:
                self.far[sample] = found[1]
            yield Leg(macs, found[0] if found else None, found is not None, len(message))
            if found:
                return

    def rest(self, sample: int, plan: Plan) -> Leg:
        """Have the device finish a sample by itself."""
        macs, ran = self._counted(lambda: self.device.finish(self._ran[sample], plan))
        self.own[sample] = ran.answer[0].cpu()
        return Leg(macs, ran.exit, True, 0)

    def _counted(self, run: Callable[[], Any]) -> tuple[float, Any]:
        if not self.count:
            return 0.0, run()
        with MacCounter() as counter:
            found = run()
        return float(counter.macs), found

    def answers(self, journeys: Sequence[Journey], shape: torch.Size) -> Tensor:
        """Return what samples 0, 1, … were told, each ``[C]`` or ``[]``; the device's own where it gave up."""
        told = [
            self.own[i] if journey.given_up or i not in self.far else self.far[i] for i, journey in enumerate(journeys)
        ]
        return torch.stack([answer.reshape(shape) for answer in told])


@torch.inference_mode()
def crossing(
    model: MultiExit, codec: Codec, examples: Examples, cuts: Sequence[int], batch: int = BATCH
) -> tuple[Output, NDArray[np.int64]]:
    """Return what all exits say on all examples ``[E, N, ...]``, and the bytes ``[L, N]`` of each state that crosses.

    Behind each of the cuts the network goes on with what the codec makes of its states, sample by sample.
    """
    outputs, sizes = empty_like(model, examples), np.zeros((len(cuts), len(examples)), dtype=np.int64)
    parts = outputs if isinstance(outputs, dict) else {ANSWER: outputs}
    for index, x in examples.batches(batch, device=device_of(model)):
        found, state = [], x
        with evaluating(model):
            for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
                for link in (link for link, cut in enumerate(cuts) if cut == i):
                    messages = [codec.pack(select(state, torch.tensor([row]))) for row in range(len(index))]
                    sizes[link, index.numpy()] = [len(message) for message in messages]
                    state = _rejoined([codec.unpack(message) for message in messages], device_of(model))
                state = stage(state)
                found.append(head(state))
        for name, part in parts.items():
            part[:, index] = said(stacked(found), name).cpu()
    return outputs, sizes


def _rejoined(states: Sequence[Any], device: torch.device) -> Any:
    """Return the states of single samples as one; what all share, with its first axis 1, is as in the first."""

    def join(*parts: Any) -> Any:
        return torch.cat(parts).to(device) if isinstance(parts[0], Tensor) and parts[0].dim() else parts[0]

    return pytree.tree_map(join, *states)


@torch.inference_mode()
def state_sizes(model: MultiExit, codec: Codec, examples: Examples) -> NDArray[np.int64]:
    """Return the bytes ``[E, N]`` of the state before each stage (of the input first) as the codec writes it."""
    sizes = np.zeros((model.exits, len(examples)), dtype=np.int64)
    for index, x in examples.batches(BATCH, device=device_of(model)):
        with evaluating(model):
            state = x
            for i, stage in enumerate(model.stages):
                for row, sample in enumerate(index.tolist()):
                    sizes[i, sample] = len(codec.pack(select(state, torch.tensor([row]))))
                state = stage(state)
    return sizes


class Course(NamedTuple):
    """What becomes of each sample under one plan, as if every machine answered in time."""

    exits: NDArray[np.int64]  # [N], the exit at which it leaves
    legs: list[list[Leg]]  # of each sample, machine by machine


@dataclass
class StoredTiers(StoredOutputs):
    """One part of the data seen by all exits; what each plan makes of it is worked out when it is first asked for.

    ``costs`` and ``static_costs`` are multiply-accumulates, wherever they are done. It is a `world.stream.Work`.
    """

    model: MultiExit = None  # type: ignore[assignment]
    codec: Codec = field(default_factory=Whole)
    rule: Rule = None  # type: ignore[assignment]
    bench: Bench = field(default_factory=Bench)
    name: str = ""
    single: bool = False  # whether samples cross one by one, to the last bit as they do when that is executed
    _crossed: dict[tuple[int, ...], tuple[Output, NDArray[np.int64]]] = field(default_factory=dict)
    _courses: dict[Plan, Course] = field(default_factory=dict)

    def legs(self, sample: int, plan: Plan) -> Iterator[Leg]:
        """Look up what each machine does with a sample."""
        return iter(self.course(plan).legs[sample])

    def rest(self, sample: int, plan: Plan) -> Leg:
        """Look up what the device does with a sample that it has passed on and finishes by itself."""
        (whole,), (first, *_) = self.course(self._alone(plan)).legs[sample], self.course(plan).legs[sample]
        return replace(whole, macs=whole.macs - first.macs)

    def _alone(self, plan: Plan) -> Plan:
        """Return the plan of which the device does everything."""
        return replace(plan, cuts=(len(self.costs),) * len(plan.cuts))

    def crossed(self, cuts: tuple[int, ...]) -> tuple[Output, NDArray[np.int64]]:
        """Return what all exits say, and the bytes ``[L, N]`` of states, where the network is cut so."""
        exits, samples = self.costs.shape
        real = tuple(cut for cut in dict.fromkeys(cuts) if cut < exits)
        if not real:
            return self.outputs, np.zeros((len(cuts), samples), dtype=np.int64)
        if real not in self._crossed:
            self._crossed[real] = self._cross(real)
        outputs, sizes = self._crossed[real]
        rows = [sizes[real.index(cut)] if cut < exits else np.zeros(samples, dtype=np.int64) for cut in cuts]
        return outputs, np.array(rows)

    def _cross(self, cuts: tuple[int, ...]) -> tuple[Output, NDArray[np.int64]]:
        if self.codec.lossless:  # sizes follow from shapes, and what crosses is what was
            known: dict[torch.Size, NDArray[np.int64]] = {}
            for x in self.examples.inputs:
                if x.shape not in known:
                    one = Examples([x], self.targets[:1])
                    known[x.shape] = state_sizes(self.model, self.codec, one)[list(cuts), 0]
            return self.outputs, np.array([known[x.shape] for x in self.examples.inputs]).T
        if self.single:
            return crossing(self.model, self.codec, self.examples, cuts, batch=1)
        return crossed(self.model, self.codec, self.examples, cuts, self.bench, self.name)

    def course(self, plan: Plan) -> Course:
        """Return what becomes of each sample under a plan."""
        if plan not in self._courses:
            self._courses[plan] = self._course(plan)
        return self._courses[plan]

    def _course(self, plan: Plan) -> Course:
        exits, samples = self.costs.shape
        outputs, sizes = self.crossed(plan.cuts)
        left, visited, heads = self._visits(plan, outputs)
        stages = np.concatenate([np.zeros((1, samples)), np.cumsum(self.stages, axis=0)])
        asked = np.concatenate([np.zeros((1, samples)), np.cumsum(heads * visited, axis=0)])
        rows, found = np.arange(samples), []
        answer = len(answer_message(0, self.answers[-1, 0]))
        for machine, (first, stop) in enumerate(plan.bounds(exits)):
            end = np.maximum(np.minimum(stop, left + 1), first)
            macs = stages[end, rows] - stages[first] + asked[end, rows] - asked[first]
            here, back = (left >= first) & (left < stop), answer if machine else 0
            known = visited & (np.arange(exits)[:, None] < end) & (here | (machine == 0))
            last = np.where(known, np.arange(exits)[:, None], -1).max(axis=0)
            on = sizes[machine] + self._overhead(plan, outputs, stop) if machine < len(plan.cuts) else np.zeros(samples)
            size = np.where(here, back, on).astype(np.int64)
            found.append(list(zip(macs.tolist(), last.tolist(), here.tolist(), size.tolist(), strict=True)))
        return Course(left, [_legs(row) for row in zip(*found, strict=True)])

    def _visits(self, plan: Plan, outputs: Output) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
        """Return each sample's exit ``[N]``, which exits it asked, and what each costs, with the rule, ``[E, N]``."""
        exits, samples = self.costs.shape
        numbers = np.arange(exits)[:, None]
        if plan.knob is None:
            left = np.full(samples, plan.target(exits))
            return left, numbers == left, self.heads
        policy = self.rule(plan.knob)
        if isinstance(policy, Routing):
            course = followed(policy, outputs)
            if course.decisions.any():
                raise ValueError("a rule that names the next exit must not multiply here: who would pay is not told")
            return course.exits.numpy(), course.visited.numpy(), self.heads
        left = replay(policy, outputs)
        own = np.diff(decision_costs(policy, outputs), prepend=0)[:, None]
        return left, numbers <= left, self.heads + own

    @cached_property
    def heads(self) -> NDArray[np.float64]:
        """What each head costs ``[E, N]``; that of the last is counted with its stage."""
        every = self.costs - self.static_costs
        return np.concatenate([np.diff(every, axis=0), np.zeros_like(every[:1])])

    @cached_property
    def stages(self) -> NDArray[np.float64]:
        """What each stage costs ``[E, N]``."""
        found: NDArray[np.float64] = np.diff(self.static_costs - self.heads, axis=0, prepend=0)
        return found

    def _overhead(self, plan: Plan, outputs: Output, border: int) -> int:
        """Return the bytes of a message beside the state: the plan, and what the rule remembers at a border."""
        memory: State = ()
        if plan.knob is not None:
            policy, one = self.rule(plan.knob), of_samples(outputs, slice(1))
            memory = policy.start()
            for i in range(min(border, len(self.costs) - 1)):
                memory, _ = policy.step(memory, to_policy(said_at(one, i)))
        return len(on_message(plan, 0, memory, b""))

    def told(self, journeys: Sequence[Journey]) -> Tensor:
        """Return what samples 0, 1, … were told, ``[n, C]`` or ``[n]``."""
        found = self.answers[-1, : len(journeys)].clone()
        exits = np.array([journey.exit for journey in journeys])
        plans = [self._alone(journey.plan) if journey.given_up else journey.plan for journey in journeys]
        for plan in dict.fromkeys(plans):
            rows = np.array([each == plan for each in plans])
            found[torch.as_tensor(rows)] = self._answers(plan, np.where(rows, exits, 0))[torch.as_tensor(rows)]
        return found

    def _answers(self, plan: Plan, exits: NDArray[np.int64]) -> Tensor:
        """Return what the first samples are told under a plan by their exits ``[n]``."""
        outputs = of_samples(self.crossed(plan.cuts)[0], slice(len(exits)))
        if plan.knob is None:
            return self.read(at_exits(outputs, exits))
        return self.read(answered(self.rule(plan.knob), outputs, exits))

    def one_by_one(self, samples: int) -> StoredTiers:
        """Return the same of the first samples, each of which crosses by itself, and nothing is kept."""
        return replace(
            self,
            examples=self.examples.head(samples),
            outputs=of_samples(self.outputs, slice(samples)),
            costs=self.costs[:, :samples],
            static_costs=self.static_costs[:, :samples],
            single=True,
            _crossed={},
            _courses={},
        )


def _legs(row: Sequence[tuple[float, int, bool, int]]) -> list[Leg]:
    """Return the legs of one sample, up to the machine on which it leaves; -1 stands for no exit."""
    found = []
    for macs, last, left, size in row:
        found.append(Leg(macs, None if last < 0 else last, left, size))
        if left:
            break
    return found


def told_of(journey: Journey) -> tuple[Any, ...]:
    """Return all that is decided and counted of a journey, without its seconds."""
    return journey.plan, journey.exit, journey.given_up, journey.macs, journey.sent, journey.returned


def crossed(
    model: MultiExit, codec: Codec, examples: Examples, cuts: tuple[int, ...], bench: Bench, name: str
) -> tuple[Output, NDArray[np.int64]]:
    """Return `crossing`, kept in the cache beside the weights."""
    like = empty_like(model, examples)
    parts = like if isinstance(like, dict) else {ANSWER: like}
    kept = Kept({**parts, "sizes": torch.zeros(len(cuts), len(examples), dtype=torch.int64)})

    def fill() -> None:
        bench.progress(f"{len(examples)} {name} samples cross after stages {', '.join(map(str, cuts))}", None)
        outputs, sizes = crossing(model, codec, examples, cuts)
        for part, buffer in kept.named_buffers():
            buffer.copy_(torch.as_tensor(sizes) if part == "sizes" else said(outputs, part))

    trained(kept, fill, bench, data="", settings={}, learns=False)  # what `fill` closes over says it all
    found = kept.outputs
    sizes = found.pop("sizes").numpy()
    return (found if isinstance(like, dict) else found[ANSWER]), sizes


@dataclass
class Prepared(ExitsPrepared):
    """A trained network with exits and its data; what becomes of these in the world is simulated when asked for."""

    method: TierMethod
    _seen: dict[tuple[str, int], list[Journey]] = field(default_factory=dict)  # part of the data, exit → what became

    def store(self, examples: Examples, name: str) -> StoredTiers:
        """Return what all exits say on a part of the data, with multiply-accumulates; none has crossed a link yet."""
        found = super().store(examples, name)
        return self.method.tables(
            found.examples, found.outputs, found.costs, found.static_costs, found.read,
            self.model, self.method.codec, self.rule, self.bench, name,
        )  # fmt: skip

    def rule(self, knob: float) -> Policy:
        """Return the exit rule at one knob, made without sight of the test data."""
        return self.method.rule(knob, self)

    def split(self, name: str) -> StoredTiers:
        """Return what all exits say on a part of the data (see `StepwisePrepared.split`)."""
        found = super().split(name)
        assert isinstance(found, StoredTiers)
        return found

    def cut_off(self, split: Split, exit_: int = -1) -> list[Journey]:
        """Return what becomes of samples in the network cut off after an exit, divided as the method divides it."""
        key = split, exit_ % self.model.exits
        if key not in self._seen:
            self._seen[key] = self.method.simulated(self, split, None, exit_)
        return self._seen[key]

    def plain(self, split: Split) -> float:
        """Return the mean price of a sample in the plain network."""
        return mean(self.method.price(journey) for journey in self.cut_off(split))


class TierMethod(ExitMethod):
    """A method that divides a network with exits among machines: it says in which world, and what is decided there."""

    unit = "simulated ms"
    tables: ClassVar[type[StoredTiers]] = StoredTiers  # what tells of each sample what the machines do with it

    @abstractmethod
    def world(self, split: Split, seed: int) -> World:
        """Return the machines; what changes over time there follows the seed, and is another on each split."""

    @abstractmethod
    def scheduler(self, prepared: Prepared, world: World, knob: float | None, exit_: int = -1) -> Scheduler:
        """Return what decides for each sample: under the rule at a knob, or of the network cut off after an exit.

        It may look at what is fitted, observe the world without foresight (`world.traces.Observed`), and learn from
        journeys; of test data it sees no more than these.
        """

    @abstractmethod
    def came(self, samples: int) -> list[float]:
        """Return the seconds at which samples 0, 1, … come."""

    @property
    def codec(self) -> Codec:
        """How states are packed into bytes to cross a link; by default all values are sent as they are."""
        return Whole()

    def price(self, journey: Journey) -> float:
        """Return what a journey costs, in the method's unit."""
        return journey.milliseconds

    def machines(self, prepared: Prepared) -> list[Machine]:
        """Return the machines, each with the part of the network that it may have to run: here all of it."""
        exits, count = range(prepared.model.exits), len(self.world("test", 0).computers)
        read = prepared.split("test").read
        return [Machine(i, prepared.model, exits, prepared.rule, self.codec, read) for i in range(count)]

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; neither sees the test examples."""
        model, data = self.trained(bench)
        return Prepared(model, data, bench, self)

    def simulated(
        self, prepared: Prepared, split: Split, knob: float | None, exit_: int = -1, *, only: Scheduler | None = None
    ) -> list[Journey]:
        """Return what becomes of the samples of a split under the method's scheduler, or under another one."""
        seen, world = prepared.split(split), self.world(split, prepared.bench.seed)
        chosen = only or self.scheduler(prepared.for_choosing, world, knob, exit_)
        return stream(self.at_work(world, chosen), seen, chosen, self.came(len(seen.examples)))

    def at_work(self, world: World, scheduler: Scheduler) -> World:
        """Return the machines as a scheduler has set them up, such as at lower clock rates: here as they are."""
        return world

    def point(self, prepared: Prepared, split: Split, journeys: Sequence[Journey], knob: float) -> OperatingPoint:
        """Measure what became of the samples of a split; the knob is only written down."""
        seen = prepared.split(split)
        cost, exits = mean(self.price(journey) for journey in journeys), [journey.exit for journey in journeys]
        worth = judged(self.score, seen.told(journeys), seen.targets)
        return point(knob, worth, exits, count=len(seen.costs), cost=cost, full=prepared.plain(split))

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Send the samples of the split through the world at each knob."""
        return [self.point(prepared, split, self.simulated(prepared, split, knob), knob) for knob in knobs]

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return quality and mean price of the plain network, divided as the method divides it, on the test split."""
        seen = prepared.split("test")
        return self.score(seen.told(prepared.cut_off("test")), seen.targets), prepared.plain("test")

    def cut_off(self, prepared: Prepared, split: Split) -> list[OperatingPoint]:
        """Return the network cut off for good after each exit; the knob is the exit's number, from 1."""
        every = range(prepared.model.exits)
        return [self.point(prepared, split, prepared.cut_off(split, i), i + 1) for i in every]

    def alone(self, prepared: Prepared, split: Split, machine: int) -> OperatingPoint:
        """Return the plain network as a whole on one machine of the chain; the knob is the machine's number, from 1."""
        links = len(self.world(split, 0).links)
        cuts = tuple(prepared.model.exits if link >= machine else 0 for link in range(links))
        journeys = self.simulated(prepared, split, None, only=Always(Plan(cuts)))
        return self.point(prepared, split, journeys, machine + 1)

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return each exit by itself, and the plain network on the device alone, and on the last machine alone."""
        ends = {"all on the device": 0, "all on the last machine": len(self.world("test", 0).links)}
        return [self.static_exit(prepared), *(self.whole(prepared, name, machine) for name, machine in ends.items())]

    def static_exit(self, prepared: Prepared) -> Baseline:
        """Return the network cut off for good after each exit, divided as the method divides it."""
        held, test = self.cut_off(prepared, "validation"), self.cut_off(prepared, "test")
        return Baseline(name="static exit", validation=held, test=test)

    def whole(self, prepared: Prepared, name: str, machine: int) -> Baseline:
        """Return the plain network as a whole on one machine."""
        held, test = self.alone(prepared, "validation", machine), self.alone(prepared, "test", machine)
        return Baseline(name=name, validation=[held], test=[test])

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return quality, price and calibration error of each exit, and the share overthought."""
        seen = prepared.split("test")
        shown = self.shown(seen.outputs, prepared)
        return exit_facts(self.cut_off(prepared, "test"), shown, self.labels(seen.targets))

    def execute(self, prepared: Any, bench: Bench, knob: float) -> Execution:
        """Have the first samples of the stream really done, half as many as the bench allows, each by itself.

        Each machine runs its part and what crosses is really packed and read again; the same simulation makes prices of
        what was counted. Seconds are those that the machines together really took, without the simulated ones.
        """
        seen, count = prepared.split("test"), max(1, bench.executed // 2)
        exact = self.one_by_one(prepared, min(count, len(seen.examples)))
        work = self.executed(prepared, exact.examples)
        claimed, counted = self.alike(prepared, bench, knob, exact, work)
        expected = exact.told(claimed)
        answers = work.answers(counted, expected.shape[1:])
        same = [told_of(a) == told_of(b) for a, b in zip(claimed, counted, strict=True)]
        own, plain = self.timed(prepared, exact.examples, [journey.plan for journey in counted], bench.repeats)
        return Execution(
            knob=knob,
            samples=len(claimed),
            claimed=sum(map(self.price, claimed)),
            counted=sum(map(self.price, counted)),
            agrees=all(same) and torch.allclose(answers, expected, atol=1e-3, equal_nan=True),
            seconds=own,
            full_seconds=plain,
            not_finite=int((~finite(answers)).sum()),
        )

    def alike(
        self, prepared: Prepared, bench: Bench, knob: float, exact: StoredTiers, work: Work
    ) -> tuple[list[Journey], list[Journey]]:
        """Return the journeys by the tables and those by the work that is really done, in the same world."""
        world, came = self.world("test", bench.seed), self.came(len(exact.examples))
        planners = [self.scheduler(prepared.for_choosing, world, knob) for _ in range(2)]
        claimed = stream(self.at_work(world, planners[0]), exact, planners[0], came)
        return claimed, stream(self.at_work(world, planners[1]), work, planners[1], came)

    def one_by_one(self, prepared: Prepared, samples: int) -> StoredTiers:
        """Return the tables of the first test samples, each of which crosses by itself."""
        return prepared.split("test").one_by_one(samples)

    def executed(self, prepared: Prepared, examples: Examples, *, count: bool = True) -> Executed:
        """Return the work that is really done on some examples."""
        device, *others = self.machines(prepared)
        return Executed(device, [machine.handle for machine in others], examples, count=count)

    def timed(self, prepared: Prepared, examples: Examples, plans: Sequence[Plan], repeats: int) -> tuple[float, float]:
        """Return median seconds of all machines together under these plans, and of the plain network, one by one."""
        work, model = self.executed(prepared, examples, count=False), prepared.model
        inputs = [x[None].to(device_of(model)) for x in examples.inputs]
        return in_turn(
            lambda i: list(work.legs(i, plans[i])), lambda i: model.full(inputs[i]), range(len(inputs)), repeats,
            devices_of(model),
        )  # fmt: skip

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> None:  # type: ignore[override]
        """Time nothing in batches: samples come one by one."""

    def simulation(self, prepared: Prepared, bench: Bench) -> Simulation | None:
        """Return what test samples go through, as far as the cost depends on it: here the machines and links.

        None: the cost depends on nothing that is simulated.
        """
        return shown(self.world("test", bench.seed))


class FixedCutMethod(TierMethod):
    """A network that is always cut at the same places: each machine holds its own part, and no other's."""

    @property
    @abstractmethod
    def cuts(self) -> tuple[int, ...]:
        """Return the number of parts before each link."""

    def machines(self, prepared: Prepared) -> list[Machine]:
        """Return the machines, each with the parts that lie on it."""
        model, read = prepared.model, prepared.split("test").read
        parts = [range(*bounds) for bounds in Plan(self.cuts).bounds(model.exits)]
        return [Machine(i, model, own, prepared.rule, self.codec, read) for i, own in enumerate(parts)]
