"""A stream of samples through a chain of machines, event by event: queues, transfers, outages, and who answers when.

Time is simulated (by simpy); what the machines do is told by a `Work`: looked up in tables, or really executed.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import simpy

from eelit.methods.world.machines import Computer, Link, Power


@dataclass(frozen=True)
class World:
    """A chain of machines: samples come to the first, the device; each passes on to the next over a link of its own.

    Every computer does one task at a time, and every link carries one message at a time in each direction, in the order
    in which they come. If no answer is back ``patience`` seconds after the device has passed a sample on, what is still
    under way for it is given up, and the device answers by the last exit that it has asked. If it has asked none it
    goes on ``alone`` as soon as it is free, or else has to wait.

    What is given up ends at once everywhere, as if every machine and link knew. A real server would go on with what it
    has begun, so where much is given up, as in outages, those behind the device are somewhat less busy here.
    """

    computers: tuple[Computer, ...]
    links: tuple[Link, ...]  # one fewer than computers
    power: Power | None = None  # of the device; None: nothing depends on it
    patience: float = math.inf
    alone: bool = False  # whether the device has the whole network

    def __post_init__(self) -> None:
        if len(self.links) != len(self.computers) - 1:
            raise ValueError(f"{len(self.computers)} computers in a chain need {len(self.computers) - 1} links")


@dataclass(frozen=True)
class Leg:
    """What one machine did with a sample."""

    macs: float
    exit: (
        int | None
    )  # the exit (from 0) that answers; if the device passes the sample on, the last it has asked, or None
    left: bool  # whether the sample is answered; else it goes on
    size: int  # bytes of what it passes on to the next machine, or of the answer that it sends back; 0 on the device


class Work(Protocol):
    """What is done with samples, machine by machine."""

    def legs(self, sample: int, plan: Any) -> Iterator[Leg]:
        """Yield what each machine in turn does with a sample under a plan, the last being the one that answers.

        A machine does its part when its leg is asked for.
        """
        ...

    def rest(self, sample: int, plan: Any) -> Leg:
        """Return what the device does with a sample that it has passed on, and has to finish by itself now."""
        ...


class Scheduler(Protocol):
    """What decides for each sample, as the device takes it up, what is to be done with it."""

    def plan(self, sample: int, now: float) -> Any:
        """Return the plan for a sample, from what is known at second ``now``."""
        ...

    def learn(self, sample: int, journey: Journey) -> None:
        """Take in how a sample fared, at the second at which its answer is there."""
        ...


@dataclass(frozen=True)
class Always:
    """The scheduler that has one plan for all samples."""

    only: Any

    def plan(self, sample: int, now: float) -> Any:
        """Return the plan."""
        return self.only

    def learn(self, sample: int, journey: Journey) -> None:
        """Learn nothing."""


@dataclass
class Journey:
    """What became of one sample; seconds are simulated."""

    came: float  # second at which it came
    plan: Any = None
    begun: float = math.nan  # second at which the device took it up
    answered: float = math.nan  # second at which the device had the answer
    exit: int = -1  # that answered, from 0
    given_up: bool = False  # whether the device answered by itself since no other answer came
    macs: list[float] = field(default_factory=list)  # of each task, in the order in which machines began with them
    sent: list[int] = field(default_factory=list)  # bytes of each message on the way from the device
    returned: list[int] = field(default_factory=list)  # and of each on the way back
    sending: float = 0.0  # seconds that the device sent
    computing: float = 0.0  # seconds that the device computed

    @property
    def milliseconds(self) -> float:
        """Simulated milliseconds from its coming to its answer."""
        return 1000 * (self.answered - self.came)

    def joules(self, power: Power) -> float:
        """Joules that the device took for it, from the second at which it took it up, by the model of `Power`."""
        waiting = self.answered - self.begun - self.computing - self.sending
        return power.joules(self.computing, self.sending, waiting)


def stream(world: World, work: Work, scheduler: Scheduler, came: Sequence[float]) -> list[Journey]:
    """Return what became of samples 0, 1, … that come at these seconds."""
    run = _Run(world, work, scheduler, came)
    run.clock.run()
    return run.journeys


class _Run:
    """One simulation."""

    def __init__(self, world: World, work: Work, scheduler: Scheduler, came: Sequence[float]) -> None:
        self.world, self.work, self.scheduler = world, work, scheduler
        self.clock = simpy.Environment()
        self.computers = [simpy.Resource(self.clock) for _ in world.computers]
        self.up = [simpy.Resource(self.clock) for _ in world.links]
        self.down = [simpy.Resource(self.clock) for _ in world.links]
        self.journeys = [Journey(second) for second in came]
        for sample in range(len(came)):
            self.clock.process(self._sample(sample))

    def _sample(self, sample: int) -> Generator[simpy.Event, Any, None]:
        journey = self.journeys[sample]
        yield self.clock.timeout(journey.came)
        with self.computers[0].request() as turn:
            yield turn
            journey.begun = self.clock.now
            journey.plan = self.scheduler.plan(sample, self.clock.now)
            legs = self.work.legs(sample, journey.plan)
            first = next(legs)
            yield from self._compute(0, journey, first)
            journey.computing = self.clock.now - journey.begun
        if not first.left:
            yield from self._passed_on(sample, legs, first)
        elif first.exit is not None:
            journey.exit = first.exit
        journey.answered = self.clock.now
        self.scheduler.learn(sample, journey)

    def _passed_on(self, sample: int, legs: Iterator[Leg], first: Leg) -> Generator[simpy.Event, Any, None]:
        """Wait for the answer of other machines, or as long as the device's patience lasts."""
        journey, world = self.journeys[sample], self.world
        away = self.clock.process(self._away(journey, legs, first))
        if world.patience == math.inf or (first.exit is None and not world.alone):
            yield away
            return
        yield away | self.clock.timeout(world.patience)
        if not away.is_alive:
            return
        away.interrupt()
        journey.exit, journey.given_up = -1 if first.exit is None else first.exit, True
        if first.exit is None:
            with self.computers[0].request() as turn:
                yield turn
                start, leg = self.clock.now, self.work.rest(sample, journey.plan)
                yield from self._compute(0, journey, leg)
                journey.exit = -1 if leg.exit is None else leg.exit
                journey.computing += self.clock.now - start

    def _away(self, journey: Journey, legs: Iterator[Leg], leg: Leg) -> Generator[simpy.Event, Any, None]:
        """Pass a sample on from machine to machine until one answers, and carry the answer back."""
        try:
            machine = 0
            while not leg.left:
                journey.sent.append(leg.size)
                yield from self._carry(self.up[machine], machine, journey, leg.size)
                machine += 1
                with self.computers[machine].request() as turn:
                    yield turn
                    leg = next(legs)
                    yield from self._compute(machine, journey, leg)
            while machine:
                machine -= 1
                journey.returned.append(leg.size)
                yield from self._carry(self.down[machine], machine, journey, leg.size)
            journey.exit = -1 if leg.exit is None else leg.exit
        except simpy.Interrupt:
            return

    def _compute(self, machine: int, journey: Journey, leg: Leg) -> Generator[simpy.Event, Any, None]:
        journey.macs.append(leg.macs)
        yield self._at(self.world.computers[machine].finish(self.clock.now, leg.macs))

    def _carry(
        self, line: simpy.Resource, number: int, journey: Journey, size: int
    ) -> Generator[simpy.Event, Any, None]:
        """Take a message over a link, once it is free; the device pays for what it sends, given up or not."""
        link = self.world.links[number]
        own = number == 0 and line is self.up[0]
        with line.request() as turn:
            yield turn
            start = self.clock.now
            try:
                yield self._at(link.sent(start, size))
            finally:
                if own:
                    journey.sending = self.clock.now - start
        yield self.clock.timeout(link.travel)

    def _at(self, second: float) -> simpy.Event:
        """Return the event of a second that is now or to come; one that never is."""
        return self.clock.event() if second == math.inf else self.clock.timeout(max(0.0, second - self.clock.now))
