"""SEE: Scheduling Early Exit for Mobile DNN Inference during Service Outage (SEE).

Idea
    A phone sends frames to a server; while the server is unreachable it must answer by itself, and is too slow to run
    all frames through the whole network in time. Each frame may leave at an early exit, sooner and with less accuracy,
    or be dropped. The exit and time of each frame are planned for all frames together: some optimal plan keeps the
    order of the frames, so a dynamic program finds it in polynomial time.

Model
    Frames k = 1 … K arrive at a_1 <= … <= a_K. Exits e = 1 … E of one network take p_1 < … < p_E and are right for
    shares acc_1 <= … <= acc_E of the frames; both are known beforehand. One processor runs one frame at a time, to the
    end. A frame that leaves at e and is done at f is worth U(e, f - a_k), a dropped one 0:
    U(e, delay) = acc_e - w * delay / d if delay <= d, else 0.

Training
    The network: everything together, L = sum_e CE_e. Then acc_e is counted on held-out frames, and p_e = MACs ÷ speed.

Exit rule
    The exit of a frame is fixed before it is seen, by the plan with the largest sum of U. Frames are taken in the order
    in which they come, each as soon as possible, so that only exits remain to be chosen. With V_k(t) the most that
    frames 1 … k can be worth if the processor is free at t: V_0(0) = 0, and for every t that can be reached
    dropped:  V_k(t) = max(V_k(t), V_{k-1}(t))
    exit e:   V_k(f) = max(V_k(f), V_{k-1}(t) + U(e, f - a_k)),   f = max(a_k, t) + p_e
    The plan is read back from max_t V_K(t). Of the pairs (t, V) only those are kept that no other dominates.

Skipped
    The layers after a frame's exit, all heads but its own, and dropped frames altogether. The cost is the simulated
    time that the phone computes for a frame; the full model is the network without exits for all frames, however late.

Deviations
    1. Only abstracts could be read. They specify the integer program, a general utility, the Ordered Scheduling
       structure, and an optimal dynamic program in polynomial time; recursion, form of the utility and dropping are
       reconstructed.
    2. That no frames need to be swapped is true for a deadline, and for a convex price on delay (here: linear). It is
       false for utilities in general: with exp(-delay), for example, serving the fresh frame first can be better (a
       test and the claims show it), whatever the abstract's "general" means. So U has the form above.
    3. The knob is w, so that frames, deadline and load are the same along a curve; the paper's trade-off is not known.
       At its ends there is nothing to plan: at infinity all frames take the first exit, below 0 the last, and then
       nearly all are late.
    4. Frames arrive from several cameras at once, at equal intervals; the paper's traces are not known. The mean
       interval between frames (a setting) lies between p_1 (0) and p_E (1). A frame is in time if it is finished before
       the cameras' next frames arrive (d). An answer after that counts as wrong, and so does a dropped frame: in this
       curve, its full model and all that it is compared with. Simpler rules drop frames that cannot be in time.
    5. A residual network of six exits on cluttered Fashion-MNIST. The phone's speed is assumed and steady, so that p_e
       is what it was planned to be: no time is measured.
    6. The two benchmarks, which the abstract does not name, are: the whole network for every frame that can be in time;
       and for each frame the last exit with which it is in time; both first come, first served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.records import Baseline, OperatingPoint
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import JointImages
from eelit.methods.families.on_device import OnDeviceMethod, Served
from eelit.methods.world.machines import Computer
from eelit.methods.world.traces import steady

Gain: TypeAlias = Callable[[int, int], float]
"""From an exit and a delay to what a frame is worth."""
Rule: TypeAlias = Callable[[Sequence[int], Sequence[int], int], list[int]]
"""From arrivals, times of exits and deadline to the exit of each frame."""
DROPPED = -1
"""Stands for an exit."""


class Known(NamedTuple):
    """What is known of the exits; times are in multiply-accumulates of the phone."""

    times: tuple[int, ...]  # p
    accuracy: tuple[float, ...]  # acc


class State(NamedTuple):
    """A way to have dealt with the frames so far."""

    free: int  # t, when the processor is free
    value: float  # V
    exit: int  # of the last of these frames
    before: State | None


def schedule(came: Sequence[int], times: Sequence[int], gain: Gain) -> tuple[list[int], float]:
    """Return the exit of each frame, or `DROPPED`, in a plan that is worth most, and what it is worth."""
    states = [State(0, 0.0, DROPPED, None)]
    for a in came:
        late = [state for state in states if state.free > a]
        states = states[len(states) - len(late) - 1 :] if len(late) < len(states) else states
        found = [State(state.free, state.value, DROPPED, state) for state in states]
        for state in states:
            start = max(a, state.free)
            for e, p in enumerate(times):
                found.append(State(start + p, state.value + gain(e, start + p - a), e, state))
        states = unbeaten(found)
    best, exits = states[-1], []
    at: State = best
    while at.before is not None:
        exits.append(at.exit)
        at = at.before
    return exits[::-1], best.value


def unbeaten(states: Sequence[State]) -> list[State]:
    """Return those of which none is free no later and worth as much: free ever later, and worth ever more."""
    kept: list[State] = []
    for state in sorted(states, key=lambda state: (state.free, -state.value)):
        if not kept or state.value > kept[-1].value:
            kept.append(state)
    return kept


def utility(accuracy: Sequence[float], deadline: int, price: float) -> Gain:
    """Return ``U(e, delay)``: the exit's accuracy less the priced share of the deadline; 0 after the deadline."""
    return lambda e, delay: accuracy[e] - price * delay / deadline if delay <= deadline else 0.0


def greedy(came: Sequence[int], times: Sequence[int], deadline: int) -> list[int]:
    """Return the exits if each frame in turn takes the last with which it is in time, or is dropped."""
    found, free = [], 0
    for a in came:
        start = max(a, free)
        fit = [e for e, p in enumerate(times) if start + p - a <= deadline]
        found.append(fit[-1] if fit else DROPPED)
        free = start + times[fit[-1]] if fit else free
    return found


def always(exit_: int) -> Rule:
    """Return the rule by which each frame in turn takes one exit, or is dropped if that would be late."""

    def rule(came: Sequence[int], times: Sequence[int], deadline: int) -> list[int]:
        only = greedy(came, [times[exit_]], deadline)
        return [e if e == DROPPED else exit_ % len(times) for e in only]

    return rule


whole = always(-1)
"""The rule by which each frame in turn runs the whole network, or is dropped if that would be late."""


@dataclass(frozen=True)
class Planned:
    """A scheduler that carries out a plan made beforehand: an exit for each frame, or `DROPPED`."""

    exits: Sequence[int]

    def first(self, frame: int, now: float) -> int | None:
        """Return the frame's exit; None if it is dropped."""
        return None if self.exits[frame] == DROPPED else self.exits[frame]

    def then(self, exit_: int, confidence: float, latency: float) -> None:
        """The exit answers, however sure it is."""

    def learn(self, served: Served) -> None:
        """Learn nothing: all is planned."""


class Punctual:
    """The first exit of a threshold's confidence answers, or else the last that is in time; no frame is begun in vain.

    What an exit takes on the way, its head included, is known beforehand.
    """

    def __init__(self, threshold: float, due: Sequence[float], seconds: Sequence[float]) -> None:
        """``due`` are the deadlines of frames; ``seconds`` is what exits take if all before them are asked, too."""
        self.threshold, self.due, self.seconds = threshold, due, seconds
        self.left = 0.0  # until the frame's deadline, when it is taken up

    def first(self, frame: int, now: float) -> int | None:
        """Return exit 0, or None if that would be late."""
        self.left = self.due[frame] - now
        return 0 if self.seconds[0] <= self.left else None

    def then(self, exit_: int, confidence: float, latency: float) -> int | None:
        """Return None if the exit is confident or the next one would be late, else the next one."""
        last = exit_ == len(self.seconds) - 1
        return None if last or confidence >= self.threshold or self.seconds[exit_ + 1] > self.left else exit_ + 1

    def learn(self, served: Served) -> None:
        """Learn nothing: all is known."""


@dataclass(frozen=True)
class See(OnDeviceMethod):
    """A plan for the exits of all frames of an outage."""

    network: str = "resnet"  # the paper: not known, a network with exits as in BranchyNet
    images: str = "cluttered"  # data; the paper: not known
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, at which exits stand; the paper: not known
    half: bool = True  # whether the network learns with products in bfloat16
    epochs: float = 2.0  # passes over the training images
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate
    cameras: int = 4  # frames that come at once; assumed
    interval: float = 0.4  # mean, between frames, from p_1 (0) to p_E (1); the paper: traces that are not known
    deadline: float = 1.0  # d, as a share of the time until the cameras' next frames; the paper: not known
    speed: float = 2e9  # multiply-accumulates per second of the phone; assumed

    fits_on: ClassVar[float] = 0.25  # of the validation data, to count acc_e
    knob: ClassVar[str] = "w"
    knobs: ClassVar[tuple[float, ...]] = (inf, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.0, -1.0)
    tiny: ClassVar[Mapping[str, Any]] = {**JointImages.tiny, "epochs": 4.0, "speed": 4e5}
    smoke: ClassVar[Mapping[str, Any]] = {**JointImages.smoke, "speed": 2e7}
    others: ClassVar[Mapping[str, Any]] = {**JointImages.others}

    def __post_init__(self) -> None:
        if self.cameras < 1 or not self.deadline > 0 or not 0 <= self.interval <= 1:
            raise ValueError("there is at least one camera, the deadline is above 0, and the interval from 0 to 1")

    @property
    def quality(self) -> str:
        """Late answers count as wrong."""
        return "accuracy in time"

    def computer(self, split: Split, seed: int) -> Computer:
        """A processor of steady speed: what a frame takes is known beforehand."""
        return Computer(steady(self.speed))

    def fit(self, prepared: Prepared) -> Known:
        """Times from the network, and accuracies on frames that choose no knob."""
        seen = prepared.split("fitting")
        right = seen.answers.argmax(dim=-1) == seen.targets
        return Known(tuple(round(p) for p in seen.static_costs[:, 0]), tuple(right.double().mean(dim=1).tolist()))

    def arrivals(self, times: Sequence[int], frames: int) -> tuple[list[int], int]:
        """Return when frames come, and d."""
        together = round(self.cameras * (times[0] + self.interval * (times[-1] - times[0])))
        return [frame // self.cameras * together for frame in range(frames)], max(1, round(self.deadline * together))

    def came(self, prepared: Prepared, frames: int) -> list[float]:
        """All cameras at once, at equal intervals."""
        return [a / self.speed for a in self.arrivals(prepared.fitted.times, frames)[0]]

    def counted(self, prepared: Prepared, served: Sequence[Served]) -> NDArray[np.bool_]:
        """Return of which frames there was an answer in time ``[N]``."""
        due = self.arrivals(prepared.fitted.times, 0)[1] / self.speed * (1 + 1e-9)
        return np.array([each.exit >= 0 and each.delay <= due for each in served])

    def scheduler(self, prepared: Prepared, knob: float, frames: int) -> Planned:
        """The knob is w."""
        known: Known = prepared.fitted
        if knob == inf or knob < 0:
            return Planned([0 if knob > 0 else len(known.times) - 1] * frames)
        came, deadline = self.arrivals(known.times, frames)
        return Planned(schedule(came, known.times, utility(known.accuracy, deadline, knob))[0])

    def by(self, prepared: Prepared, rule: Rule, frames: int) -> Planned:
        """Return the plan of a rule that is no search."""
        times = prepared.fitted.times
        came, deadline = self.arrivals(times, frames)
        return Planned(rule(came, times, deadline))

    def cut_off(self, prepared: Prepared, exit_: int, frames: int) -> Planned:
        """Return the plan by which each frame takes this exit, or is dropped if that would be late."""
        return self.by(prepared, always(exit_), frames)

    def sure(self, prepared: Prepared, threshold: float, frames: int) -> Punctual:
        """Return what lets a frame leave at the first exit that is so confident, as long as that is in time."""
        came, deadline = self.arrivals(prepared.fitted.times, frames)
        seconds = prepared.split("fitting").costs[:, 0] / self.speed
        return Punctual(threshold, [(a + deadline) / self.speed for a in came], seconds.tolist())

    def benchmark(self, prepared: Prepared, split: Split, rule: Rule) -> OperatingPoint:
        """Return what a rule that is no search reaches."""
        planned = self.by(prepared, rule, len(prepared.split(split).examples))
        return self.point(prepared, split, self.served(prepared, split, planned), 0.0)

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return the family's, which meet the same frames and deadline, and the two benchmarks."""
        rules = {"full network or dropped": whole, "greedy": greedy}
        return super().baselines(prepared, bench) + [
            Baseline(
                name=name,
                validation=[self.benchmark(prepared, "validation", rule)],
                test=[self.benchmark(prepared, "test", rule)],
            )
            for name, rule in rules.items()
        ]

    def constants(self, prepared: Prepared) -> list[str]:
        """How frames come, and when each is due."""
        known: Known = prepared.fitted
        came, deadline = self.arrivals(known.times, self.cameras + 1)
        first, last = (1000 * p / self.speed for p in (known.times[0], known.times[-1]))
        return [
            f"{self.cameras} frames come at once, every {1000 * came[-1] / self.speed:.4g} ms",
            f"an answer is due {1000 * deadline / self.speed:.4g} ms after its frame came",
            f"up to the first exit a frame takes {first:.4g} ms, through the whole network {last:.4g} ms",
        ]
