"""When Edge Meets Learning (adaptive control of local steps).

Idea
    Machines at the edge of a network hold data that must not leave them, and train one model together: each takes tau
    gradient steps on its own loss, then a server averages their parameters. Averaging costs time; if it is rare the
    machines drift apart, especially if their data differ. A bound on the loss reached within a budget of resources,
    computed from quantities measured during training, determines after each round which tau is best. This is not a work
    on early exit: what ends early is a training run.

Model
    A linear classifier with a smooth hinge (a squared support vector machine), y = +1 for even classes, -1 for odd:
    F_i(w) = lam/2 |w|² + 1/(2 D_i) sum_j max(0, 1 - y_j w·x_j)²;   F(w) = sum_i D_i F_i(w) / D.

Training
    From w = 0, in rounds: every node does tau steps w_i <- w_i - eta grad F_i(w_i) from the common w; then
    w <- sum_i D_i w_i / D. What is returned is the common w of least F(w), which the nodes tell one round later.
    Each node compares its own w_i at the end of the last round with the common w:
        rho_i = |F_i(w_i) - F_i(w)| / |w_i - w|;   beta_i = |grad F_i(w_i) - grad F_i(w)| / |w_i - w|;
        delta_i = |grad F_i(w) - grad F(w)|;       rho, beta, delta: means with the weights D_i / D.
    With the seconds c of a local step and b of an averaging, R of the whole training, and T the steps that fit:
        h(tau) = (delta/beta) ((eta beta + 1)^tau - 1) - eta delta tau
        T(tau) = (R - c - b) tau / (c tau + b)      (c + b: the last w has still to be judged)
        G(tau) = (1 + sqrt(1 + 4 T² phi rho eta h(tau)/tau)) / (2 T eta phi) + rho h(tau)
        tau  <- argmin G over 1 … 10 tau, at most tau_max.
    It begins with tau = 1. If the next round and the steps after it do not fit, tau is reduced to what fits; that round
    is the last, and only its w is then evaluated.

Exit rule
    None. The knob is the budget R; training stops when it is spent.

Skipped
    Averaging rounds, with their messages and waiting times. No computation on an input is skipped.

Measured apart
    The task differs from that of the tracks: budgets of training are compared, not exits of a network.

Deviations
    1. G is that of the extended version of the paper (IEEE JSAC 37, 2019) as its released code computes it; that of the
       conference paper could not be read.
    2. Fashion-MNIST, even classes (tops, bag) against odd ones, instead of MNIST's even and odd digits. Steps are
       deterministic, on 1,000 images in all as in the paper's deterministic runs; it has stochastic steps, linear
       regression, K-means and a CNN too.
    3. Seconds are simulated: c and b follow from counted multiply-accumulates and from messages really serialised, at
       rates that vary over time (`methods/world`). The mean rates are such that c and b are about what the paper
       measured.
    4. Beside the paper's ways to place data (1: at random, 2: by label, 3: all everywhere, 4: half of the nodes by
       label) a Dirichlet partition, the usual one today, which is the main variant.
    5. As rates vary, a round may take longer than forecast: one that ends after R is lost, and counts as spent.
    6. c and b are those of the round that ended; the released code takes the round before it. Evaluating the last w is
       forecast as one step and one averaging, as there; it takes less. If not one more step fits, it is evaluated at
       once; the released code takes a step nevertheless, and exceeds the budget.
    7. The bytes of all messages are counted too. They are told beside the losses; the budget is one of seconds alone.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from eelit.methods.engine import chance, tasks
from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.records import Baseline, Chance, Execution, OperatingPoint, Rate, Simulation
from eelit.methods.policies.base import checked
from eelit.methods.recipes.federated import Ask, Traffic, Update, averaged, divided, exchange, skewed
from eelit.methods.world.machines import Computer, Link
from eelit.methods.world.traces import wandering
from eelit.methods.world.wire import Whole

TINY_STEP, TINY_BETA = 1e-10, 1e-5
"""Distance below which nothing is estimated from two points, and the least beta, as in the released code."""
RESTLESS = (0.5, 0.75, 1.0, 1.25, 1.5)
"""Steps of the chain by which rates wander, in means."""
STAY, SPAN = 1.0, 600.0
"""Seconds for which a rate stays on average, and after which its trace begins anew."""
FIXED = (1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100)
"""The fixed numbers of local steps that the paper compares with."""


def loss_and_gradient(w: Tensor, x: Tensor, y: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Return F_i(w) and its gradient ``[d]`` on images ``[n, d]`` with signs ``[n]``."""
    missing = (1 - y * (x @ w)).clamp(min=0)
    return lam / 2 * (w * w).sum() + (missing * missing).mean() / 2, lam * w - x.T @ (y * missing) / len(y)


def loss_alone(w: Tensor, x: Tensor, y: Tensor, lam: float) -> Tensor:
    """Return F_i(w) for half of the work."""
    return lam / 2 * (w * w).sum() + (1 - y * (x @ w)).clamp(min=0).square().mean() / 2


def h(tau: int, beta: float, delta: float, eta: float) -> float:
    """Return by how far tau local steps may lead away from as many of the whole."""
    return max(0.0, delta / beta * ((eta * beta + 1) ** tau - 1) - eta * delta * tau)


@dataclass(frozen=True)
class Known:
    """What the bound is made of."""

    rho: float
    beta: float
    delta: float
    c: float  # seconds of a local step
    b: float  # seconds of an averaging


def bound(tau: int, known: Known, eta: float, phi: float, budget: float) -> float:
    """Return G(tau); infinite where the budget allows no step, or numbers are too large."""
    steps = (budget - known.c - known.b) * tau / (known.c * tau + known.b)
    if steps <= 0:
        return math.inf
    try:
        apart = h(tau, known.beta, known.delta, eta)
        root = math.sqrt(1 + 4 * steps**2 * phi * known.rho * eta * apart / tau)
    except OverflowError:
        return math.inf
    return (1 + root) / (2 * steps * eta * phi) + known.rho * apart


@dataclass(frozen=True)
class Told:
    """What one node tells after a round, or (``w`` as it was) when it is only asked for its loss."""

    w: Tensor  # [d], its own parameters after tau steps
    loss: float  # F_i of the common w
    rho: float = math.nan  # of the last round and the common w; NaN: not known
    beta: float = math.nan
    gradient: Tensor | None = None  # [d], grad F_i of the common w; None if nobody estimates


class Node:
    """One machine at the edge; only messages leave it."""

    def __init__(self, x: Tensor, y: Tensor, lam: float, eta: float, *, watched: bool) -> None:
        self.x, self.y, self.lam, self.eta, self.watched = x, y, lam, eta, watched
        self.last: tuple[Tensor, Tensor, Tensor] | None = None  # w_i, F_i(w_i) and its gradient after the last round

    def work(self, common: Tensor, steps: int) -> Told:
        """Take so many steps from the common parameters; none: tell their loss alone."""
        if not steps:
            return Told(common, float(loss_alone(common, self.x, self.y, self.lam)))
        loss, first = loss_and_gradient(common, self.x, self.y, self.lam)
        w = common - self.eta * first
        for _ in range(steps - 1):
            w = w - self.eta * loss_and_gradient(w, self.x, self.y, self.lam)[1]
        if not self.watched:
            return Told(w, float(loss))
        rho, beta = self.estimates(common, loss, first)
        self.last = (w, *loss_and_gradient(w, self.x, self.y, self.lam))
        return Told(w, float(loss), rho, beta, first)

    def estimates(self, common: Tensor, loss: Tensor, gradient: Tensor) -> tuple[float, float]:
        """Return rho_i and beta_i from the common parameters and those of its own last round; NaN before there are."""
        if self.last is None:
            return math.nan, math.nan
        w, own, slope = self.last
        far = float((w - common).norm())
        if not far > TINY_STEP:
            return 0.0, TINY_BETA
        return float((own - loss).abs()) / far, max(TINY_BETA, float((slope - gradient).norm()) / far)

    def macs(self, steps: int) -> int:
        """Return the multiply-accumulates of `work`: a step reads all images twice, a loss alone once."""
        return self.x.numel() * (2 * (steps + self.watched) if steps else 1)

    def handle(self, message: bytes) -> bytes:
        """Answer a message ``{"w", "steps"}``."""
        asked = Whole().unpack(message)
        return Whole().pack(packed(self.work(asked["w"], steps := int(asked["steps"])), steps))


def packed(told: Told, steps: int) -> dict[str, Tensor]:
    """Return what crosses of what a node tells."""
    found = {"numbers": torch.tensor([told.loss, told.rho, told.beta], dtype=torch.float64)}
    return found | ({"w": told.w} if steps else {}) | ({} if told.gradient is None else {"gradient": told.gradient})


@dataclass(frozen=True)
class Answer:
    """What a node told, and what that took."""

    told: Told
    macs: int
    down: int  # bytes of the message to it
    up: int  # bytes of its answer


class Crowd(Protocol):
    """All nodes, wherever they are."""

    def ask(self, common: Tensor, steps: int) -> list[Answer]:
        """Let every node work."""
        ...


class Here(Crowd):
    """Nodes in this process, asked without messages; what these would measure follows from their shapes."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self._sizes: dict[tuple[str, ...], int] = {}  # names in a message → its bytes, which follow from shapes alone

    def ask(self, common: Tensor, steps: int) -> list[Answer]:
        """Let every node work."""
        told, down = [node.work(common, steps) for node in self.nodes], self._size(asking(common, steps))
        return [
            Answer(each, node.macs(steps), down, self._size(packed(each, steps)))
            for node, each in zip(self.nodes, told, strict=True)
        ]

    def _size(self, message: dict[str, Tensor]) -> int:
        names = tuple(message)
        if names not in self._sizes:
            self._sizes[names] = len(Whole().pack(message))
        return self._sizes[names]


class Apart(Crowd):
    """Nodes that are reached by messages alone; ``macs`` say what each computes if that is done elsewhere."""

    def __init__(self, asks: Sequence[Ask], macs: Sequence[Any] | None = None) -> None:
        self.asks, self.known, self.traffic = asks, macs, Traffic()

    def ask(self, common: Tensor, steps: int) -> list[Answer]:
        """Send each node its message, and count the bytes, and in this process what is computed."""
        found = []
        for k, ask in enumerate(self.asks):
            with MacCounter() as counter:
                (reply,) = exchange([ask], [asking(common, steps)], self.traffic)
            loss, rho, beta = reply["numbers"].tolist()
            told = Told(reply.get("w", common), loss, rho, beta, reply.get("gradient"))
            macs = counter.macs if self.known is None else self.known[k](steps)
            found.append(Answer(told, macs, self.traffic.down[-1], self.traffic.up[-1]))
        return found


def asking(common: Tensor, steps: int) -> dict[str, Tensor]:
    """Return the message to a node."""
    return {"w": common, "steps": torch.tensor(steps)}


@dataclass(frozen=True)
class Edge:
    """The machines and their links to the server; a round ends when the last answer is there."""

    computers: tuple[Computer, ...]
    links: tuple[Link, ...]

    def round(self, start: float, answers: Sequence[Answer], share: float) -> tuple[float, float]:
        """Return the seconds of the slowest node's local steps, a ``share`` of its work, and when the round ends."""
        slowest, end = 0.0, start
        for computer, link, answer in zip(self.computers, self.links, answers, strict=True):
            there = link.sent(start, answer.down) + link.travel
            slowest = max(slowest, computer.finish(there, share * answer.macs) - there)
            back = link.sent(computer.finish(there, answer.macs), answer.up) + link.travel
            end = max(end, back)
        return slowest, end


class Control(Protocol):
    """What says how many local steps come next."""

    watched: ClassVar[bool]  # whether nodes have to estimate

    def next(self, tau: int, told: Sequence[Told], sizes: Sequence[int], c: float, b: float) -> int:
        """Return the next tau, from the last one, what nodes told, and seconds of a step and of an averaging."""
        ...


@dataclass
class Fixed(Control):
    """Always the same."""

    tau: int
    watched: ClassVar[bool] = False

    def next(self, tau: int, told: Sequence[Told], sizes: Sequence[int], c: float, b: float) -> int:
        """Return it."""
        return self.tau


@dataclass
class Adaptive(Control):
    """The paper's control."""

    eta: float
    phi: float
    budget: float
    tau_max: int
    reach: int
    keep: float
    tau: ClassVar[int] = 1
    watched: ClassVar[bool] = True
    smooth: dict[str, float] = field(default_factory=dict)  # moving averages of rho, beta and delta

    def next(self, tau: int, told: Sequence[Told], sizes: Sequence[int], c: float, b: float) -> int:
        """Return the argmin of G; the same tau until the first estimates are there."""
        found = estimated(told, sizes)
        for name, value in found.items():
            if math.isfinite(value):
                before = self.smooth.get(name, value)
                self.smooth[name] = self.keep * before + (1 - self.keep) * value
        if len(self.smooth) < len(found) or math.isnan(found["beta"]):
            return tau
        known = Known(**self.smooth, c=c, b=b)
        values = [bound(each, known, self.eta, self.phi, self.budget) for each in range(1, self.reach * tau + 1)]
        return min(1 + values.index(min(values)), self.tau_max)


def estimated(told: Sequence[Told], sizes: Sequence[int]) -> dict[str, float]:
    """Return rho, beta and delta of all nodes, weighted by the sizes of their data."""
    slopes = [each.gradient for each in told if each.gradient is not None]
    whole = sum(n * slope for n, slope in zip(sizes, slopes, strict=True)) / sum(sizes)
    apart = [float((slope - whole).norm()) for slope in slopes]
    parts = {"rho": [each.rho for each in told], "beta": [each.beta for each in told], "delta": apart}
    return {name: weighted(values, sizes) for name, values in parts.items()}


def weighted(values: Sequence[float], sizes: Sequence[int]) -> float:
    """Return the mean with sizes as weights."""
    return sum(n * value for n, value in zip(sizes, values, strict=True)) / sum(sizes)


@dataclass
class Run:
    """One training: what it returns, and how it went."""

    w: Tensor  # [d], the common parameters of least loss
    loss: float = math.inf  # F of them, as nodes told it
    spent: float = 0.0  # seconds
    taus: list[int] = field(default_factory=list)  # of each round that was in time
    costs: list[tuple[float, float]] = field(default_factory=list)  # c and b of each
    traffic: Traffic = field(default_factory=Traffic)  # bytes of all messages, of what came too late as well

    def asked(self, crowd: Crowd, w: Tensor, steps: int) -> list[Answer]:
        """Let every node work, and note the bytes that cross."""
        answers = crowd.ask(w, steps)
        self.traffic.down += [answer.down for answer in answers]
        self.traffic.up += [answer.up for answer in answers]
        return answers

    @property
    def learnt(self) -> bool:
        """Whether there is a model: the loss of some common parameters became known in time."""
        return math.isfinite(self.loss)

    def judged(self, w: Tensor, loss: float) -> None:
        """Keep the parameters if their loss is the least so far; one that is not finite never is."""
        if loss < self.loss:
            self.w, self.loss = w, loss


def federate(crowd: Crowd, sizes: Sequence[int], w: Tensor, edge: Any, budget: float, control: Any) -> Run:
    """Train within the budget, from parameters ``w``; ``control`` says after each round how many steps come next."""
    run, tau, last = Run(w), control.tau, False
    while True:
        answers = run.asked(crowd, w, tau)
        told, watched = [answer.told for answer in answers], control.watched
        local, end = edge.round(run.spent, answers, tau / (tau + watched))
        if end > budget:
            run.spent = budget
            return run
        run.judged(w, weighted([each.loss for each in told], sizes))
        new = averaged({"w": w}, [Update(n, {"w": each.w}) for n, each in zip(sizes, told, strict=True)])["w"]
        c, b = local / tau, end - run.spent - local
        run.taus.append(tau)
        run.costs.append((c, b))
        run.spent = end
        sound = bool(torch.isfinite(new).all())
        w = new if sound else w
        if last:
            return ended(run, crowd, sizes, w, edge, budget)
        tau = control.next(tau, told, sizes, c, b) if sound else 1
        if run.spent + c * (tau + 1) + 2 * b >= budget:
            tau, last = min(tau, int((budget - run.spent - 2 * b - c) / c)), True
            if tau < 1:
                return ended(run, crowd, sizes, w, edge, budget)


def ended(run: Run, crowd: Crowd, sizes: Sequence[int], w: Tensor, edge: Any, budget: float) -> Run:
    """Return the run after the last parameters are judged, if there is time for it."""
    answers = run.asked(crowd, w, 0)
    _, end = edge.round(run.spent, answers, 1.0)
    if end <= budget:
        run.judged(w, weighted([answer.told.loss for answer in answers], sizes))
    run.spent = min(end, budget)
    return run


def placed(labels: Tensor, nodes: int, placement: str, alpha: float, seed: int) -> list[Tensor]:
    """Return the numbers of the images of each node. Raises `ValueError` for an unknown placement."""
    every, classes = torch.arange(len(labels)), int(labels.max()) + 1
    if placement == "dirichlet":
        return divided(labels, skewed(classes, nodes, alpha, seed), seed)
    if placement == "uniform":
        owner = every % nodes
    elif placement == "by label":
        owner = labels % nodes
    elif placement == "everywhere":
        return [every] * nodes
    elif placement == "half by label":
        half = -(-nodes // 2)
        owner = torch.where(labels < classes / 2, every % half, labels % max(1, nodes - half) + half)
    else:
        raise ValueError(
            f"no placement {placement!r}; there are dirichlet, uniform, by label, everywhere and half by label"
        )
    return [every[owner == node] for node in range(nodes)]


@dataclass
class Prepared:
    """The data, who has which, and the trainings that were run so far."""

    data: Data
    parts: list[tuple[Tensor, Tensor]]  # images [n, d] and signs [n] of each node
    scale: tuple[float, float]  # the least and the largest value of a pixel
    bench: Bench
    runs: dict[tuple[float, int | None], Run] = field(default_factory=dict)  # budget, fixed tau → what came of it
    timed: dict[float, float] = field(default_factory=dict)  # budget → real seconds of its training

    @property
    def for_choosing(self) -> Prepared:
        """The same with test data out of reach: what training and its control may see."""
        return replace(self, data=self.data.without_test())


def flat(examples: Examples, scale: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return images as numbers from 0 to 1 ``[n, d]``, and +1 for each of an even class, else -1 ``[n]``."""
    low, high = scale
    x = torch.stack(list(examples.inputs)).double().flatten(1)
    return (x - low) / (high - low), 1.0 - 2.0 * (examples.targets % 2)


@dataclass(frozen=True)
class AdaptiveFederated(Method):
    """As many local steps between two averagings as a bound on the loss within the budget advises."""

    placement: str = "dirichlet"  # of data; the paper: uniform, by label, everywhere, half by label
    alpha: float = 0.3  # of the Dirichlet partition: the smaller, the more skewed
    nodes: int = 5  # machines at the edge; the paper: 5 to 500
    images: str = "fashion-mnist"  # data; the paper: MNIST and others
    train_size: int = 1000  # images of all nodes together; the paper's deterministic runs: 1000
    eta: float = 0.01  # step size, as in the paper
    lam: float = 0.1  # weight of |w|², as in the released code
    phi: float = 0.025  # control parameter, the paper's for this model
    tau_max: int = 100  # most local steps, as in the paper
    reach: int = 10  # times the last tau up to which the next is searched, as in the paper
    keep: float = 0.0  # share of the moving averages of rho, beta and delta that is kept; the released code: 0
    speed: float = 2e7  # multiply-accumulates per second of a node on average: a step takes about the paper's 0.02 s
    bandwidth: float = 2.2e6  # bits per second of a link on average: an averaging takes about the paper's 0.13 s
    round_trip: float = 0.02  # seconds that a bit travels to a node and back; assumed

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "budget"
    knobs: ClassVar[tuple[float, ...]] = (0.7, 1.0, 1.5, 2.5, 4.0, 7.0, 10.0, 15.0)
    unit: ClassVar[str] = "simulated s per training"
    variants: ClassVar[Mapping[str, Mapping[str, Any] | type[Method]]] = {
        "dirichlet": {}, "uniform": {"placement": "uniform"}, "by label": {"placement": "by label"},
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 150, "nodes": 3, "tau_max": 12, "reach": 3, "speed": 2e5, "bandwidth": 2e5,
        "phi": 0.3,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 500, "speed": 1e7}
    others: ClassVar[Mapping[str, Any]] = {"placement": "half by label"}

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field_, least in {"nodes": 1, "train_size": 1, "tau_max": 1, "reach": 1}.items():
            checked(name, field_, getattr(self, field_), whole=True, least=least)
        for field_ in ("alpha", "eta", "phi", "speed", "bandwidth"):
            checked(name, field_, getattr(self, field_), above=0, finite=True)
        for field_ in ("lam", "round_trip", "keep"):
            checked(name, field_, getattr(self, field_), least=0, most=1 if field_ == "keep" else 1e6)

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def prepare(self, bench: Bench) -> Prepared:
        """Give each node its images."""
        data = self.load()
        parts, scale = self.given(data.without_test(), bench.seed)
        bench.data["examples"] = data.digest
        bench.data["sizes"] = " / ".join(str(len(part)) for part in (data.train, data.validation, data.test))
        return Prepared(data, parts, scale, bench)

    def given(self, data: Data, seed: int) -> tuple[list[tuple[Tensor, Tensor]], tuple[float, float]]:
        """Return the images and signs of each node, and the least and the largest value of a pixel."""
        low, high = (float(torch.stack(list(data.train.inputs)).double().aminmax()[i]) for i in range(2))
        x, y = flat(data.train, (low, high))
        owned = placed(data.train.targets, self.nodes, self.placement, self.alpha, seed)
        if not all(len(rows) for rows in owned):
            raise ValueError(f"of {self.nodes} nodes some have no images, placed {self.placement}")
        return [(x[rows], y[rows]) for rows in owned], (low, high)

    def crowd(self, prepared: Prepared, *, watched: bool) -> list[Node]:
        """Return the nodes before the first round."""
        return [Node(x, y, self.lam, self.eta, watched=watched) for x, y in prepared.parts]

    def edge(self, seed: int) -> Edge:
        """Return the machines and links, whose rates wander."""
        chains = [wandering(1.0, RESTLESS, STAY, SPAN, (seed, k)) for k in range(2 * self.nodes)]
        speeds, rates = (
            [type(chain)(chain.times, tuple(mean * rate for rate in chain.rates), chain.end) for chain in part]
            for mean, part in ((self.speed, chains[::2]), (self.bandwidth, chains[1::2]))
        )
        return Edge(tuple(Computer(s) for s in speeds), tuple(Link(r, self.round_trip) for r in rates))

    def control(self, budget: float, tau: int | None = None) -> Control:
        """Return the paper's control, or a fixed tau."""
        if tau is not None:
            return Fixed(tau)
        return Adaptive(self.eta, self.phi, budget, self.tau_max, self.reach, self.keep)

    def train(self, prepared: Prepared, budget: float, tau: int | None = None, crowd: Crowd | None = None) -> Run:
        """Train once within a budget, under the paper's control or with a fixed tau."""
        prepared = prepared.for_choosing
        control = self.control(budget, tau)
        nodes = crowd or Here(self.crowd(prepared, watched=control.watched))
        sizes, start = [len(y) for _, y in prepared.parts], torch.zeros_like(prepared.parts[0][0][0])
        return federate(nodes, sizes, start, self.edge(prepared.bench.seed), budget, control)

    def known(self, prepared: Prepared, budget: float, tau: int | None = None) -> Run:
        """Return `train`, done once."""
        if (budget, tau) not in prepared.runs:
            prepared.bench.progress(f"training within {budget:g} simulated s", None)
            prepared.runs[budget, tau] = self.train(prepared, budget, tau)
        return prepared.runs[budget, tau]

    def right(self, prepared: Prepared, w: Tensor, split: Split) -> Tensor:
        """Return which images ``[n]`` of a split are classified right; on the border all are called even.

        So w = 0, which has learnt nothing, is as good as chance.
        """
        x, y = flat(prepared.data.part(split).head(prepared.bench.test), prepared.scale)
        scores = x @ w
        return torch.where(y > 0, scores >= 0, scores < 0)

    def points(self, prepared: Prepared, split: Split, knobs: Sequence[float], tau: int | None) -> list[OperatingPoint]:
        """Return what is reached within each budget."""
        whole = self.known(prepared, self.knobs[-1]).spent
        found = []
        for budget in knobs:
            run = self.known(prepared, budget, tau)
            right = self.right(prepared, run.w, split).numpy()
            found.append(point(budget, right, 0 * right, count=1, cost=run.spent, full=whole))
        return found

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Train within each budget."""
        return self.points(prepared, split, knobs, None)

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return what the longest training reaches, and what it takes."""
        run = self.known(prepared, self.knobs[-1])
        return float(self.right(prepared, run.w, "test").double().mean()), run.spent

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return fixed numbers of local steps, few, some, many, within every other budget in which they learn."""
        found = []
        for tau in (1, 10, 100):
            budgets = [budget for budget in self.knobs[1::2] if self.known(prepared, budget, tau).learnt]
            held, test = (self.points(prepared, split, budgets, tau) for split in ("validation", "test"))
            found += [Baseline(name=f"tau = {tau}", validation=held, test=test)] if budgets else []
        return found

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return the accuracy of always saying the commoner of even and odd."""
        return chance.of_classes(prepared.data.test.head(bench.test).targets % 2)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Train anew with nodes that are reached by messages alone, whose bytes and work are counted from outside."""
        expected, nodes = self.known(prepared, knob), self.crowd(prepared.for_choosing, watched=True)
        found = self.train(prepared, knob, crowd=Apart([pickle.loads(pickle.dumps(node)).handle for node in nodes]))
        ours, whole = (self.seconds(prepared, budget) for budget in (knob, self.knobs[-1]))
        return Execution(
            knob=knob,
            samples=1,  # a training is what costs
            claimed=expected.spent,
            counted=found.spent,
            agrees=(found.taus, found.traffic) == (expected.taus, expected.traffic)
            and torch.equal(found.w, expected.w),
            seconds=ours,
            full_seconds=whole,
            not_finite=int(not math.isfinite(found.loss)),
        )

    def simulation(self, prepared: Prepared, bench: Bench) -> Simulation:
        """Return the nodes and links of all trainings, for as long as the longest of them may take."""
        edge, seconds, parts = self.edge(bench.seed), min(self.knobs[-1], SPAN), list[Rate]()
        for k, (computer, link) in enumerate(zip(edge.computers, edge.links, strict=True), 1):
            for part, trace, unit in (
                (f"node {k}, speed", computer.speed, "million MACs/s"),
                (f"link of node {k}, bandwidth", link.bandwidth, "Mbit/s"),
            ):
                times = [time for time in trace.times if time < seconds]
                rates = [rate / 1e6 for rate in trace.rates[: len(times)]]
                parts.append(Rate(part=part, unit=unit, times=times, rates=rates))
        images = ", ".join(str(len(y)) for _, y in prepared.parts)
        return Simulation(
            seconds=seconds,
            rates=parts,
            constants=[
                "the nodes train; no test image goes through this world",
                f"training images of each node: {images}",
                f"each link: {1000 * self.round_trip:.4g} ms there and back",
                "a round ends when the last answer is there",
            ],
        )

    def seconds(self, prepared: Prepared, budget: float) -> float:
        """Return the seconds that a training really takes, measured once."""
        if budget not in prepared.timed:
            start = time.perf_counter()
            self.train(prepared, budget)
            prepared.timed[budget] = time.perf_counter() - start
        return prepared.timed[budget]
