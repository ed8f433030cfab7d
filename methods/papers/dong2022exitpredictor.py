"""Resource-Constrained Edge AI with Early Exit Prediction (Exit Predictor, EP).

Idea
    Exits cost a phone computation even for hard images, which will leave at none of them. A very small network predicts
    this from an early map; such images skip the exits. The layers of the network run as before, so nothing changes
    except for images that would have left. If the rest of the network is on a server, the thresholds of exits and
    predictor follow the bandwidth by simple regressions, so that a latency target is met.

Model
    Blocks 1 … N with exits after blocks 1 … M, which lie on the device; the other blocks are on an edge server, whose
    last layer always answers. Exit: 3×3 convolution, ReLU, means over places, a linear layer, so it costs enough to be
    worth skipping. EP on the map after block 1: depthwise 3×3 convolution, batch normalisation, ReLU, mean over the
    map, two linear layers, sigmoid: one score s for all exits (main variant), or s_1 … s_M, one for each.

Training
    The network with all exits together, L = sum_m CE_m. It is frozen; then EP alone by binary cross-entropy, summed
    over its scores, rare labels weighing more: z_m = 1 where c_m = max softmax(exit m) >= tau, z = max_m z_m.

Exit rule
    s_m < eta: exit m is not run; else leave at it if c_m >= tau. Else go on; images that do not leave on the device are
    sent to the server. eta = 0 runs every exit, eta > 1 none.
    tau and eta follow the bandwidth B. On held-out images, for a grid of (eta, tau), the share sent a, the accuracy and
    the computation on the device w are measured; the expected time is  t = w / v_d + a (8 D / B + RTT + w_s / v_s). For
    each of several B the most accurate pair with t within the target is taken (of equal ones the fastest), or the
    fastest of all if none is within. To these, polynomials in log B are fitted, eta = f(B), tau = g(B), and used as B,
    a moving average that starts from the usual bandwidth, changes. The knob is the target, as a share of t for the
    network without exits at the usual bandwidth. At 0 all images leave at the first exit; with an infinite target the
    exits are not run.

Skipped
    Exits at which an image is predicted not to leave; for images that leave on the device, all later blocks and the
    transfer to the server. The cost is the simulated time to the answer: MACs ÷ speed on each machine, and bytes over a
    link whose bandwidth varies. The full model is the network without exits and without EP, divided alike.

Trained otherwise
    Besides the epochs that all rows have, which train the network, EP is trained for as many more with the network
    frozen.

Deviations
    1. Only the abstract and a summary of the first author's dissertation could be read: it is known that exits are on
       the device and that hard images bypass all of them; layers of EP, labels, and regressions are assumed. One score
       is nearer to the dissertation; a score per exit generalises it.
    2. EP is trained for one tau, though tau changes with the bandwidth; eta compensates for this as far as it can.
    3. A small residual network on cluttered Fashion-MNIST with three exits on the device instead of AlexNet, VGG-16 and
       ResNet-44 on CIFAR-10 and CIFAR-100.
    4. Speeds, bandwidth and travel time are assumed (settings), and no time is measured; bandwidth follows a seeded
       Markov chain, from an eighth of the usual to four times as much. Images arrive once a second: queues are not part
       of the expected time, and more often the slowest link could not carry them.
    5. tau and eta are rounded to hundredths, and B is computed from the link's rate in past seconds.
    6. Here the map at the cut takes eight times the bytes of the image. So the full model, which sends it for every
       image, takes 258 simulated ms, though the server alone would take 62 for images that are sent to it, and the
       device alone 123: gains over the full model are not gains over these. A claim sets the method beside both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import Shape, places
from eelit.methods.backbones.normalisation import convolution
from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.multi_exit import MultiExit, device_of, evaluating, said_at
from eelit.methods.engine.routing import decide
from eelit.methods.engine.timing import BATCH
from eelit.methods.engine.weights import trained
from eelit.methods.families.images import ImageMethod
from eelit.methods.families.tiers import Course, Machine, Plan, Prepared, Ran, StoredTiers, TierMethod, on_message
from eelit.methods.policies.base import Output, State
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import train_joint
from eelit.methods.world.machines import BITS, Computer, Link
from eelit.methods.world.stream import Always, Journey, Leg, World
from eelit.methods.world.traces import Observed, steady, wandering

TAUS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
ETAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""The grid of pairs."""
BANDWIDTHS = tuple(float(2**k) for k in np.linspace(-3, 2, 16))
"""Where regressions look, in shares of the usual bandwidth."""
SECOND, KEEP = 0.5, 0.3
"""Seconds between two looks at the link, and what the moving average keeps of itself."""
PERIOD = 1.0
"""Seconds between two pictures: the slowest link has carried one before the next comes, so that no queue grows."""
SIDE, HIDDEN = 2, 16
"""Places along a map that an exit takes means of, and width of the predictor's first linear layer."""


class Predictor(nn.Sequential):
    """EP: the logits of its scores ``[N, K]``, from maps ``[N, C, H, W]``."""

    def __init__(self, channels: int, scores: int) -> None:
        each = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False), nn.BatchNorm2d(channels)
        mean = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        super().__init__(*each, nn.ReLU(), *mean, nn.Linear(channels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, scores))


class Predicting(MultiExit):
    """A network with exits, and its predictor."""

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module], predictor: Predictor) -> None:
        super().__init__(stages, heads)
        self.predictor = predictor


def leaving(outputs: Tensor, tau: float) -> Tensor:
    """Return z_1 … z_M ``[N, M]`` of what the early exits say, ``[M, N, C]``: 1 where one would let a picture go."""
    return (outputs.softmax(dim=-1).amax(dim=-1) >= tau).float().T


def prediction_loss(logits: Tensor, z: Tensor, rare: Tensor) -> Tensor:
    """Return the binary cross-entropy summed over scores ``[N, K]``, labels of 1 weighing ``rare [K]``."""
    return F.binary_cross_entropy_with_logits(logits, z, pos_weight=rare, reduction="none").mean(dim=0).sum()


@torch.inference_mode()
def labels(model: MultiExit, data: Data, early: int, tau: float, scores: int) -> Tensor:
    """Return the labels ``[N, K]`` of all training pictures, from the frozen network: of each exit, or of any."""
    found = torch.zeros(len(data.train), early)
    with evaluating(model):
        for index, x in data.train.batches(BATCH, device=device_of(model)):
            said, state = [], x
            for stage, head in list(zip(model.stages, model.heads, strict=True))[:early]:
                state = stage(state)
                said.append(head(state))
            found[index] = leaving(torch.stack(said), tau).cpu()
    return found if scores > 1 else found.amax(dim=1, keepdim=True)


def train_predictor(
    model: Predicting, data: Data, bench: Bench, *, early: int, tau: float, scores: int, **options: Any
) -> None:
    """Train EP on labels of the first exits, everything else frozen; ``options`` are those of `fit`."""
    predictor = model.predictor

    def train() -> None:
        z = labels(model, data, early, tau, scores)
        rare = ((1 - z).sum(dim=0).clamp(min=1) / z.sum(dim=0).clamp(min=1)).to(device_of(model))

        def loss(batch: Batch) -> Tensor:
            with torch.no_grad():
                h = model.stages[0](batch.inputs)
            return prediction_loss(predictor(h), z[batch.index].to(h.device), rare)

        model.eval()
        predictor.train()
        fit(predictor.parameters(), data.train, loss, bench, label="training the exit predictor", **options)

    settings = {"early": early, "tau": tau, "scores": scores, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class Foretold(Plan):
    """A plan under which EP is asked first; the knob of the plan is tau."""

    eta: float = 0.0


class Device(Machine):
    """The device: after its first block it asks EP, and then only exits whose score reaches eta."""

    def __init__(self, *given: Any, predictor: Predictor, early: int) -> None:
        super().__init__(*given)
        self.predictor, self.early = predictor, early

    @torch.inference_mode()
    def _run(self, state: Any, memory: State, due: int, plan: Plan, bounds: tuple[int, int]) -> Ran:
        if not isinstance(plan, Foretold) or plan.knob is None:
            return super()._run(state, memory, due, plan, bounds)
        policy, exit_, answer, asked = self.rule(plan.knob), None, None, [False] * self.early
        for i in range(*bounds):
            with evaluating(self.stages[i]):
                state = self.stages[i](state)
            if i == 0:
                with evaluating(self.predictor):
                    asked = wanted(self.predictor(state).sigmoid(), plan.eta, self.early)[:, 0].tolist()
            if not asked[i]:
                continue
            with evaluating(self.heads[i]):
                output = self.heads[i](state)
            exit_, answer = i, self.read(output)
            if bool(decide(policy, policy.start(), output)[1]):
                return Ran(exit_, answer, True, b"")
        last = self.exits - 1
        return Ran(exit_, answer, False, on_message(plan, last, (), self.codec.pack(state)), state, (), last)


def wanted(s: Tensor, eta: float, early: int) -> NDArray[np.bool_]:
    """Return which of the early exits are asked, ``[M, N]``, given scores ``[N, K]``, one for all or one for each."""
    found: NDArray[np.bool_] = (s.double() >= eta).expand(-1, early).T.cpu().numpy()
    return found


@dataclass
class StoredForetold(StoredTiers):
    """Tables in which exits may be passed over, and EP is paid for by the device."""

    @cached_property
    def scores(self) -> Tensor:
        """What EP says, ``[N, K]``."""
        assert isinstance(self.model, Predicting)
        found = []
        with torch.inference_mode(), evaluating(self.model):
            for index, x in self.examples.batches(1 if self.single else BATCH, device=device_of(self.model)):
                found.append((index, self.model.predictor(self.model.stages[0](x)).sigmoid().cpu()))
        order = torch.cat([index for index, _ in found]).argsort()
        return torch.cat([s for _, s in found])[order]

    @cached_property
    def predicting(self) -> float:
        """The multiply-accumulates of EP."""
        assert isinstance(self.model, Predicting)
        with torch.inference_mode(), evaluating(self.model):
            h = self.model.stages[0](self.examples.inputs[0][None].to(device_of(self.model)))
            with MacCounter() as counter:
                self.model.predictor(h)
        return float(counter.macs)

    def stops(self, tau: float) -> NDArray[np.bool_]:
        """Return which exits would let each sample go, ``[E - 1, N]``, if they were asked."""
        policy = self.rule(tau)
        every = (decide(policy, policy.start(), said_at(self.outputs, i))[1] for i in range(len(self.costs) - 1))
        return np.array([stop.numpy() for stop in every])

    def _visits(self, plan: Plan, outputs: Output) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
        if not isinstance(plan, Foretold) or plan.knob is None:
            return super()._visits(plan, outputs)
        left, visited = foretold(self.scores, self.stops(plan.knob)[: plan.cuts[0]], plan.eta, len(self.costs))
        return left, visited, self.heads

    def _course(self, plan: Plan) -> Course:
        found = super()._course(plan)
        if not isinstance(plan, Foretold) or plan.knob is None:
            return found
        return found._replace(legs=[[_costlier(legs[0], self.predicting), *legs[1:]] for legs in found.legs])


def _costlier(leg: Leg, macs: float) -> Leg:
    return Leg(leg.macs + macs, leg.exit, leg.left, leg.size)


def foretold(
    s: Tensor, stops: NDArray[np.bool_], eta: float, exits: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where each sample leaves ``[N]``, and which exits it asked ``[E, N]``: early ones, then only the last."""
    early, samples = stops.shape
    asked = np.zeros((exits, samples), dtype=bool)
    asked[:early], asked[-1] = wanted(s, eta, early), True
    leaves = asked.copy()
    leaves[:early] &= stops
    left: NDArray[np.int64] = leaves.argmax(axis=0)
    return left, asked & (np.arange(exits)[:, None] <= left)


class Tables(NamedTuple):
    """What is expected of each pair, on held-out pictures."""

    pairs: tuple[tuple[float, float], ...]  # (eta, tau)
    sent: NDArray[np.float64]  # a, share that leaves nowhere on the device
    accuracy: NDArray[np.float64]
    device: NDArray[np.float64]  # w, multiply-accumulates there
    bits: float  # 8 D
    server: float  # w_s, multiply-accumulates there for what is sent
    plain: float  # multiply-accumulates on the device in the network without exits


def profiled(seen: StoredForetold, cut: int) -> Tables:
    """Return what each pair of eta and tau sends, answers rightly and computes on the given samples."""
    right = (seen.answers.argmax(dim=-1) == seen.targets).numpy()
    blocks = seen.stages.cumsum(axis=0)
    pairs, rows, exits = tuple(product(ETAS, TAUS)), np.arange(len(seen.examples)), len(seen.costs)
    found = []
    for eta, tau in pairs:
        left, asked = foretold(seen.scores, seen.stops(tau)[:cut], eta, exits)
        work = blocks[np.minimum(left, cut - 1), rows] + (seen.heads * asked).sum(axis=0) + seen.predicting
        found.append(((left >= cut).mean(), right[left, rows].mean(), work.mean()))
    sent, accuracy, device = np.array(found, dtype=np.float64).T
    bits = BITS * float(seen.crossed((cut,))[1].mean())
    here = float(blocks[cut - 1].mean())
    return Tables(pairs, sent, accuracy, device, bits, float(blocks[-1].mean()) - here, here)


@dataclass(frozen=True)
class Speeds:
    """What the expected time depends on beside the bandwidth."""

    device: float  # v_d, multiply-accumulates per second
    server: float  # v_s
    round_trip: float  # RTT, seconds

    def expected(self, known: Tables, bandwidth: float) -> NDArray[np.float64]:
        """Return t of each pair, in seconds."""
        return known.device / self.device + known.sent * self._away(known, bandwidth)

    def plain(self, known: Tables, bandwidth: float) -> float:
        """Return t of the network without exits."""
        return known.plain / self.device + self._away(known, bandwidth)

    def _away(self, known: Tables, bandwidth: float) -> float:
        return known.bits / bandwidth + self.round_trip + known.server / self.server


def chosen(known: Tables, seconds: NDArray[np.float64], target: float) -> tuple[float, float]:
    """Return the most accurate (eta, tau) within a target; the fastest if none is, or of those that are as accurate."""
    within = [i for i, t in enumerate(seconds) if t <= target]
    if not within:
        return known.pairs[int(seconds.argmin())]
    return known.pairs[max(within, key=lambda i: (known.accuracy[i], -seconds[i]))]


class Regressions(NamedTuple):
    """eta and tau as polynomials in log2 of the bandwidth, as a share of the usual one."""

    eta: tuple[float, ...]  # coefficients, the highest first
    tau: tuple[float, ...]

    def at(self, share: float) -> tuple[float, float]:
        """Return (eta, tau) at a bandwidth, given as a share of the usual one, within those of the grid."""
        x = math.log2(min(max(share, BANDWIDTHS[0]), BANDWIDTHS[-1]))
        eta, tau = (round(min(max(float(np.polyval(c, x)), 0.0), 1.0), 2) for c in self)
        return eta, tau


def regressed(known: Tables, speeds: Speeds, usual: float, target: float, degree: int) -> Regressions:
    """Fit both to what is best within a target, in seconds, at each of `BANDWIDTHS`."""
    best = [chosen(known, speeds.expected(known, share * usual), target) for share in BANDWIDTHS]
    x = np.log2(BANDWIDTHS)
    eta, tau = (tuple(np.polyfit(x, values, degree).tolist()) for values in zip(*best, strict=True))
    return Regressions(eta, tau)


class Adaptive:
    """Follows the bandwidth by regressions, as a share of the usual bandwidth for which they were fitted."""

    def __init__(self, curves: Regressions, link: Link, usual: float, cuts: tuple[int, ...]) -> None:
        self.curves, self.usual, self.cuts = curves, usual, cuts
        self.bandwidth = Observed(link.bandwidth, SECOND, KEEP, usual)

    def plan(self, sample: int, now: float) -> Foretold:
        """Return tau and eta for the bandwidth as it is known."""
        eta, tau = self.curves.at(self.bandwidth.at(now) / self.usual)
        return Foretold(self.cuts, tau, eta=eta)

    def learn(self, sample: int, journey: Journey) -> None:
        """Learn nothing from one picture: the radio reports for itself."""


@dataclass(frozen=True)
class ExitPrediction(ImageMethod, TierMethod):
    """Exits that are asked only where a predictor expects it to be worth while."""

    several: bool = False  # a score for each exit; False: one for all, as in the dissertation
    tau: float = 0.8  # confidence that EP's labels ask for; the paper: swept
    network: str = "resnet"  # the paper: AlexNet, VGG16-BN, ResNet44
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    exit_shares: tuple[float, ...] = (
        0.2,
        0.35,
        0.5,
    )  # of the cost, where exits stand; cut behind the last
    half: bool = True  # whether the network learns with products in bfloat16
    epochs: float = 2.0  # passes that train the network with its exits
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate
    head_epochs: float = 2.0  # passes that train EP
    head_rate: float = 5e-3  # learning rate there
    degree: int = 2  # of the polynomials; assumed
    device: float = 2e9  # v_d, multiply-accumulates per second; assumed
    server: float = 1e11  # v_s; assumed
    bandwidth: float = 8e6  # usual bits per second; assumed
    round_trip: float = 0.04  # RTT in seconds; assumed

    tables: ClassVar[type[StoredTiers]] = StoredForetold
    fits_on: ClassVar[float] = 0.5  # of the validation data, for the tables
    knob: ClassVar[str] = "latency target"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, math.inf)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"one score": {}, "a score per exit": {"several": True}}
    tiny: ClassVar[Mapping[str, Any]] = {
        **{k: v for k, v in ImageMethod.tiny.items() if k != "shares"}, "exit_shares": (0.2, 0.6), "head_epochs": 6.0,
        "head_rate": 1e-2, "device": 2e6, "server": 1e8, "bandwidth": 4e5, "round_trip": 0.01,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        **{k: v for k, v in ImageMethod.smoke.items() if k != "shares"}, "head_epochs": 2.0, "head_rate": 5e-3,
        "tau": 0.5, "device": 2e7, "server": 1e9, "bandwidth": 2e6,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.others, "exit_shares": (0.25, 0.75), "degree": 0, "bandwidth": 2e4, "round_trip": 0.2,
    }  # fmt: skip

    @property
    def shares(self) -> tuple[float, ...]:  # type: ignore[override]
        """Shares of the network's cost at which early exits are attached."""
        return self.exit_shares

    @property
    def cuts(self) -> tuple[int, ...]:
        """Behind the last exit but the server's."""
        return (len(self.exit_shares),)

    @property
    def speeds(self) -> Speeds:
        """Multiply-accumulates per second of device and server, and seconds of a round trip."""
        return Speeds(self.device, self.server, self.round_trip)

    def build(self, data: Data, seed: int) -> Predicting:
        """The network with its exits; and the predictor, which reads the map after the first block."""
        model = super().build(data, seed)
        with torch.no_grad():
            h = model.stages[0](torch.zeros(1, *data.train.inputs[0].shape))
        predictor = Predictor(h.shape[1], len(self.exit_shares) if self.several else 1)
        return Predicting([*model.stages], [*model.heads], predictor).eval()

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """An exit for maps ``[C, H, W]``, with a convolution of its own."""
        down, across = places(shape, SIDE)
        pool = nn.AdaptiveAvgPool2d((down, across)), nn.Flatten()
        return nn.Sequential(
            *convolution(shape[0], shape[0]), nn.ReLU(), *pool, nn.Linear(shape[0] * down * across, classes)
        )

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The network with its exits together, then the predictor."""
        assert isinstance(model, Predicting)
        exits = MultiExit(model.stages, model.heads)
        train_joint(exits, data, bench, weights=[1.0] * exits.exits, **self.options)
        options = {"epochs": self.head_epochs, "batch": self.batch, "rate": self.head_rate}
        early, scores = len(self.exit_shares), len(self.exit_shares) if self.several else 1
        train_predictor(model, data, bench, early=early, tau=self.tau, scores=scores, **options)

    def fit(self, prepared: Any) -> Tables:
        """The tables, from pictures that choose no knob."""
        return profiled(prepared.split("fitting"), *self.cuts)

    def policy(self, knob: float, prepared: Any) -> MaxConfidence:
        """How sure an exit must be, once it is asked: the knob of a plan is tau."""
        return MaxConfidence(knob)

    def world(self, split: Split, seed: int) -> World:
        """A device, a link that wanders between an eighth and four times its usual bandwidth, and a server."""
        steps = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
        trace = wandering(self.bandwidth, steps, stay=10.0, seconds=2400.0, seed=[seed, int(split == "test")])
        machines = Computer(steady(self.device)), Computer(steady(self.server))
        return World(machines, (Link(trace, self.round_trip),))

    def came(self, samples: int) -> list[float]:
        """One picture after the other, at equal distances."""
        return [sample * PERIOD for sample in range(samples)]

    def scheduler(self, prepared: Prepared, world: World, knob: float | None, exit_: int = -1) -> Adaptive | Always:
        """Regressions for a target; a plan without exits for none, or for the network cut off behind one."""
        if knob is None:
            return Always(Plan(self.cuts, None, exit_))
        if knob == math.inf:
            return Always(Foretold(self.cuts, 1.1, eta=1.1))
        known: Tables = prepared.fitted
        target = knob * self.speeds.plain(known, self.bandwidth)
        curves = regressed(known, self.speeds, self.bandwidth, target, self.degree)
        return Adaptive(curves, world.links[0], self.bandwidth, self.cuts)

    def machines(self, prepared: Prepared) -> list[Machine]:
        """The device with EP and its exits, and the server."""
        model, read = prepared.model, prepared.split("test").read
        assert isinstance(model, Predicting)
        here, there = (range(*bounds) for bounds in Plan(self.cuts).bounds(model.exits))
        options: dict[str, Any] = {"predictor": model.predictor, "early": len(self.exit_shares)}
        return [
            Device(0, model, here, prepared.rule, self.codec, read, **options),
            Machine(1, model, there, prepared.rule, self.codec, read),
        ]
