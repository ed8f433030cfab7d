"""Learning-Based Edge-Device Collaborative DNN Inference in IoVT Networks (Edge-device DDPG inference).

Idea
    Several cameras share one server. For each of them three things are decided together, slot by slot: at which exit
    the network ends, where it is cut between camera and server, and how much of the server the camera gets. Channels,
    load and queues keep changing, so the decision is learned, by an actor-critic method for continuous actions, for a
    measure of inference performance that combines average latency and accuracy.

Model
    A network with exits e = 1 … E; c_l multiply-accumulates of its parts, d_l bits of their outputs, d_0 of the image,
    as they cross: few bits for each value, compressed. acc(s, e) is the accuracy of exit e behind the cut s, with the
    map that crosses there written and read so; s = e: nothing crosses.
    Device n computes f_n a second, and sends R_n = B log2(1 + g_n h_n), g_n its mean ratio of signal to noise and h_n
    the channel's gain, exponentially distributed (Rayleigh fading), anew in each slot. Of the server's F a share is
    free, which changes by a Markov chain, and device n has phi_n of it, sum_n phi_n <= 1.
    T_n = sum_{l<=s} c_l / f_n + d_s / R_n + sum_{s<l<=e} c_l / (phi_n free F),  and the last two only where it is cut
    before e. A device that has not finished when the next slot begins starts later by that time: L_n = W_n + T_n, W_n
    <- max(0, L_n - slot).  IPLA = mean_n [w acc(s_n, e_n) - (1 - w) L_n / T_max].

Training
    The network with all exits together, L = sum_e CE_e. Then DDPG in a simulated cell, with acc(s, e) of held-out
    images: the state holds R_n, W_n, the free share and w; the actor mu gives (u_e, u_s, u_phi)_n in [0, 1]; with
    e = max(1, ceil(u_e E)), s = cuts(e)[round(u_s (|cuts(e)| - 1))], and phi = u_phi by the sum over those that send.
    cuts(e) are 0, e, and those between but where a mean of two others computes as much on the device, sends no more
    and is no less accurate: one of these two is no worse.
    Critic: (Q(x, a) - r - gamma Q'(x', mu'(x')))^2; actor: -Q(x, mu(x)); slow copies Q' and mu'; noise on actions, and
    a replay memory. r is the IPLA of the slot. No images are used for that.

Exit rule
    The exit is chosen before inference, and only its head is run: no confidence is tested. The knob is w: at 0 accuracy
    does not count, and the first exit is taken; at 1 the last exit is taken. In between the agent chooses. It always
    chooses cut and share, at the ends with the nearest w that it was trained for.

Skipped
    The parts after the exit. The cost is the simulated time L_n, averaged over images; multiply-accumulates and bytes
    are the real ones of both sides. The full model is the last exit for all images, cut and served as the agent does at
    w = 1.

Deviations
    1. Only the abstract was read: it is known that exit, cut and share are decided together by DDPG for IPLA. State,
       reward, actions, fading, load and all constants are a reconstruction, and so is the queue.
    2. w is part of the state and redrawn every 20 slots, so that one agent covers all trade-offs; the paper has one. At
       w = 0 and w = 1 the exit is the one known to be best, whatever the actor outputs.
    3. In training, latencies are capped at twice T_max, in rewards and in what is left for the next slot, so that a
       rare bad channel does not dominate learning; a small penalty keeps the actor's logits out of the saturated range
       of the sigmoid. Of the actions 30 % are drawn at random, besides the noise on the others. Learning rates fall to
       0. T_max is the time of the whole network on the slowest device.
    4. A small residual network on cluttered Fashion-MNIST, exits at five shares of its cost, and three slow devices,
       instead of AlexNet on CIFAR-10 and ResNet-50 on ImageNet. What crosses is in 8 bits for each value, compressed:
       not known of the paper. With few channels at first and soon few places, a map takes half of the picture's bytes
       after 6 % of the cost and a third after 11 %, so cuts there can pay. Other shapes of the network were tried:
       maps are larger than the picture until late, or all exits answer alike; of six this one was taken, by what it
       sends and by the validation accuracy of its exits.
    5. The transfer of the answer back is part of d_s; no other times are modelled, and none is measured.
    6. The abstract says that accuracy is guaranteed, which may mean a constraint acc(e) >= A_min. Here there is none: w
       alone says what accuracy is worth, and the claims look at what it comes to.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.metrics import accuracy
from eelit.methods.engine.records import Baseline, OperatingPoint, Rate, Simulation
from eelit.methods.engine.weights import trained
from eelit.methods.families.images import ImageMethod
from eelit.methods.families.tiers import Plan, Prepared, StoredTiers, TierMethod
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.world.machines import BITS, Computer, Link
from eelit.methods.world.stream import Journey, Leg, Work, World
from eelit.methods.world.traces import steady
from eelit.methods.world.wire import Quantised

Array = NDArray[np.float64]
FREE = (1.0, 0.5, 0.1)
"""Shares of the server that may be free."""
STAY = 0.9
"""Chance that the free share is the same in the next slot."""
GAIN = 0.05
"""Least gain of a channel."""
WEIGHTS = (0.2, 0.95)
"""Between these lie the w with which the agent learns."""
EPISODE = 20
"""Slots after which w is drawn anew."""
LATE = 2.0
"""Most latency that a reward knows, in T_max."""
WIDTH, MINIBATCH, RANDOM = 64, 128, 0.3
"""Width of actor and critic, transitions of a step, and share of actions that are drawn at random."""
PULL = 1e-4
"""What the squares of the actor's logits weigh."""
MOMENTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
"""Shares of the training after which the actor is kept as it is then, so that one sees how it learns."""
TOLD = 30.0
"""Simulated seconds of the slots that are told, at most."""


class Known(NamedTuple):
    """What is known of the network."""

    stages: Array  # c_l, multiply-accumulates of each part, [E]
    heads: Array  # of each exit, the last one's with its part, [E]
    bits: Array  # d_0 … d_{E-1}: what crosses if the network is cut before each part, with the answer's way back, [E]
    accuracy: Array  # acc(s, e) of exit e behind the cut s, [E + 1, E]; that of the device alone where s is behind e

    @property
    def cuts(self) -> list[list[int]]:
        """Where to cut may pay, for each exit: at the ends, and wherever no two other cuts around stand for it.

        T_n is linear in what the device computes and in the bits that it sends: where a mean of two cuts computes as
        much, sends no more and is no less often right, one of the two is no worse, whatever channel and server are.
        """
        return [[s for s in range(e + 2) if not self._between(s, e)] for e in range(len(self.stages))]

    def _between(self, s: int, e: int) -> bool:
        here = np.concatenate([[0.0], np.cumsum(self.stages[: e + 1])])
        here[-1] += self.heads[e]  # whoever does all before the exit does its head, too
        bits = np.append(self.bits[: e + 1], 0.0)
        for a, b in ((a, b) for a in range(s) for b in range(s + 1, e + 2)):
            part = (here[b] - here[s]) / (here[b] - here[a])
            sent, right = (part * each[a] + (1 - part) * each[b] for each in (bits, self.accuracy[:, e]))
            if sent <= bits[s] and right >= self.accuracy[s, e]:
                return True
        return False


@dataclass(frozen=True)
class Cell:
    """The devices and their server."""

    speeds: tuple[float, ...]  # f_n, multiply-accumulates per second
    server: float  # F
    bandwidth: float  # B of each device, hertz
    signal: tuple[float, ...]  # g_n
    slot: float  # seconds

    def conditions(self, slots: int, seed: Sequence[int] | int) -> tuple[Array, Array]:
        """Return R_n ``[T, N]`` and the free share ``[T]`` of so many slots; the first of more slots are the same."""
        fading, load = np.random.default_rng(seed).spawn(2)
        h = np.maximum(fading.exponential(size=(slots, len(self.speeds))), GAIN)
        free, at = np.zeros(slots), int(load.integers(len(FREE)))
        for t in range(slots):
            if load.random() > STAY:
                at = int(load.integers(len(FREE)))
            free[t] = FREE[at]
        return self.bandwidth * np.log2(1 + np.array(self.signal) * h), free

    @property
    def usual(self) -> Array:
        """R_n ``[N]`` at a gain of 1."""
        return self.bandwidth * np.log2(1 + np.array(self.signal))


class Seen(NamedTuple):
    """What a slot begins with."""

    rates: Array  # R_n, [N]
    waiting: Array  # W_n, [N], seconds
    free: float
    w: float


class Decision(NamedTuple):
    """What is done in a slot, for each device ``[N]``."""

    exits: NDArray[np.int64]  # from 0
    cuts: NDArray[np.int64]  # s, parts on the device; exits + 1: all that there are up to the exit
    shares: Array  # phi, 0 for who sends nothing


class Controller(Protocol):
    """What decides."""

    def decide(self, seen: Seen) -> Decision:
        """Return what is done in a slot."""
        ...


def decision(u: Array, cuts: Sequence[Sequence[int]], forced: int | None = None) -> Decision:
    """Return what an action ``[N, 3]`` in [0, 1] means, by the cuts of each exit; perhaps with the exit given."""
    e = np.maximum(np.ceil(u[:, 0] * len(cuts)), 1).astype(np.int64) - 1
    if forced is not None:
        e[:] = forced
    where = zip((cuts[last] for last in e.tolist()), u[:, 1].tolist(), strict=True)
    s = np.array([each[round(part * (len(each) - 1))] for each, part in where])
    return Decision(e, s, shared(u[:, 2], s <= e))


def shared(wanted: Array, sends: NDArray[np.bool_]) -> Array:
    """Return the server's shares of those that send, by what each wants; equal ones where nobody wants any."""
    asked = np.maximum(wanted, 1e-3) * sends
    found: Array = asked / max(float(asked.sum()), 1e-9)
    return found


def seconds(known: Known, cell: Cell, seen: Seen, chosen: Decision) -> Array:
    """Return T_n."""
    before = np.concatenate([[0.0], np.cumsum(known.stages)])
    e, s, phi = chosen
    sends = s <= e
    here = before[s] + known.heads[e] * ~sends
    there = before[e + 1] - before[s] + known.heads[e] * sends
    serving = there / np.maximum(phi * seen.free * cell.server, 1e-9)
    crossing = known.bits[np.minimum(s, len(known.bits) - 1)] / seen.rates
    found: Array = here / np.array(cell.speeds) + np.where(sends, crossing + serving, 0.0)
    return found


def longest(known: Known, cell: Cell) -> float:
    """Return T_max."""
    return float(known.stages.sum()) / min(cell.speeds)


def ipla(known: Known, cell: Cell, w: float, chosen: Decision, latency: Array) -> float:
    """Return IPLA of what is done in a slot, with latencies ``[N]``."""
    right = known.accuracy[chosen.cuts, chosen.exits]
    return float((w * right - (1 - w) * latency / longest(known, cell)).mean())


def rewarded(known: Known, cell: Cell, seen: Seen, chosen: Decision) -> tuple[float, Array]:
    """Return r of a slot, and W_n after it; latencies are capped in both."""
    latency = np.minimum(seen.waiting + seconds(known, cell, seen, chosen), LATE * longest(known, cell))
    return ipla(known, cell, seen.w, chosen, latency), np.maximum(0.0, latency - cell.slot)


def observed(seen: Seen, cell: Cell, most: float) -> NDArray[np.float32]:
    """Return the state as actor and critic read it, ``[2 N + 2]``; the free share and w in deviations from the mean."""
    low, high = WEIGHTS
    free, w = (seen.free - np.mean(FREE)) / np.std(FREE), (seen.w - (low + high) / 2) / ((high - low) / math.sqrt(12))
    return np.concatenate([np.log2(seen.rates / cell.usual), seen.waiting / most, [free, w]]).astype(np.float32)


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Return an actor's or critic's network, before its last function."""
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs)
    )


class Ddpg:
    """Actor and critic with their slow copies, and the memory of transitions."""

    def __init__(self, actor: nn.Sequential, size: int, *, discount: float, soft: float, rate: float) -> None:
        self.actor, self.discount, self.soft, self.rate = actor, discount, soft, rate
        states, actions = actor[0].in_features, actor[-1].out_features
        assert isinstance(states, int)
        assert isinstance(actions, int)
        self.critic = network(states + actions, 1)
        self.slow_actor, self.slow_critic = copy.deepcopy(actor), copy.deepcopy(self.critic)
        self.steps = [torch.optim.Adam(part.parameters(), rate, fused=True) for part in (self.critic, actor)]
        self.x, self.x_next = torch.zeros(size, states), torch.zeros(size, states)
        self.a, self.r, self.count = torch.zeros(size, actions), torch.zeros(size), 0

    def keep(self, x: Tensor, a: Tensor, r: float, x_next: Tensor) -> None:
        """Remember a transition."""
        i = self.count
        self.x[i], self.a[i], self.r[i], self.x_next[i] = x, a, r, x_next
        self.count += 1

    def aim(self, r: Tensor, x_next: Tensor) -> Tensor:
        """Return y = r + gamma Q'(x', mu'(x'))."""
        with torch.no_grad():
            return r + self.discount * self.value(self.slow_critic, x_next, self.slow_actor(x_next).sigmoid())

    @staticmethod
    def value(critic: nn.Module, x: Tensor, a: Tensor) -> Tensor:
        """Return Q(x, a), ``[n]``."""
        found: Tensor = critic(torch.cat([x, a], dim=1))
        return found[:, 0]

    def _regret(self, x: Tensor) -> Tensor:
        """Return -Q(x, mu(x)), with a pull on the actor's logits."""
        logits = self.actor(x)
        return PULL * (logits**2).mean() - self.value(self.critic, x, logits.sigmoid()).mean()

    def learn(self, index: Tensor, left: float = 1.0) -> None:
        """Make a step of critic and actor on some transitions, at a share of the rate, and let the copies follow."""
        x, a = self.x[index], self.a[index]
        y = self.aim(self.r[index], self.x_next[index])
        for step, loss in zip(
            self.steps,
            (
                lambda: F.mse_loss(self.value(self.critic, x, a), y),
                lambda: self._regret(x),
            ),
            strict=True,
        ):
            step.zero_grad(set_to_none=True)
            step.param_groups[0]["lr"] = left * self.rate
            loss().backward()
            step.step()
        pairs = (self.critic, self.slow_critic), (self.actor, self.slow_actor)
        with torch.no_grad():
            for quick, slow in pairs:
                for p, q in zip(quick.parameters(), slow.parameters(), strict=True):
                    q.lerp_(p, self.soft)


def keep_earlier(due: list[tuple[int, nn.Sequential]], t: float, actor: nn.Sequential) -> None:
    """Let networks whose slot has come be what the actor is, and take them off the list."""
    while due and t >= due[0][0]:
        due.pop(0)[1].load_state_dict(actor.state_dict())


def train_agent(
    actor: nn.Sequential,
    known: Known,
    cell: Cell,
    bench: Bench,
    *,
    slots: int,
    noise: float,
    earlier: Sequence[nn.Sequential] = (),
    **options: float,
) -> None:
    """Train the actor in place in a simulated cell; networks ``earlier`` become what it is at `MOMENTS`, or the end."""
    devices, most = len(cell.speeds), longest(known, cell)
    moments, cuts = [round(share * slots) for share in MOMENTS], known.cuts

    def train() -> None:
        torch.manual_seed(bench.seed)
        random = np.random.default_rng([bench.seed, 2])
        agent = Ddpg(actor, slots, **options)
        rates, free = cell.conditions(slots + 1, [bench.seed, 3])
        w, waiting, due = float(random.uniform(*WEIGHTS)), np.zeros(devices), list(zip(moments, earlier, strict=False))
        for t in range(int(min(slots, bench.most_steps))):
            keep_earlier(due, t, actor)
            seen = Seen(rates[t], waiting, float(free[t]), w)
            x = torch.from_numpy(observed(seen, cell, most))
            a = actor(x).detach().sigmoid().numpy()
            a = np.clip(a + random.normal(0, noise, a.shape), 0, 1)
            if random.random() < RANDOM:
                a = random.uniform(size=a.shape)
            r, waiting = rewarded(known, cell, seen, decision(a.reshape(devices, 3), cuts))
            if (t + 1) % EPISODE == 0:
                w = float(random.uniform(*WEIGHTS))
            after = observed(Seen(rates[t + 1], waiting, float(free[t + 1]), w), cell, most)
            agent.keep(x, torch.from_numpy(a.astype(np.float32)), r, torch.from_numpy(after))
            agent.learn(torch.from_numpy(random.integers(0, agent.count, MINIBATCH)), 1 - t / slots)
            bench.progress("training the agent", t / slots)
            bench.steps += 1
        keep_earlier(due, math.inf, actor)

    settings = {"slots": slots, "noise": noise, "known": [part.tolist() for part in known], **options}
    trained(nn.ModuleList([actor, *earlier]), train, bench, data="", settings={**settings, "cell": repr(cell)})


@dataclass(frozen=True)
class Agent:
    """The actor as a controller, with the exit perhaps given."""

    actor: nn.Sequential
    cell: Cell
    known: Known
    forced: int | None = None

    @cached_property
    def cuts(self) -> list[list[int]]:
        """Where each exit may be cut."""
        return self.known.cuts

    @torch.inference_mode()
    def decide(self, seen: Seen) -> Decision:
        """Return what the actor says, without noise."""
        seen = seen._replace(w=min(max(seen.w, WEIGHTS[0]), WEIGHTS[1]))
        x = torch.from_numpy(observed(seen, self.cell, longest(self.known, self.cell)))
        u = self.actor(x).sigmoid().double().numpy().reshape(len(self.cell.speeds), 3)
        return decision(u, self.cuts, self.forced)


@dataclass(frozen=True)
class Always:
    """The same in each slot: an exit and a cut for each device, and what it wants of the server; equal if not told."""

    exits: tuple[int, ...]
    cuts: tuple[int, ...]
    wanted: tuple[float, ...] = ()

    def decide(self, seen: Seen) -> Decision:
        """Return it."""
        e, s = np.array(self.exits), np.array(self.cuts)
        return Decision(e, s, shared(np.array(self.wanted or np.ones(len(e))), s <= e))


class Fitted(NamedTuple):
    """What is known of the network, and the actor's weights."""

    known: Known
    weights: tuple[Any, ...]  # for comparing
    actor: nn.Sequential
    earlier: tuple[nn.Sequential, ...]  # the actor at each of `MOMENTS`


@dataclass
class Slots:
    """The slots of a part of the data, one after the other: picture t N + n is what device n sees in slot t."""

    cell: Cell
    rates: Array
    free: Array
    controller: Controller
    w: float
    waiting: Array = field(init=False)

    def run(self, work: Work, samples: int) -> list[Journey]:
        """Return what becomes of samples 0, 1, …, as their parts are looked up, or really done."""
        devices, found = len(self.cell.speeds), list[Journey]()
        self.waiting = np.zeros(devices)
        for t in range(math.ceil(samples / devices)):
            seen = Seen(self.rates[t], self.waiting, float(self.free[t]), self.w)
            chosen = self.controller.decide(seen)
            for n, sample in enumerate(range(t * devices, min((t + 1) * devices, samples))):
                plan = Plan((int(chosen.cuts[n]),), None, int(chosen.exits[n]))
                legs = list(work.legs(sample, plan))
                found.append(self._journey(t, n, plan, legs, float(chosen.shares[n])))
            latency = np.array([j.answered - j.came for j in found[t * devices :]])
            self.waiting = np.maximum(0.0, latency - self.cell.slot)
        return found

    def _journey(self, t: int, n: int, plan: Plan, legs: Sequence[Leg], phi: float) -> Journey:
        came = t * self.cell.slot
        journey = Journey(came, plan=plan, begun=came + float(self.waiting[n]), exit=plan.exit)
        journey.macs = [leg.macs for leg in legs]
        journey.computing = legs[0].macs / self.cell.speeds[n]
        journey.answered = journey.begun + journey.computing
        if len(legs) > 1:
            journey.sent, journey.returned = [legs[0].size], [legs[1].size]
            journey.sending = BITS * (legs[0].size + legs[1].size) / float(self.rates[t, n])
            journey.answered += journey.sending + legs[1].macs / (phi * float(self.free[t]) * self.cell.server)
        return journey


@dataclass(frozen=True)
class IovtDdpg(ImageMethod, TierMethod):
    """Exit, cut and share of the server for several devices, decided by an agent."""

    network: str = "resnet"  # the paper: AlexNet, ResNet-50
    images: str = "cluttered"  # data; the paper: CIFAR-10, ImageNet
    train_size: int = 12000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (8, 16, 32, 256)  # channels of each resolution
    blocks: int = 2  # residual blocks of each width
    shares: tuple[float, ...] = (0.03, 0.05, 0.08, 0.14, 0.45)  # of the cost, where exits stand
    half: bool = True  # whether the network learns with products in bfloat16
    epochs: float = 3.0  # passes that train the network with its exits
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate
    bits: int = 8  # of a value that crosses; assumed
    slots: int = 12000  # simulated slots from which the agent learns; assumed
    discount: float = 0.2  # gamma, as queues are short; assumed
    soft: float = 0.005  # how fast the slow copies follow; assumed
    noise: float = 0.2  # standard deviation of the noise on actions; assumed
    agent_rate: float = 1e-3  # learning rate of actor and critic, which falls to 0; assumed
    speeds: tuple[float, ...] = (3e6, 3e6, 3e6)  # f_n, multiply-accumulates per second; assumed
    server: float = 1e10  # F; assumed
    bandwidth: float = 2.5e4  # B, hertz; assumed
    signal: tuple[float, ...] = (3.0, 3.0, 3.0)  # g_n; assumed
    slot: float = 0.7  # seconds, a quarter of what a device takes for the whole network; assumed

    fits_on: ClassVar[float] = 0.5  # of the validation data, for acc(s, e)
    knob: ClassVar[str] = "w"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    full: ClassVar[Mapping[str, Any]] = {  # the network of the track
        "widths": (128, 256), "blocks": 3, "shares": (0.2, 0.35, 0.5, 0.65, 0.8), "epochs": 2.0,
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.tiny, "slots": 800, "speeds": (6e5, 8e5, 1.2e6), "server": 4e6, "bandwidth": 5e5,
        "signal": (10.0, 30.0, 100.0), "slot": 0.25, "soft": 0.02,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.smoke, "slots": 2000, "speeds": (8e6, 1.2e7, 2e7), "server": 1e8, "soft": 0.01,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.others, "speeds": (5e5, 8e5, 1.2e6), "signal": (5.0, 30.0, 100.0), "bits": 3,
    }  # fmt: skip
    exempt: ClassVar[Mapping[str, str]] = {
        "cost_is_monotone": "what the agent has learnt need not take longer wherever accuracy weighs more"
    }

    def __post_init__(self) -> None:
        if len(self.speeds) != len(self.signal):
            raise ValueError(f"each device has its speed and its signal, not {len(self.speeds)} and {len(self.signal)}")

    @property
    def codec(self) -> Quantised:
        """Few bits for each value, compressed."""
        return Quantised(self.bits)

    @property
    def cell(self) -> Cell:
        """The devices and their server."""
        return Cell(self.speeds, self.server, self.bandwidth, self.signal, self.slot)

    def fit(self, prepared: Any) -> Fitted:
        """The tables, from pictures that choose no knob; and the agent, from none."""
        known = tabled(prepared.split("fitting"), self.score)
        actor, earlier = self.learnt(known, self.cell, prepared.bench)
        weights = tuple(p.detach().flatten()[:3].tolist() for p in actor.parameters())
        return Fitted(known, weights, actor, earlier)

    def learnt(self, known: Known, cell: Cell, bench: Bench) -> tuple[nn.Sequential, tuple[nn.Sequential, ...]]:
        """Return an actor that has learnt in a cell, and what it was at each of `MOMENTS`."""
        torch.manual_seed(bench.seed)
        devices = len(cell.speeds)
        actor = network(2 * devices + 2, 3 * devices)
        earlier = tuple(copy.deepcopy(actor).eval() for _ in MOMENTS)
        train_agent(
            actor, known, cell, bench, slots=self.slots, noise=self.noise, earlier=earlier,
            discount=self.discount, soft=self.soft, rate=self.agent_rate,
        )  # fmt: skip
        return actor.eval(), earlier

    def policy(self, knob: float, prepared: Any) -> MaxConfidence:
        """No exit asks how sure it is; to whoever looks at exits by themselves this is the usual rule."""
        return MaxConfidence(knob)

    def world(self, split: Split, seed: int) -> World:
        """The first device and the server by themselves, for tables and parts; samples go through `slots_of`."""
        machines = Computer(steady(self.speeds[0])), Computer(steady(self.server))
        return World(machines, (Link(steady(float(self.cell.usual[0])), 0.0),))

    def came(self, samples: int) -> list[float]:
        """One picture of each device in a slot."""
        return [sample // len(self.speeds) * self.slot for sample in range(samples)]

    def scheduler(self, prepared: Prepared, world: World, knob: float | None, exit_: int = -1) -> Any:
        """The agent; at the ends of the knob, and without exits, with the exit given."""
        fitted: Fitted = prepared.fitted
        last = len(fitted.known.stages) - 1
        forced = exit_ % (last + 1) if knob is None else {0.0: 0, 1.0: last}.get(knob)
        return Agent(fitted.actor, self.cell, fitted.known, forced)

    def slots_of(self, split: Split, seed: int, samples: int, controller: Controller, w: float) -> Slots:
        """Return the slots of a part of the data under a controller."""
        count = math.ceil(samples / len(self.speeds))
        return Slots(self.cell, *self.cell.conditions(count, [seed, split == "test"]), controller, w)

    def simulated(
        self, prepared: Prepared, split: Split, knob: float | None, exit_: int = -1, *, only: Any = None
    ) -> list[Journey]:
        """Return what becomes of the pictures of a split under the agent, or under another controller."""
        seen = prepared.split(split)
        chosen = only or self.scheduler(prepared.for_choosing, self.world(split, 0), knob, exit_)
        w, count = 1.0 if knob is None else knob, len(seen.examples)
        return self.slots_of(split, prepared.bench.seed, count, chosen, w).run(seen, count)

    def alone(self, prepared: Prepared, split: Split, machine: int) -> OperatingPoint:
        """Return the plain network as a whole on the devices, or on the server in equal shares."""
        last, devices = prepared.model.exits - 1, len(self.speeds)
        everywhere = Always((last,) * devices, (0 if machine else last + 1,) * devices)
        journeys = self.simulated(prepared, split, 1.0, only=everywhere)
        return self.point(prepared, split, journeys, machine + 1)

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return each exit by itself under the agent, and the plain network on the devices, and on the server."""
        ends = {"all on the devices": 0, "all on the server": 1}
        return [self.static_exit(prepared), *(self.whole(prepared, name, machine) for name, machine in ends.items())]

    def alike(
        self, prepared: Prepared, bench: Bench, knob: float, exact: StoredTiers, work: Work
    ) -> tuple[list[Journey], list[Journey]]:
        """Return the journeys under the agent by the tables, and those really done, in the same slots."""
        agent, samples = self.scheduler(prepared.for_choosing, self.world("test", 0), knob), len(exact.examples)
        slots = self.slots_of("test", bench.seed, samples, agent, knob)
        return slots.run(exact, samples), slots.run(work, samples)

    def simulation(self, prepared: Prepared, bench: Bench) -> Simulation:
        """Return the slots that test pictures go through: each device's channel, and the server's free share."""
        count = math.ceil(len(prepared.split("test").examples) / len(self.speeds))
        shown = min(count, math.ceil(TOLD / self.slot))
        rates, free = self.cell.conditions(shown, [bench.seed, True])
        times = [t * self.slot for t in range(shown)]
        parts = [(f"device {n + 1}, channel", "Mbit/s", rates[:, n] / 1e6) for n in range(len(self.speeds))]
        return Simulation(
            seconds=shown * self.slot,
            rates=[
                Rate(part=part, unit=unit, times=times, rates=values.tolist())
                for part, unit, values in (*parts, ("server, free share", "of its speed", free))
            ],
            constants=[
                *(f"device {n + 1}, speed: {speed / 1e9:.4g} billion MACs/s" for n, speed in enumerate(self.speeds)),
                f"server, speed when all of it is free: {self.server / 1e9:.4g} billion MACs/s",
                f"a slot: {1000 * self.slot:.4g} ms, in which each device has one picture",
            ],
        )


def tabled(seen: StoredTiers, score: Any = accuracy) -> Known:
    """Make the tables from held-out pictures that all exits have seen, and whose maps crossed at each cut."""
    exits = len(seen.costs)
    legs = [seen.course(Plan((s,), None, -1)).legs for s in range(exits)]
    bits = [BITS * mean(first.size + second.size for first, second in each) for each in legs]
    behind = [seen.read(seen.crossed((s,))[0]) for s in range(exits + 1)]
    right = [[score(answers, seen.targets) for answers in each] for each in behind]
    return Known(seen.stages.mean(axis=1), seen.heads.mean(axis=1), np.array(bits), np.array(right))


def mean_ipla(most: float, w: float, journeys: Sequence[Journey], right: Sequence[bool]) -> float:
    """Return the IPLA of all slots, by whether each picture was answered rightly; ``most`` is T_max."""
    latency = mean(journey.answered - journey.came for journey in journeys)
    return w * mean(right) - (1 - w) * latency / most
