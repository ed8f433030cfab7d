"""SPINN: Synergistic Progressive Inference of Neural Networks over Device and Cloud (SPINN).

Idea
    Where a network is cut between a phone and a server, and how easily it stops at an exit, are one decision: an exit
    on the phone saves the transfer to the server for all inputs that leave there. So both are chosen together at run
    time, from tables made beforehand and the current state of link and server, for the goals that the user sets. Exits
    on the phone are also a fallback: if the server does not respond, there is an answer.

Model
    One network with exits at shares C_i of its cost; y_i are the logits of exit i. A cut s puts its first s parts with
    their exits on the device, and the rest on the server: s = 0 puts everything on the server, the largest s everything
    on the device.

Training
    Everything together from the start: L = sum_i tau_i(t) L_i + L_last, tau_i(t) = min(C_i, 0.01 + t C_i), where the
    share t of the training is over: as in Shallow-Deep Networks.

Exit rule
    Leave at the first exit with max softmax(y_i) >= thr, one thr for all. If none reaches thr, the last included,
    the most confident of all exits answers. If no exit of the device does, the state at s is sent with 8 bits per
    value, compressed. If no answer comes back in time, the device answers by its most confident exit; if it has run
    none, it goes on by itself. The scheduler chooses a design point (s, thr) for each image. From tables over a grid
    (share of images at each exit, accuracy, sizes), device speed, and moving averages of bandwidth B and of the
    server's speed, it expects t(s, thr) = sum_{i<=s} a_i c_i / v_d + a_{s+1} (RTT + 8 size_s / B) + sum_{i>s} a_i
    c_i / v_s,
    with a_i the share that reaches exit i at thr and c_i what part and exit cost; likewise throughput, the server's
    work, and the device's energy. Points that violate a limit are left out; of the others, target by target in the
    user's order, those that are nearly the best are kept; the best by the last target is taken. Here thr is the knob,
    and the scheduler chooses the cut; with a grid for thr it chooses both (in the claims).

Skipped
    The parts after the exit and, for images that leave on the device, the transfer to the server. The cost is the
    simulated time to the answer; the full model is the network without early exits, cut by the same scheduler.

Deviations
    1. A small residual network on cluttered Fashion-MNIST, exits after 17 to 83 % of its cost, instead of VGG-19,
       ResNet and others on CIFAR-100 and ImageNet with six exits from 15 to 90 %.
    2. The ramp of the losses, the most confident exit as a fallback, the order of targets and the codec were not read
       in the paper: they follow summaries and its system figure. The third-party code has a constant weight for its one
       exit.
    3. Cuts are at exits, not after every ReLU.
    4. zlib (at its fastest level) compresses what is sent; the paper has bit shuffling and LZ4, which the standard
       library lacks.
    5. Machines and link are simulated with assumed numbers (settings): layer times are MACs ÷ speed, none is measured.
       Bandwidth follows a seeded Markov chain, with outages by a Gilbert process, since no recorded traces were
       found; the load of the server is a Markov chain too. Images arrive four times a second. For the moving
       averages, which start from the settings, radio and server report twice a second their rates since the last
       report; a single image says too little.
    6. The image is small, and the outputs of the parts are larger than it, so cutting between exits pays off only where
       most images leave before the cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.evaluate import answered, replay
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.metrics import accuracy
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.images import ImageMethod
from eelit.methods.families.tiers import Plan, Prepared, StoredTiers, TierMethod, state_sizes
from eelit.methods.policies.surest import Surest
from eelit.methods.recipes.ramped import train_ramped
from eelit.methods.world.machines import BITS, Computer, Link, Power
from eelit.methods.world.stream import Journey, World
from eelit.methods.world.traces import Observed, broken, steady, wandering
from eelit.methods.world.wire import Quantised

PERIOD = 0.25
"""Seconds between two pictures."""
DEVICE = Power(computing=4.0, sending=1.5, waiting=0.5)
"""Watts of the device; assumed."""
THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.1)
"""The grid of thr."""
SECOND, KEEP = 0.5, 0.3
"""Seconds between two looks at link and server, and what the moving averages keep of themselves."""
TOLERANCE, MARGIN = 0.05, 0.1
"""By how much a point may miss the best value of a target and is kept; and a condition change until one looks again."""


Points: TypeAlias = Mapping[str, NDArray[np.float64]]
"""What is expected of each design point: the name of a target → ``[cuts, K]``; the less the better."""


class Profile(NamedTuple):
    """What is known before: of held-out pictures at each thr of the grid, and of the network."""

    thresholds: tuple[float, ...]
    alive: NDArray[np.float64]  # [K, E + 1], the share of pictures that exits 0 … i - 1 have not let go; 0 at the end
    accuracy: NDArray[np.float64]  # [K]
    sizes: NDArray[np.float64]  # [E + 1], mean bytes of the state at each cut; none cross at the last
    stages: NDArray[np.float64]  # [E], multiply-accumulates of each part
    heads: NDArray[np.float64]  # [E], of each exit; that of the last is counted with its part

    def at(self, thr: float) -> Profile:
        """Return what is known at one threshold, from the nearest of the grid."""
        row = [int(np.abs(np.array(self.thresholds) - thr).argmin())]
        return self._replace(thresholds=(thr,), alive=self.alive[row], accuracy=self.accuracy[row])

    def cut_off(self, exit_: int) -> Profile:
        """Return what would be known of the network without exits before this one, cut off for good behind it."""
        exits = len(self.stages)
        alive, heads = (np.arange(exits + 1) <= exit_).astype(float)[None], np.zeros(exits)
        heads[exit_] = self.heads[exit_]
        return self._replace(thresholds=(np.nan,), alive=alive, accuracy=np.full(1, np.nan), heads=heads)


def profiled(seen: StoredTiers) -> Profile:
    """Make the tables from held-out pictures that all exits have seen."""
    exits = len(seen.costs)
    left = [replay(Surest(thr), seen.outputs) for thr in THRESHOLDS]
    alive = [[float((row >= i).mean()) for i in range(exits)] + [0.0] for row in left]
    right = [
        accuracy(answered(Surest(thr), seen.outputs, row), seen.targets)
        for thr, row in zip(THRESHOLDS, left, strict=True)
    ]
    few = seen.examples.head(64)
    sizes = [*state_sizes(seen.model, seen.codec, few).mean(axis=1).tolist(), 0.0]
    costs = seen.stages.mean(axis=1), seen.heads.mean(axis=1)
    return Profile(THRESHOLDS, np.array(alive), np.array(right), np.array(sizes), *costs)


class Now(NamedTuple):
    """The conditions of a moment."""

    bandwidth: float  # bits per second
    server: float  # multiply-accumulates per second


def expected(profile: Profile, cuts: Sequence[int], now: Now, device: float, round_trip: float) -> Points:
    """Return what is expected of each design point.

    "latency" and "period" are seconds, the latter between two pictures of a long queue (1 ÷ throughput); "server" is
    multiply-accumulates there, "energy" joules of the device, "error" 1 - accuracy.
    """
    work = profile.alive[:, :-1] * (profile.stages + profile.heads)
    done = np.concatenate([np.zeros((len(work), 1)), work.cumsum(axis=1)], axis=1)
    here = np.array([done[:, s] for s in cuts])
    there = done[:, -1] - here
    crossing = np.array([profile.alive[:, s] for s in cuts])
    sending = crossing * np.array([BITS * profile.sizes[s] for s in cuts])[:, None] / max(now.bandwidth, 1.0)
    computing, serving, travelling = here / device, there / now.server, crossing * round_trip
    return {
        "latency": computing + sending + travelling + serving,
        "period": np.maximum(np.maximum(computing, sending), serving),
        "server": there,
        "energy": DEVICE.computing * computing + DEVICE.sending * sending + DEVICE.waiting * (travelling + serving),
        "error": np.broadcast_to(1 - profile.accuracy, here.shape),
    }


def choose(
    points: Points, limits: Mapping[str, float], targets: Sequence[str], tolerance: float = TOLERANCE
) -> tuple[int, int]:
    """Return which design point to take: limits are hard, targets are met one after the other.

    If no point keeps all limits, those that break the first broken one least are left. Of points that are equal to the
    end the first is taken.
    """
    kept = np.ones(points["latency"].shape, dtype=bool)
    for name, limit in limits.items():
        within = kept & (points[name] <= limit)
        kept = within if within.any() else kept & (points[name] <= points[name][kept].min())
    for name in targets[:-1]:
        kept &= points[name] <= points[name][kept].min() * (1 + tolerance)
    last = np.where(kept, points[targets[-1]], np.inf)
    row, column = np.unravel_index(int(last.argmin()), last.shape)
    return int(row), int(column)


class Scheduler:
    """Chooses the design point anew whenever conditions have changed by more than a margin.

    What is known of link and server at first (``known``) is all that it knows before they report.
    """

    def __init__(
        self,
        profile: Profile,
        cuts: Sequence[int],
        world: World,
        targets: Sequence[str],
        limits: Mapping[str, float],
        known: Now,
        exit_: int = -1,
    ) -> None:
        (link,), (device, server) = world.links, world.computers
        self.profile, self.cuts, self.targets, self.limits, self.exit = profile, cuts, targets, limits, exit_
        self.device, self.round_trip = device.speed.mean, link.round_trip
        self.bandwidth = Observed(link.bandwidth, SECOND, KEEP, known.bandwidth)
        self.server = Observed(server.speed, SECOND, KEEP, known.server)
        self.last: tuple[Now, Plan] | None = None

    def plan(self, sample: int, now: float) -> Plan:
        """Return the design point for the present conditions."""
        seen = Now(self.bandwidth.at(now), self.server.at(now))
        if self.last is None or any(abs(a - b) > MARGIN * b for a, b in zip(seen, self.last[0], strict=True)):
            points = expected(self.profile, self.cuts, seen, self.device, self.round_trip)
            row, column = choose(points, self.limits, self.targets)
            thr = self.profile.thresholds[column]
            self.last = seen, Plan((self.cuts[row],), None if np.isnan(thr) else thr, self.exit)
        return self.last[1]

    def learn(self, sample: int, journey: Journey) -> None:
        """Learn nothing from one picture: radio and server report for themselves."""


@dataclass(frozen=True)
class Spinn(ImageMethod, TierMethod):
    """Cut and threshold decided together, again and again."""

    network: str = "resnet"  # the paper: VGG-19, ResNet-50 and -56, Inception-v3, MobileNetV2
    images: str = "cluttered"  # data; the paper: CIFAR-100, ImageNet
    train_size: int = 6000  # training images; the paper: 50,000 of CIFAR-100
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # C_i; the paper: 0.15, 0.3 … 0.9
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # the paper: not known
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate
    cuts: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)  # s, the candidates; the paper: every ReLU
    device: float = 2e9  # v_d, multiply-accumulates per second of the device; assumed
    server: float = 1e11  # v_s of the server when it is not busy; assumed
    bandwidth: float = 8e6  # usual bits per second while the link is up; assumed
    round_trip: float = 0.04  # RTT in seconds; assumed
    breaks: float = 30.0  # seconds on average after which the link breaks, for three on average; assumed
    patience: float = 0.3  # seconds after which the device answers by itself; the paper: a timeout, not known
    bits: int = 8  # of a value that crosses; the paper: 8
    targets: tuple[str, ...] = ("latency",)  # what is wanted, first things first; the paper: set by the user

    fits_on: ClassVar[float] = 0.25  # of the validation data, for the tables
    knob: ClassVar[str] = "thr"
    knobs: ClassVar[tuple[float, ...]] = THRESHOLDS
    tiny: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.tiny, "cuts": (0, 1, 2, 3), "device": 2.3e5, "server": 1.1e7, "bandwidth": 3e5,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {**ImageMethod.smoke, "device": 2e7, "server": 1e9, "bandwidth": 2e6}
    others: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.others, "cuts": (1,), "targets": ("server", "latency"), "bits": 4, "breaks": 2.0,
    }  # fmt: skip
    exempt: ClassVar[Mapping[str, str]] = {
        "never_answers_as_the_full_model": "where nobody is sure the surest of all exits answers, not the last.",
    }

    @property
    def codec(self) -> Quantised:
        """Few bits for each value, compressed."""
        return Quantised(self.bits)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Everything together, the early losses growing."""
        train_ramped(model, data, bench, C=self.shares, **self.options)

    def fit(self, prepared: Any) -> Profile:
        """The tables, from pictures that choose no knob."""
        return profiled(prepared.split("fitting"))

    def policy(self, knob: float, prepared: Any) -> Surest:
        """The knob is thr."""
        return Surest(knob)

    def world(self, split: Split, seed: int) -> World:
        """A device, a link that wanders and breaks, and a server that is busy now and then."""
        seeds = [seed, int(split == "test")]
        bandwidth = wandering(self.bandwidth, (0.25, 0.5, 1.0, 1.5, 2.0), stay=5.0, seconds=900.0, seed=[*seeds, 0])
        link = Link(broken(bandwidth, good=self.breaks, bad=3.0, seed=[*seeds, 1]), self.round_trip)
        server = wandering(self.server, (0.1, 0.3, 1.0), stay=10.0, seconds=900.0, seed=[*seeds, 2])
        return World((Computer(steady(self.device)), Computer(server)), (link,), self.power, self.patience, alone=True)

    @property
    def power(self) -> Power | None:
        """Watts of the device, which only a scheduler looks at that is to save energy."""
        return DEVICE if "energy" in self.targets else None

    @property
    def usual(self) -> Now:
        """Link and server by the settings, whatever becomes of them."""
        return Now(self.bandwidth, self.server)

    def came(self, samples: int) -> list[float]:
        """One picture after the other, at equal distances."""
        return [sample * PERIOD for sample in range(samples)]

    def scheduler(self, prepared: Prepared, world: World, knob: float | None, exit_: int = -1) -> Scheduler:
        """The scheduler with thr given; or for the network without early exits, cut off behind one."""
        known: Profile = prepared.fitted
        known = known.at(knob) if knob is not None else known.cut_off(exit_ % len(known.stages))
        return Scheduler(known, self.cuts, world, self.targets, {}, self.usual, exit_)
