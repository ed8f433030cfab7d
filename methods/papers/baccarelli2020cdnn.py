"""Optimized training and scalable implementation of Conditional Deep Neural Networks over Fog (CDNN-over-Fog).

Idea
    A network with exits on sensors, fog nodes and a cloud raises four questions: how to train the exits, how confident
    each must be, where they are placed, and which layers run on which tier. Each gets an answer that is cheap enough
    for the fog itself: three ways of training to choose from, thresholds that every exit sets by itself, one greedy
    pass for the places, and formulas for the energy of a mapping. As the questions are answered separately, the result
    need not be jointly optimal.

Model
    Layers l = 1 … L, each a part of the network with a local classifier p_l = softmax(head_l(h_l)) as a candidate;
    layer L always has one, and always answers. c_l and q_l are the multiply-accumulates of layer and classifier.
    M tiers hold consecutive layers, each at least one (as long as there are enough), and end with an exit.

Training
    End-to-end (EE): L = sum_l CE_l over everything at once.
    Layer-wise (LW): for l = 1 … L, layer l and its classifier learn by CE_l; both are frozen, then comes the next.
    Classifier-wise (CW): the network with its last classifier is trained and frozen; then each of the other classifiers
    is trained on its own, in any order.

Exit rule
    Stop at the first exit with max_k p_l[k] > beta_l, strictly. beta_l is the least number for which at most a share
    alpha of the samples that exit l accepts are wrong, on held-out samples of which it sees all: exits do not depend
    on each other. An exit without such a number accepts no sample. The knob is alpha: 1 accepts all samples, below 0
    none.
    Which exits there are is decided beforehand, at one alpha: in one pass over l = 1 … L - 1, with a_l the share of the
    remaining samples that exit l would accept, it is kept iff  a_l sum_{j>l} c_j > q_l;  the samples it accepts are
    then removed.

Skipped
    The layers after the exit, and all transfers beyond its tier. The cost is modelled energy, not measured: computing v
    multiply-accumulates at rate f takes v/f seconds at K f^gamma watts, hence v K f^(gamma-1) joules, and sending b
    bits at rate R takes b Omega R^(zeta-1); idle power is that of the time between two samples, 20 mJ in every
    figure here, whatever is mapped where. Rates are set for a
    mapping: the least expected energy for which what leaves on tier m has its answer within Delta_m, as the tables of
    held-out samples have it; the cheapest mapping is taken. The full model is the network without exits, mapped in the
    same way and under the same limits.

Trained otherwise
    "classifier-wise": besides the epochs that all rows have, which train the network, the classifiers learn for as many
    more on its frozen states.

    "layer-wise": each layer in turn has the epochs that all rows have.

Deviations
    1. The article could not be read beyond its abstract. It names the three trainings, thresholds set in parallel, a
       greedy placement of linear cost and closed forms of the energy; losses, threshold rule, placement test and energy
       model are reconstructed here from a tutorial and the guide of a later simulator by the same group.
    2. A tier is one machine, with no aggregator of several nodes: for equal outputs both are the same.
    3. The power law is taken in multiply-accumulates a second instead of layers × cycles a bit × bits a second, and
       classifier and layers share a processor. Powers at the highest rates, limits and exponents are assumed.
    4. Exponents of computing and sending differ, so the rates follow from one equation that is solved by bisection;
       for equal exponents it is the closed form of a test.
    5. A residual network of six parts on cluttered Fashion-MNIST instead of AlexNet-like stacks on SVHN and FER-2013.
       The outputs of its parts are larger than the image, so if tiers could be without layers, all but one would be
       empty.
    6. Local classifiers are mixed pooling and a linear layer, as in other methods here. AdamW, gradients clipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, combinations_with_replacement, pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.backbones.internal_classifier import condensed
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Baseline, OperatingPoint, Simulation
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.engine.weights import trained
from eelit.methods.families.images import ImageMethod
from eelit.methods.families.tiers import Plan, Prepared, StoredTiers, TierMethod
from eelit.methods.policies.base import softmax
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses, train_joint
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import frozen_states
from eelit.methods.world.machines import BITS, Computer, Link
from eelit.methods.world.shown import SECONDS
from eelit.methods.world.stream import Always, Journey, Scheduler, World
from eelit.methods.world.traces import steady

NEVER = -1.0
"""An alpha that no exit can keep."""


def train_layer_wise(model: MultiExit, data: Data, bench: Bench, **options: Any) -> None:
    """LW: each layer learns with its classifier, behind layers that are frozen; ``options`` are those of `fit`."""

    def train() -> None:
        model.eval()
        for i, part in enumerate(zip(model.stages, model.heads, strict=True)):
            layer, head = part

            def loss(batch: Batch, i: int = i, layer: nn.Module = layer, head: nn.Module = head) -> Tensor:
                h = batch.inputs
                with torch.no_grad():
                    for before in model.stages[:i]:
                        h = before(h)
                return exit_losses(head(layer(h))[None], batch.targets)[0]

            both = nn.ModuleList(part).train()
            fit(both.parameters(), data.train, loss, bench, label=f"training layer {i + 1} and its exit", **options)
            both.eval()

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()


def train_classifiers(model: MultiExit, data: Data, bench: Bench, **options: Any) -> None:
    """The second stage of CW: every classifier but the last learns by itself from frozen states."""

    def train() -> None:
        states = frozen_states(model, data.train, bench, condensed)
        for i, head in enumerate(model.heads[:-1]):

            def loss(batch: Batch, i: int = i, head: nn.Module = head) -> Tensor:
                return exit_losses(head(batch.inputs[i])[None], batch.targets)[0]

            head.train()
            fit(head.parameters(), states, loss, bench, label=f"training the local classifier {i + 1}", **options)

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()


def threshold(confidence: NDArray[np.float64], right: NDArray[np.bool_], alpha: float) -> float:
    """Return beta: the least of 0 and the confidences ``[N]`` above which at most a share alpha is wrong; inf if none.

    Who has no confidence (NaN) is above nothing.
    """
    order = np.argsort(-np.where(np.isnan(confidence), -math.inf, confidence), kind="stable")
    c, wrong = confidence[order], np.cumsum(~right[order])
    beta = np.append(np.where(c[1:] > 0, c[1:], 0.0), 0.0)  # for the surest 1, 2, … to be accepted and no other
    able = np.flatnonzero((c > beta) & (wrong <= alpha * np.arange(1, len(c) + 1)))
    return float(beta[able[-1]]) if len(able) else math.inf


def placed(accepts: NDArray[np.bool_], c: Sequence[float], q: Sequence[float]) -> tuple[bool, ...]:
    """Return which early exits stay, given whom each would accept ``[L - 1, N]`` and what layers and exits cost."""
    there, found = np.ones(accepts.shape[1], dtype=bool), []
    later = list(accumulate(reversed(c[1:])))[::-1]  # sum_{j>l} c_j for l = 1 … L - 1
    for i, who in enumerate(accepts):
        a = float((who & there).sum() / max(1, there.sum()))
        found.append(a * later[i] > q[i])
        if found[-1]:
            there &= ~who
    return tuple(found)


class Term(NamedTuple):
    """What takes time on the way of a sample: a tier computes, or sends to the next and takes its answer back."""

    tier: int  # the first one whose exits wait for it
    amount: float  # v or b of whoever goes the whole way
    expected: float  # the same of a sample on average
    cap: float  # the highest rate
    watts: float  # dynamic power at that rate: K cap^gamma or Omega cap^zeta
    power: float  # gamma or zeta

    @property
    def least(self) -> float:
        """Seconds that it takes at the highest rate."""
        return self.amount / self.cap

    def joules(self, rate: float) -> float:
        """Return what it takes of a sample on average."""
        return self.expected * energy(rate, self.cap, self.watts, self.power)

    def seconds(self, price: float) -> float:
        """Return how long it should take when a second costs so many joules: where that is what a second saves.

        J(x) = A x^-(power-1)  with  A = J(1), so  x^power = (power - 1) A / price.
        """
        if price == math.inf or not self.amount or not self.expected:
            return self.least
        return float(max(self.least, ((self.power - 1) * self.joules(self.amount) / price) ** (1 / self.power)))


def energy(rate: float, cap: float, watts: float, power: float) -> float:
    """Return the joules of one multiply-accumulate, or of one bit, at a rate."""
    return watts / cap * (rate / cap) ** (power - 1)


def price_of(terms: Sequence[Term], room: float) -> float:
    """Return the price of a second at which the terms take just so many seconds together; infinity if that is too few.

    0 if no price makes them take as long.
    """
    if sum(term.least for term in terms) >= room:
        return math.inf
    low, high = -100.0, 100.0  # logarithms
    if sum(term.seconds(math.exp(low)) for term in terms) <= room:
        return 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(term.seconds(math.exp(middle)) for term in terms) > room else (low, middle)
    return math.exp(high)


def allotted(terms: Sequence[Term], limits: Sequence[float]) -> list[float]:
    """Return the seconds of each term, in order of tiers, for the least energy with each tier within its limit.

    Time up to the limit that is the hardest to keep is shared at one price; what lies behind is cheaper, and is looked
    at by itself.
    """
    found: list[float] = []
    spent, start = 0.0, 0
    while start < len(limits):
        parts = [[term for term in terms if start <= term.tier <= m] for m in range(start, len(limits))]
        prices = [price_of(part, limits[start + i] - spent) for i, part in enumerate(parts)]
        hardest = max(range(len(parts)), key=lambda i: (prices[i], i))
        found += [term.seconds(prices[hardest] or math.inf) for term in parts[hardest]]
        spent, start = sum(found), start + hardest + 1
    return found


@dataclass(frozen=True)
class Mapped(Plan):
    """Where the network is cut, and the rates of tiers and links."""

    speeds: tuple[float, ...] = ()  # f, multiply-accumulates per second
    rates: tuple[float, ...] = ()  # R, bits per second


class Known(NamedTuple):
    """How sure each early exit is of held-out samples, and whether it is right: ``[E - 1, N]``."""

    confidence: NDArray[np.float64]
    right: NDArray[np.bool_]


def known(seen: StoredOutputs) -> Known:
    """Look at held-out samples that all exits have seen."""
    early = seen.answers[:-1]
    confidence = np.array([softmax(z).amax(dim=-1).double().numpy() for z in early]).reshape(early.shape[:2])
    return Known(confidence, (early.argmax(dim=-1) == seen.targets).numpy())


@dataclass(frozen=True)
class CdnnOverFog(ImageMethod, TierMethod):
    """Exits placed in one pass, each with its own threshold, on tiers whose rates are set for the least energy."""

    training: str = "end-to-end"  # or layer-wise, or classifier-wise
    network: str = "resnet"  # the paper: AlexNet-like, as far as is known
    images: str = "cluttered"  # data; the paper: SVHN, FER-2013
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, at which the candidates stand
    half: bool = True  # whether the network learns with products in bfloat16
    epochs: float = 2.0  # passes that train the network, or a layer of it
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate
    head_epochs: float = 2.0  # passes of the second stage of CW
    head_rate: float = 1e-3  # learning rate there
    alpha: float = 0.02  # local error for which exits are placed; assumed
    speeds: tuple[float, ...] = (2e9, 2e10, 1e11)  # highest f of each tier; assumed
    watts: tuple[float, ...] = (2.0, 20.0, 100.0)  # dynamic power of each tier at that rate; assumed
    rates: tuple[float, ...] = (8e6, 5e7)  # highest R of each link; assumed
    radios: tuple[float, ...] = (1.0, 2.0)  # dynamic power of each link at that rate; assumed
    gamma: float = 3.1  # power law of computing; the later simulator: 3.0 to 3.2
    zeta: float = 2.25  # power law of sending; the later simulator: 2.2 to 2.3
    idle: float = 0.05  # P0 of all machines and radios together, watts; assumed
    limits: tuple[float, ...] = (0.1, 0.25, 0.4)  # Delta_m, seconds up to an answer of each tier; assumed

    unit: ClassVar[str] = "mJ by a power model"
    fits_on: ClassVar[float] = 0.5  # of the validation data: places, thresholds and rates
    knob: ClassVar[str] = "alpha"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.3, 0.2, 0.15, 0.1, 0.06, 0.04, 0.02, 0.01, NEVER)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "end-to-end": {}, "layer-wise": {"training": "layer-wise"}, "classifier-wise": {"training": "classifier-wise"},
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.tiny, "head_epochs": 4.0, "head_rate": 1e-2, "speeds": (3e6, 3e7, 3e8), "rates": (4e5, 2e6),
        "alpha": 0.01, "idle": 1e-3,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.smoke, "head_epochs": 3.0, "head_rate": 5e-3, "speeds": (6e7, 6e8, 3e9), "alpha": 0.1,
        "idle": 5e-3,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.others, "alpha": -1.0, "speeds": (2e6, 3e7, 3e8), "watts": (1.0, 20.0, 100.0),
        "rates": (5e5, 2e6), "radios": (2.0, 2.0), "limits": (0.12, 0.3, 0.5),
    }  # fmt: skip
    exempt: ClassVar[Mapping[str, str]] = {
        "cost_is_monotone": "places and rates follow held-out samples: for test samples they may be a little off"
    }

    def __post_init__(self) -> None:
        tiers = len(self.speeds)
        if not len(self.watts) == len(self.limits) == tiers == len(self.rates) + 1 == len(self.radios) + 1:
            raise ValueError("each tier has its speed, watts and limit, and each link between two its rate and radio")
        if any(a > b for a, b in pairwise([0.0, *self.limits])) or self.limits[0] <= 0:
            raise ValueError(f"limits are seconds above 0 that do not fall from tier to tier, not {self.limits}")
        if min(self.gamma, self.zeta) <= 1:
            raise ValueError("power laws have exponents above 1: else slower would not be cheaper")

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train end-to-end, layer-wise or classifier-wise, as ``training`` says."""
        if self.training == "end-to-end":
            train_joint(model, data, bench, weights=[1.0] * model.exits, **self.options)
        elif self.training == "layer-wise":
            train_layer_wise(model, data, bench, **self.options)
        elif self.training == "classifier-wise":
            train_plain(model, data, bench, **self.options)
            options = {"epochs": self.head_epochs, "batch": self.batch, "rate": self.head_rate}
            train_classifiers(model, data, bench, **options)
        else:
            raise ValueError(f"training is end-to-end, layer-wise or classifier-wise, not {self.training!r}")

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; then leave the exits that are placed, by held-out samples."""
        model, data = self.trained(bench)
        kept = self.kept(Prepared(model, data, bench, self).for_choosing.split("fitting"))
        return Prepared(left(model, kept), data, bench, self)

    def kept(self, seen: StoredTiers) -> tuple[bool, ...]:
        """Return which early exits stay."""
        found = known(seen)
        beta = [threshold(c, right, self.alpha) for c, right in zip(*found, strict=True)]
        accepts = found.confidence > np.array(beta)[:, None]
        return placed(accepts, seen.stages.mean(axis=1).tolist(), seen.heads.mean(axis=1)[:-1].tolist())

    def fit(self, prepared: Any) -> Known:
        """What thresholds are set by."""
        return known(prepared.split("fitting"))

    def policy(self, knob: float, prepared: Any) -> MaxConfidence:
        """The knob is alpha; what is strictly above beta is at least the next number."""
        beta = [threshold(c, right, knob) for c, right in zip(*prepared.fitted, strict=True)]
        return MaxConfidence([math.nextafter(b, math.inf) for b in beta] or math.inf)

    def world(self, split: Split, seed: int) -> World:
        """The tiers at their highest rates; nothing there is random."""
        links = tuple(Link(steady(rate), 0.0) for rate in self.rates)
        return World(tuple(Computer(steady(speed)) for speed in self.speeds), links)

    def came(self, samples: int) -> list[float]:
        """A picture when the one before has its answer at the latest."""
        return [sample * self.limits[-1] for sample in range(samples)]

    def at_work(self, world: World, scheduler: Scheduler) -> World:
        """The tiers at the rates of the mapping."""
        assert isinstance(scheduler, Always)
        plan: Mapped = scheduler.only
        links = tuple(Link(steady(rate), 0.0) for rate in plan.rates)
        return World(tuple(Computer(steady(speed)) for speed in plan.speeds), links)

    def scheduler(self, prepared: Prepared, world: World, knob: float | None, exit_: int = -1) -> Always:
        """The mapping of least expected energy, of those that keep the limits; the one that is soonest if none does."""
        seen = prepared.split("fitting")
        every = [self.mapped(seen, cuts, knob, exit_) for cuts in self.cuts(prepared.model.exits)]
        return Always(min(every, key=lambda each: each[0])[1])

    def cuts(self, exits: int) -> list[tuple[int, ...]]:
        """Return all ways to lay layers between exits on the tiers: each has some, as long as there are enough."""
        tiers = len(self.speeds)
        if exits >= tiers:
            return list(combinations(range(1, exits), tiers - 1))
        return list(combinations_with_replacement(range(1, exits + 1), tiers - 1))

    def mapped(
        self, seen: StoredTiers, cuts: tuple[int, ...], knob: float | None, exit_: int
    ) -> tuple[tuple[float, float], Mapped]:
        """Return how late some tier is, and the expected joules; and the mapping with its rates."""
        terms = list(self.terms(seen, Plan(cuts, knob, exit_)))
        seconds = allotted(terms, self.limits)
        rates = [t.amount / x if t.amount else t.cap for t, x in zip(terms, seconds, strict=True)]
        upto = [sum(x for t, x in zip(terms, seconds, strict=True) if t.tier <= m) for m in range(len(self.limits))]
        late = max(0.0, *(a - b for a, b in zip(upto, self.limits, strict=True)))
        joules = sum(term.joules(rate) for term, rate in zip(terms, rates, strict=True))
        plan = Mapped(cuts, knob, exit_, speeds=tuple(rates[::2]), rates=tuple(rates[1::2]))
        return (late if late > 1e-9 else 0.0, joules), plan

    def terms(self, seen: StoredTiers, plan: Plan) -> Iterator[Term]:
        """Yield what takes time: tier 1, its link, tier 2, …, by what held-out samples do under a plan."""
        whole = plan if plan.knob is None else Plan(plan.cuts, NEVER)
        every, longest = seen.course(plan).legs, seen.course(whole).legs[0]
        answer = longest[-1].size  # bytes, of whatever tier
        for m, (speed, watts) in enumerate(zip(self.speeds, self.watts, strict=True)):
            amount = longest[m].macs if m < len(longest) else 0.0
            here = sum(legs[m].macs for legs in every if m < len(legs)) / len(every)
            yield Term(m, amount, here, speed, watts, self.gamma)
            if m < len(self.rates):
                bits = BITS * (longest[m].size + answer) if m + 1 < len(longest) else 0
                share = sum(m + 1 < len(legs) for legs in every) / len(every)
                yield Term(m + 1, bits, share * bits, self.rates[m], self.radios[m], self.zeta)

    @property
    def idling(self) -> float:
        """Joules of idle power in the time between two samples: the same in every price."""
        return self.idle * self.limits[-1]

    def price(self, journey: Journey) -> float:
        """Millijoules of all machines and links for a sample, by the model."""
        plan: Mapped = journey.plan
        spent = self.idling
        for v, f, cap, watts in zip(journey.macs, plan.speeds, self.speeds, self.watts, strict=False):
            spent += v * energy(f, cap, watts, self.gamma)
        crossed = zip(journey.sent, reversed(journey.returned), strict=True)
        for (there, back), rate, cap, watts in zip(crossed, plan.rates, self.rates, self.radios, strict=False):
            spent += BITS * (there + back) * energy(rate, cap, watts, self.zeta)
        return 1000 * spent

    def alone(self, prepared: Prepared, split: Split, machine: int) -> OperatingPoint:
        """Return the plain network as a whole on one tier, at rates set alike; the knob is its number, from 1."""
        _, plan = self.on_one(prepared, machine)
        journeys = self.simulated(prepared, split, None, only=Always(plan))
        return self.point(prepared, split, journeys, machine + 1)

    def whole(self, prepared: Prepared, name: str, machine: int) -> Baseline:
        """Return the plain network as a whole on one tier; its name says by how much answers miss the tier's limit."""
        late, _ = self.on_one(prepared, machine)
        return super().whole(prepared, f"{name}, {1000 * late:.3g} ms late" if late else name, machine)

    def on_one(self, prepared: Prepared, machine: int) -> tuple[float, Mapped]:
        """Return how late the plain network is as a whole on one tier, and the mapping with its rates."""
        cuts = tuple(prepared.model.exits if link >= machine else 0 for link in range(len(self.rates)))
        (late, _), plan = self.mapped(prepared.for_choosing.split("fitting"), cuts, None, -1)
        return late, plan

    def simulation(self, prepared: Prepared, bench: Bench) -> Simulation:
        """Return what a joule depends on, and the rates of two mappings; nothing changes over time."""
        tiers, links = zip(self.speeds, self.watts, self.limits, strict=True), zip(self.rates, self.radios, strict=True)
        mappings = [
            (name, self.scheduler(prepared.for_choosing, self.world("test", bench.seed), knob).only)
            for name, knob in (("without exits", None), (f"with exits at alpha = {self.alpha:g}", self.alpha))
        ]
        return Simulation(
            seconds=SECONDS,
            rates=[],
            constants=[
                *(
                    f"tier {m}: at most {speed / 1e9:.4g} billion MACs/s, which draw {watts:g} W; its answers are due "
                    f"{1000 * limit:.4g} ms after an image came"
                    for m, (speed, watts, limit) in enumerate(tiers, 1)
                ),
                *(
                    f"link {m}: at most {rate / 1e6:.4g} Mbit/s, which draw {radio:g} W"
                    for m, (rate, radio) in enumerate(links, 1)
                ),
                f"power follows the rate with exponent {self.gamma:g} where machines compute and {self.zeta:g} on "
                f"links; all together draw {self.idle:g} W more, which is {1000 * self.idling:.4g} mJ of every figure",
                *(f"{name}, {mapping(plan)}" for name, plan in mappings),
            ],
        )


def mapping(plan: Mapped) -> str:
    """Return the rates of a mapping in words."""
    speeds = ", ".join(f"{speed / 1e9:.4g}" for speed in plan.speeds)
    rates = ", ".join(f"{rate / 1e6:.4g}" for rate in plan.rates)
    return f"tiers run at {speeds} billion MACs/s, and links at {rates} Mbit/s"


def left(model: MultiExit, kept: Sequence[bool]) -> MultiExit:
    """Return the network with the exits that stay, and its last; layers between two exits are one stage."""
    places = [*(i for i, stays in enumerate(kept) if stays), len(kept)]
    stages = [nn.Sequential(*model.stages[a:b]) for a, b in pairwise([0, *(i + 1 for i in places)])]
    return MultiExit(stages, [model.heads[i] for i in places]).eval()
