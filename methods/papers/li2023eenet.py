"""EENet: Energy Efficient Neural Networks with Run-time Power Management (EENet).

Idea
    A chip that does not know how much work is left runs at full speed, even if the inference exits early. So forecast
    at which exit an inference will stop, and run the remaining work just fast enough: a lower clock needs a lower
    voltage, and energy falls with its square. This is decided within each inference. Over many inferences, a slower
    feedback loop measures how much time is left at the end, which depends on load and wrong forecasts, and corrects the
    clock.

Model
    A network with exits; each reads pooled maps and has a linear classifier: e_l, C numbers. A chip with levels j of
    clock and voltage (f_j, V_j), one MAC in each cycle: work w takes w / f_j seconds and  kappa V_j^2 w + P V_j w / f_j
    joules; a change of level costs t_s seconds and e_s joules.

Training
    Stage 1: the network alone, cross-entropy. Stage 2: the network frozen, sum_l L_l over the exits, L_l the
    cross-entropy of e_l. The exits are a plug-in for an existing network.

Exit rule
    As in Predictive Exit (li2023predictive): A(e) = max_c |e_c|, mu_l the mean of A(e_l) over training images; at the
    first exit, and at each that a forecast names, stop if A(e_l) >= beta mu_l. Else forecast: in round i = 1 … R each
    number of e_l becomes the sum of itself and its neighbours; go i exits further as soon as the strongest exceeds beta
    mu_(l+i). beta, the knob, is 0: all samples stop at the first exit; infinite: none stops before the last.

Power
    Within an inference, with W the work up to the exit that is forecast, heads included, R that of the rest of the
    network after it, and D the time left to the deadline,
    f = (1 - c) W / (D - t_s - r),  r = t_s + R / f_max, or 0 if R = 0,  at the lowest level that has it, or else the
    highest. A sample that does not stop there gets a new forecast and level: of the time left, r is kept, in which the
    highest level can do the rest. So a wrong forecast costs energy, but makes no answer late that need not be.
    Up to the first exit there is no forecast, and the chip is just fast enough for the whole network: f = (1 - c)
    (W + R) / (D - 2 t_s), the second t_s for a change to the highest level if it has to follow.
    Over inferences, from the time left at the end of each as a share of the deadline: e = mean of the last M - target,
    c <- c + K_p e + K_i sum e, from -1 to 0. Little time left on average raises the clock, so that the next
    images wait less; much lowers it again, but not below the formula with c = 0: that would spend r. Images arrive in a
    queue, alternately at a higher and a lower rate; the deadline counts from the arrival of an image.

Skipped
    All layers after the exit, and all heads between the exits that forecasts name. Apart from that no work is skipped,
    but work is done at a lower voltage. Cost is energy by the chip's formula: simulated, never measured.

Trained otherwise
    Besides the epochs that all rows have, which train the network, the exits alone are trained for as many more, on the
    frozen network: a plug-in is what the paper is about.

Deviations
    1. Only the paper's abstract could be read: forecasts within an inference, a correction over many of them by load
       and deadlines, a governor that joins both, feedback control. The forecast is that of the released code of the
       first author's Predictive Exit. Reconstructed: the governor's formula, r in it included, its level before there
       is a forecast, the form, gains and target of the loop. That level is the one with which the whole network would
       end in time at an even pace. The highest level in its place took 29 % more energy on validation data where all
       stop at the first exit, and 1.7 % more at the cheapest beta that loses at most a point.
    2. The chip is a formula. Clocks are those that this code sets on a board; voltages, joules for a MAC, leakage, the
       cost of changing levels, load and deadlines are assumed. Idling costs nothing.
    3. A small residual network with five early exits on cluttered Fashion-MNIST; networks and data of the paper are not
       known.
    4. The sum of errors is kept between -10 and 0, so that errors which cannot be corrected do not accumulate, and time
       that was left under little load is no credit when more comes. The target is the largest of 0, 0.05, 0.1, 0.15,
       0.2 and 0.3 at which the loop, on validation data at the usual load and the cheapest beta, took at most 0.1 %
       more energy than no loop; nothing was late with any. The loop is tried at the heaviest loads that the highest
       level serves in time on validation data, as under much less there is nothing to correct, and under more nothing
       that can be.
    5. Late answers count as answers; the claims report their share, of both sides.
    6. Rivals that forecast nothing have levels, too: a network of fixed depth knows all of its work, and early exits
       without forecasts run just fast enough for the whole network, at each exit anew. The full model stays at the
       highest level. A further rival has this governor and loop, and stops at the largest probability: all exits are
       asked in turn, and the forecast is the middle one of the exits of training images that were about as confident
       there. Its answers and work are those of max-confidence, so that the levels alone differ; beside it, the stopping
       rule alone differs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.evaluate import followed, infer
from eelit.methods.engine.examples import Data
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.metrics import judged
from eelit.methods.engine.multi_exit import MultiExit, device_of, of_samples
from eelit.methods.engine.records import Baseline, Execution, ExitFacts, OperatingPoint, Simulation
from eelit.methods.engine.routing import Course
from eelit.methods.engine.stored_outputs import StoredOutputs, confidences, exit_facts
from eelit.methods.families.exits import Prepared, timed
from eelit.methods.families.images import ImageMethod
from eelit.methods.families.on_device import told
from eelit.methods.policies.activation import mean_strengths
from eelit.methods.policies.base import Policy, finite
from eelit.methods.policies.forecast import Forecast
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_parts
from eelit.methods.world.traces import Trace, wandering

AVERAGED = 5000
"""Training images, at most, over which mu_l is averaged."""
BINS = 4
"""Ranges of confidence, equally many images in each, for which one exit is forecast."""
Legs = Sequence[float]
"""MACs up to the first exit that is asked, from there to the next one, and so on."""


class Level(NamedTuple):
    """A clock, and the voltage that it needs."""

    hertz: float
    volts: float  # as a share of the highest


class Chip(NamedTuple):
    """What runs the network, one MAC in each cycle. All but the clocks is assumed."""

    levels: tuple[Level, ...] = (Level(0.8064e9, 0.7), Level(1.4208e9, 0.85), Level(2.0352e9, 1.0))  # rising
    kappa: float = 4e-9  # joules of a MAC at the highest voltage
    leakage: float = 1.0  # P, watts at the highest voltage, while there is work
    switch_seconds: float = 1e-6  # t_s, as of regulators on the chip
    switch_joules: float = 1e-6  # e_s

    @property
    def highest(self) -> Level:
        """The level of which one can be sure."""
        return self.levels[-1]

    def joules(self, w: float, level: Level) -> float:
        """Return what work takes at a level."""
        return (self.kappa * level.volts**2 + self.leakage * level.volts / level.hertz) * w

    def ran(self, w: float, level: Level, before: Level) -> tuple[float, float]:
        """Return the seconds and joules of work at a level, with those of the change if it was another one before."""
        changed = level != before
        return (
            w / level.hertz + changed * self.switch_seconds,
            self.joules(w, level) + changed * self.switch_joules,
        )

    def governed(self, W: float, left: float, c: float, R: float = 0.0) -> Level:
        """Return the level for work W with some seconds left, corrected by c; R may follow, then at the highest."""
        left -= self.switch_seconds
        if R:
            left -= self.switch_seconds + R / self.highest.hertz
        f = (1 - c) * W / left if left > 0 else float("inf")
        return next((level for level in self.levels if level.hertz >= f), self.highest)

    def begun(self, whole: float, left: float, c: float) -> Level:
        """Return the level with some seconds left for all work, if the highest level may have to follow."""
        return self.governed(whole, left - self.switch_seconds, c)


class Loop(NamedTuple):
    """The feedback over many inferences."""

    K_p: float
    K_i: float
    target: float  # share of the deadline that is to be left on average
    M: int  # inferences that are averaged

    def corrected(self, c: float, e: float, total: float) -> float:
        """Return the next c, from the error and the sum of errors."""
        return min(max(c + self.K_p * e + self.K_i * total, -1.0), 0.0)


class Done(NamedTuple):
    """What became of an inference."""

    joules: float
    left: float  # time that was left to the deadline, as a share of it
    c: float  # the correction after it

    @property
    def late(self) -> bool:
        """Whether the answer came after the deadline."""
        return self.left < 0


def managed(
    legs: Sequence[Legs],
    came: Sequence[float],
    deadline: float,
    chip: Chip,
    loop: Loop,
    *,
    rests: Sequence[Legs] | None = None,
    ahead: Sequence[Legs] | None = None,
    expected: Sequence[Legs] | None = None,
) -> list[Done]:
    """Run inferences one after the other, which come at some seconds and are due a ``deadline`` later.

    The level of a leg follows its work, and that of the first, which no forecast precedes, the work of the whole
    network. ``rests`` is what the network has left after each leg, for which time is kept; if it is not given, none is
    kept, and the first leg, of which nothing is known then, has the highest level. If the work that may lie
    ``ahead`` of each leg is known otherwise, its own included, that alone sets the levels, also of the first. If exits
    are asked on the way to the one that is forecast, ``expected`` is the work from each leg on up to that one, and
    ``rests`` what is left after it.
    """
    free, level, c, total, left = 0.0, chip.highest, 0.0, 0.0, deque[float](maxlen=loop.M)
    found = []
    for i, (own, arrived) in enumerate(zip(legs, came, strict=True)):
        now, due, joules = max(free, arrived), arrived + deadline, 0.0
        for number, W in enumerate(own):
            if ahead is not None:
                wanted = chip.governed(ahead[i][number], due - now, c)
            else:
                R = rests[i][number] if rests is not None else 0.0
                forecast = W if expected is None else expected[i][number]
                if number:
                    wanted = chip.governed(forecast, due - now, c, R)
                else:
                    wanted = chip.highest if rests is None else chip.begun(forecast + R, due - now, c)
            took, used = chip.ran(W, wanted, level)
            now, joules, level = now + took, joules + used, wanted
        free = now
        spare = (due - now) / deadline
        left.append(spare)
        e = fmean(left) - loop.target
        total = min(max(total + e, -10.0), 0.0)
        c = loop.corrected(c, e, total)
        found.append(Done(joules, spare, c))
    return found


def legs_of(seen: StoredOutputs, course: Course) -> list[Legs]:
    """Return the legs of the first samples, one for each of the course.

    The head of an exit that is asked belongs to the leg that it ends.
    """
    asked = course.visited.numpy()
    every, alone = (costs[:, : asked.shape[1]] for costs in (seen.costs, seen.static_costs))
    heads = np.diff(every, axis=0) - np.diff(alone, axis=0)
    layers = alone - np.concatenate([heads, np.zeros_like(heads[:1])])
    done = np.maximum.accumulate(np.where(asked, layers, 0.0), axis=0)  # up to the last exit asked
    legs = alone - np.concatenate([np.zeros_like(done[:1]), done[:-1]])
    return [own[which].tolist() for own, which in zip(legs.T, asked.T, strict=True)]


def rests_of(seen: StoredOutputs, course: Course) -> list[Legs]:
    """Return what the network of the first samples has left after each of their legs: all layers and all heads."""
    asked = course.visited.numpy()
    left = (seen.costs[-1] - seen.costs)[:, : asked.shape[1]]
    return [own[which].tolist() for own, which in zip(left.T, asked.T, strict=True)]


class Outlook(NamedTuple):
    """Which exit a confidence foretells if a threshold stops, by that of images before."""

    edges: NDArray[np.float64]  # [L - 1, BINS - 1], between ranges of confidence at an exit
    exits: NDArray[np.int64]  # [L - 1, BINS], of those that do not stop there; L - 1 where there were none

    @staticmethod
    def of(confidence: NDArray[np.float64], threshold: float) -> Outlook:
        """Return the middle one of the exits of such images, from their confidence ``[L, n]`` at each exit."""
        last = len(confidence) - 1
        stops = confidence >= threshold
        stops[last] = True
        own, edges, exits = stops.argmax(axis=0), np.zeros((last, BINS - 1)), np.full((last, BINS), last)
        for here in range(last):
            on = own > here
            if on.any():
                sure = confidence[here, on]
                edges[here] = np.quantile(sure, np.arange(1, BINS) / BINS)
                where = np.searchsorted(edges[here], sure, side="right")
                exits[here] = [int(np.median(own[on][where == b])) if (where == b).any() else last for b in range(BINS)]
        return Outlook(edges, exits)

    def foretold(self, confidence: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the exit ``[L - 1, N]`` that is forecast at each exit, from the confidence ``[L, N]``."""
        where = [np.searchsorted(row, own, side="right") for row, own in zip(self.edges, confidence, strict=False)]
        return np.stack([row[own] for row, own in zip(self.exits, where, strict=True)])


def surenesses(outputs: Any) -> NDArray[np.float64]:
    """Return the largest probability ``[L, n]`` of logits ``[L, n, C]``."""
    found: NDArray[np.float64] = torch.as_tensor(outputs).double().softmax(dim=-1).amax(dim=-1).numpy()
    return found


def counted_legs(model: MultiExit, x: Tensor, policy: Policy) -> tuple[list[float], Any]:
    """Run one sample ``[1, ...]`` for real; return its legs, counted from outside, and what `infer` says."""
    marks: list[float] = []
    with MacCounter() as counter:
        hooks = [head.register_forward_hook(lambda *_: marks.append(float(counter.macs))) for head in model.heads]
        try:
            found = infer(model, x, policy)
        finally:
            for hook in hooks:
                hook.remove()
    marks[-1] = float(counter.macs)  # with what the policy computes at the end
    return np.diff([0.0, *marks]).tolist(), found


@dataclass(frozen=True)
class EENet(ImageMethod):
    """Forecast exits on a chip whose clock follows the forecasts."""

    network: str = "resnet"  # resnet, or vgg with blocks = 4; the paper: not known
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, for exits
    half: bool = True  # whether the network learns with products in bfloat16
    rounds: int = 8  # R, most exits that are gone ahead; Predictive Exit: 8
    deadline: float = 1.5  # of the seconds that the plain network takes at the highest level
    arriving: float = 0.6  # images that come in as many seconds, on average
    governs: bool = True  # whether levels follow forecasts; else the chip stays at the highest
    K_p: float = 0.01  # gain of the loop; the paper: not known
    K_i: float = 0.001  # gain of its sum; the paper: not known
    target: float = 0.05  # share of the deadline that is to be left on average (Deviation 4); the paper: not known
    window: int = 50  # M, inferences that are averaged; the paper: not known
    images: str = "cluttered"  # data; the paper: not known
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    epochs: float = 2.0  # passes over them for the network
    exit_epochs: float = 2.0  # passes for the exits
    batch: int = 32  # images of a step
    rate: float = 2e-3  # learning rate of the network
    exit_rate: float = 5e-3  # learning rate of the exits

    unit = "simulated mJ"
    knob: ClassVar[str] = "beta"
    knobs: ClassVar[tuple[float, ...]] = (
        0.0, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7,
        1.75, 1.8, 1.85, 1.9, 2.0, 2.2, float("inf"),
    )  # fmt: skip
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "managed": {}, "without feedback": {"K_p": 0.0, "K_i": 0.0}, "highest level": {"governs": False},
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.tiny, "blocks": 2, "shares": (0.2, 0.4, 0.6, 0.8), "rounds": 4, "target": 0.2, "window": 10,
        "exit_epochs": 6.0, "exit_rate": 2e-2,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {**ImageMethod.others, "rounds": 2, "window": 3}
    smoke: ClassVar[Mapping[str, Any]] = {**ImageMethod.smoke, "exit_epochs": 3.0, "exit_rate": 1e-2}
    exempt: ClassVar[Mapping[str, str]] = {
        "cost_is_monotone": "with a larger beta a forecast may go straight to an exit that a smaller one has passed "
        "by, and at lower voltages more work may take less energy",
        "managed: never_costs_the_full_model": "nobody stops early then, but what is forecast is known beforehand, so "
        "that the voltage is lowered all the same",
        "without feedback: never_costs_the_full_model": "the same holds without the loop",
    }

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The network alone, then the exits on it."""
        train_plain(model, data, bench, **self.options)
        exits = {"epochs": self.exit_epochs, "batch": self.batch, "rate": self.exit_rate}
        train_parts(model, model.heads[:-1].parameters(), data, bench, **exits)

    def fit(self, prepared: Prepared) -> tuple[float, ...]:
        """Return mu_l of each exit before the last."""
        seen = prepared.store(prepared.data.train.head(AVERAGED), "train")
        return mean_strengths(seen.outputs[:-1], either_sign=True)

    def policy(self, knob: float, prepared: Prepared) -> Forecast:
        """The knob is beta."""
        return Forecast(tuple(knob * mu for mu in prepared.fitted), self.rounds)

    # The chip and what comes to it.

    @property
    def chip(self) -> Chip:
        """With all its levels, or the highest alone."""
        return Chip() if self.governs else Chip(levels=Chip().levels[-1:])

    @property
    def loop(self) -> Loop:
        """The PI controller that corrects the clock by the time left, with its gains, target and window."""
        return Loop(self.K_p, self.K_i, self.target, self.window)

    def whole(self, seen: StoredOutputs) -> float:
        """Return the seconds of the plain network at the highest level."""
        return float(seen.full_costs.mean()) / self.chip.highest.hertz

    def arrivals(self, whole: float, split: Split, seed: int) -> Trace:
        """Images per second: two fifths, once or eight fifths of the mean in turn (a Markov chain, assumed)."""
        seconds = 2000 * whole
        return wandering(
            self.arriving / whole, (0.4, 1.0, 1.6), seconds / 20, seconds, seed=[seed, int(split == "test")]
        )

    def came(self, whole: float, split: Split, seed: int, images: int) -> list[float]:
        """Return the seconds at which images come at the pace of a split."""
        trace = self.arrivals(whole, split, seed)
        return [trace.finish(0.0, number) for number in range(images)]

    def run(
        self,
        legs: Sequence[Legs],
        whole: float,
        split: Split,
        seed: int,
        *,
        rests: Sequence[Legs] | None = None,
        ahead: Sequence[Legs] | None = None,
        expected: Sequence[Legs] | None = None,
    ) -> list[Done]:
        """Return what becomes of images that come at the pace of a split."""
        came = self.came(whole, split, seed, len(legs))
        due, how = self.deadline * whole, {"rests": rests, "ahead": ahead, "expected": expected}
        return managed(legs, came, due, self.chip, self.loop, **how)

    def forecast(self, prepared: Prepared, split: Split, policy: Policy) -> tuple[Course, list[Done]]:
        """Return which exits a rule asks, and what becomes of images if it forecasts each."""
        seen = prepared.split(split)
        course = followed(policy, seen.outputs)
        legs, rests = legs_of(seen, course), rests_of(seen, course)
        return course, self.run(legs, self.whole(seen), split, prepared.bench.seed, rests=rests)

    def cautious(self, prepared: Prepared, split: Split, policy: Policy) -> tuple[Course, list[Done]]:
        """Return the same of a rule that asks exit after exit and forecasts none.

        The chip is just fast enough for the rest of the whole network. The loop has nothing to correct.
        """
        seen, still = prepared.split(split), self.replace({"K_p": 0.0, "K_i": 0.0})
        course = followed(policy, seen.outputs)
        legs = legs_of(seen, course)
        rest = seen.costs[-1] - np.concatenate([np.zeros_like(seen.costs[:1]), seen.costs[:-1]])
        ahead = [row[: len(own)].tolist() for row, own in zip(rest.T, legs, strict=True)]
        return course, still.run(legs, still.whole(seen), split, prepared.bench.seed, ahead=ahead)

    def before(self, prepared: Prepared) -> NDArray[np.float64]:
        """Return how sure the exits are ``[L, n]`` of training images, from which `levelled` learns to forecast."""
        return surenesses(prepared.store(prepared.data.train.head(AVERAGED), "train").outputs)

    def levelled(
        self, prepared: Prepared, split: Split, threshold: float, before: NDArray[np.float64]
    ) -> tuple[Course, list[Done]]:
        """Return the same of stopping at a largest probability, under this method's governor and loop.

        Exit after exit is asked, so that answers and work are those of `cautious`; at each the governor gets a forecast
        of the exit that will stop.
        """
        seen = prepared.split(split)
        course = followed(MaxConfidence(threshold), seen.outputs)
        legs, costs = legs_of(seen, course), seen.costs
        told = Outlook.of(before, threshold).foretold(surenesses(seen.outputs))
        columns = np.arange(told.shape[1])
        upto = np.stack([costs[0], *(costs[row, columns] for row in told)])  # up to the exit forecast for each leg
        done = np.concatenate([np.zeros_like(costs[:1]), costs[:-1]])
        rows = zip((upto - done).T, (costs[-1] - upto).T, legs, strict=True)
        expected, rests = zip(*((w[: len(own)].tolist(), r[: len(own)].tolist()) for w, r, own in rows), strict=True)
        found = self.run(legs, self.whole(seen), split, prepared.bench.seed, rests=rests, expected=expected)
        return course, found

    def cut_off(self, prepared: Prepared, split: Split, exit_: int) -> list[Done]:
        """Return what becomes of images in the network cut off for good after an exit: all work is known."""
        seen = prepared.split(split)
        legs = [[macs] for macs in seen.static_costs[exit_].tolist()]
        return self.run(legs, self.whole(seen), split, prepared.bench.seed, ahead=legs)

    # Costs are energy.

    def point(self, prepared: Prepared, split: Split, policy: Policy, knob: float) -> OperatingPoint:
        """Measure a rule on a split; the knob is only written down."""
        course, done = self.forecast(prepared, split, policy)
        seen = prepared.split(split)
        return self.priced(seen, seen.at(course.exits.numpy()), course.exits, done, knob)

    def priced(
        self, seen: StoredOutputs, answers: Tensor, exits: Tensor, done: Sequence[Done], knob: float
    ) -> OperatingPoint:
        """Return quality and mean energy."""
        cost = 1000 * fmean(each.joules for each in done)
        worth = judged(self.score, answers, seen.targets)
        return point(knob, worth, exits.numpy(), count=len(seen.costs), cost=cost, full=self.plain(seen))

    def plain(self, seen: StoredOutputs) -> float:
        """Return the mean energy of the plain network, of which nothing is forecast, in mJ."""
        return 1000 * self.chip.joules(float(seen.full_costs.mean()), self.chip.highest)

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Send the samples of the split through the chip at each knob."""
        return [self.point(prepared, split, self.rule(knob, prepared), knob) for knob in knobs]

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return quality and mean energy of the plain network at the highest level, on the test split."""
        seen = prepared.split("test")
        return self.score(seen.answers[-1], seen.targets), self.plain(seen)

    def fixed(self, prepared: Prepared, split: Split) -> list[OperatingPoint]:
        """Return the network cut off for good after each exit; the knob is its number, from 1."""
        seen = prepared.split(split)
        return [
            self.priced(seen, answers, torch.full((answers.shape[0],), i), self.cut_off(prepared, split, i), i + 1)
            for i, answers in enumerate(seen.answers)
        ]

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return each exit by itself, and stopping when sure, with three kinds of levels.

        They are those for the whole network, the highest, or those of this method's governor by a forecast.
        """
        before = self.before(prepared)
        rules: dict[str, Callable[[Prepared, Split], list[OperatingPoint]]] = {
            "static exit": self.fixed,
            "max-confidence": self.surest,
            "max-confidence at the highest level": self.replace({"governs": False}).surest,
            "max-confidence with the governor": partial(self.surest, before=before),
        }
        return [
            Baseline(name=name, validation=rule(prepared, "validation"), test=rule(prepared, "test"))
            for name, rule in rules.items()
        ]

    def surest(
        self, prepared: Prepared, split: Split, *, before: NDArray[np.float64] | None = None
    ) -> list[OperatingPoint]:
        """Return what is reached by asking exit after exit, on a chip that reckons with the whole network.

        With what was ``before``, the governor sets levels by forecasts instead.
        """
        seen, found = prepared.split(split), []
        for c in confidences(seen.answers.shape[-1]):
            course, done = (
                self.cautious(prepared, split, MaxConfidence(c))
                if before is None
                else self.levelled(prepared, split, c, before)
            )
            found.append(self.priced(seen, seen.at(course.exits.numpy()), course.exits, done, c))
        return found

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return quality, energy and calibration error of each exit, and the share overthought."""
        seen = prepared.split("test")
        return exit_facts(self.fixed(prepared, "test"), seen.answers, seen.targets)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Run the first test samples for real, one by one; the chip makes energy of the legs that were counted.

        Seconds are those of this processor, whose clock does not change.
        """
        seen, policy = prepared.split("test"), self.rule(knob, prepared)
        count, whole = min(max(1, bench.executed // 2), len(seen.examples)), self.whole(seen)
        chosen, outputs = seen.examples.head(count), of_samples(seen.outputs, slice(count))
        course = followed(policy, outputs)
        expected = seen.at(np.resize(course.exits.numpy(), len(seen.examples)))[:count]
        legs, answers, exits = [], [], []
        for x in chosen.inputs:
            own, found = counted_legs(prepared.model, x[None].to(device_of(prepared.model)), policy)
            legs.append(own)
            answers.append(seen.read(found.outputs)[0].cpu())
            exits.append(int(found.exits[0]))
        rests = rests_of(seen, course)
        claimed, counted = (
            1000 * sum(done.joules for done in self.run(each, whole, "test", bench.seed, rests=rests))
            for each in (legs_of(seen, course), legs)
        )
        same = exits == course.exits.tolist() and torch.allclose(
            torch.stack(answers), expected, atol=1e-3, equal_nan=True
        )
        ours, plain = timed(prepared.model, chosen, policy, 1, bench.repeats)
        return Execution(
            knob=knob,
            samples=count,
            claimed=claimed,
            counted=counted,
            agrees=same,
            seconds=ours,
            full_seconds=plain,
            not_finite=int((~finite(torch.stack(answers))).sum()),
        )

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> None:  # type: ignore[override]
        """Time nothing in batches: images come one by one."""

    def simulation(self, prepared: Prepared, bench: Bench) -> Simulation:
        """Return what comes to the chip."""
        whole = self.whole(prepared.split("test"))
        trace, seconds, chip = self.arrivals(whole, "test", bench.seed), 1000 * whole, self.chip
        return Simulation(
            seconds=seconds,
            rates=[told(trace, "images that come", "per second", seconds)],
            constants=[
                *(
                    f"level {j}: {f / 1e9:.3g} GHz at {volts:.0%} of the highest voltage"
                    for j, (f, volts) in enumerate(chip.levels, 1)
                ),
                f"a MAC at the highest voltage: {1e9 * chip.kappa:g} nJ; leakage there: {chip.leakage:g} W",
                f"to change the level: {1e6 * chip.switch_seconds:g} µs and {1e6 * chip.switch_joules:g} µJ",
                f"deadline: {1000 * self.deadline * whole:.4g} ms after an image came",
            ],
        )
