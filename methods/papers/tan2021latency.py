"""Empowering Adaptive Early-Exit Inference with Latency Awareness (iPPP).

Idea
    Users who deploy a network with exits know how long it may take on average, but not which thresholds give that time.
    So the latency is given, and the thresholds of all exits are solved for together, to be as accurate as that latency
    allows. Nothing is trained: the exits' outputs on held-out images are enough.

Model
    A trained network with exits b = 1 … B. On held-out images j = 1 … M exit b has the uncertainty u_bj (minus the
    largest probability; or the entropy, divided by that of a uniform answer) and is right or not, r_bj in {0, 1}.
    tau_b is the time until exit b has answered, tau_B = 1.

Training
    That of the network is not the paper's concern; here all exits together, L = sum_b CE_b.
    Thresholds t = (t_1 … t_{B-1}) in a box ([-1, 0]; entropy: [0, 1]) maximise Acc(t) while Time(t) <= L:
    leave_b = sigmoid(k (t_b - u_b)),  stay_b = 1 - leave_b,  P_b = leave_b prod_{i<b} stay_i,  P_B = prod_{i<B} stay_i,
    Acc(t) = mean_j sum_b P_bj r_bj,  Time(t) = mean_j sum_b P_bj tau_b.
    Warm start: the t with all thresholds equal and Time(t) = L. From there step s minimises, over the box,
    phi_s(t) = -Acc(t) + beta / 2 max(0, Time(t) - L)^2 + gamma / 2 ||t - t^s||^2
    by J accelerated projected gradient steps:  v' = Proj(w - grad phi_s(w) / eta),  w' = v' + m (v' - v),
    m = (eta - mu) / (eta + mu). Of the T iterates, the one from which the step was the shortest is taken.

Exit rule
    Stop at the first exit b < B with u_b < t_b (strictly), else at B. The knob is L as a share of tau_B: at tau_1 or
    less all samples stop at the first exit, at 1 none stops before the last.

Skipped
    All layers and exits after the exit.

Deviations
    1. A small residual network on cluttered Fashion-MNIST, 6,000 images, 2 epochs, trained by AdamW, instead of
       B-AlexNet, S-ResNet-18 and MSDNet on CIFAR and ImageNet, and of recurrent networks, whose data no package ships:
       what two cores can train in minutes. The paper's gains are largest on the recurrent ones.
    2. Time is MACs, as for MSDNet in the released code; elsewhere it is measured.
    3. Where no common threshold makes Time(t) = L, because k blurs the decisions too much, the warm start is the end of
       the box that comes nearest. The released root search fails there.
    4. The penalty's weight is that of the released runs whose time is about 1. For MSDNet they use 1e-14 with time in
       MACs, which is about 1.9e4 / tau_B^2, and for B-AlexNet 2e7 with seconds, about 190 / tau_B^2: ours is some 37
       times lighter than the one, and 2.7 times heavier than the other.
    5. A latency that no thresholds can exceed sets no limit; then no sample stops early, although for some it would be
       better.
    6. As the paper has it, the search can be chaotic: of six sets of synthetic outputs, one ended up to 6 points of
       time away when its uncertainties were changed by a relative 1e-13. Thresholds may thus differ from machine to
       machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor

from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.base import Policy, on_host, softmax, uncertainty
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.max_confidence import MaxConfidence

Floats = NDArray[np.float64]
BOX = {"confidence": (-1.0, 0.0), "entropy": (0.0, 1.0)}
"""Measure of uncertainty → the least and the largest threshold."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the exits say of held-out images, and what it takes to hear them."""

    u: Floats  # [B, M], uncertainty; infinite where it is not finite, so that nobody leaves by it
    r: Floats  # [B, M], 1 where right, else 0
    tau: Floats  # [B], as a share of the last


class Solver(NamedTuple):
    """The settings of the search."""

    k: float
    beta: float
    gamma: float
    eta: float
    mu: float
    T: int
    J: int


def doubts(outputs: Tensor, measure: str) -> Floats:
    """Return ``u [B, M]`` of logits ``[B, M, C]``."""
    u = on_host(uncertainty(outputs) if measure == "entropy" else -softmax(outputs).amax(dim=-1))
    return np.where(np.isfinite(u), u, math.inf)


def hard(t: Floats, held: HeldOut) -> tuple[float, float]:
    """Return accuracy and mean time if who is below a threshold of ``t [B - 1]`` leaves: what is reported."""
    stops = np.vstack([held.u[:-1] < t[:, None], np.ones_like(held.u[:1], dtype=bool)])
    exits = stops.argmax(axis=0)
    return float(held.r[exits, np.arange(len(exits))].mean()), float(held.tau[exits].mean())


# The same with sigmoids in the place of decisions.


def chances(t: Floats, u: Floats, k: float) -> tuple[Floats, Floats]:
    """Return ``leave [B - 1, M]`` and ``P [B, M]`` at thresholds ``t [B - 1]``."""
    leave = expit(k * (t[:, None] - u[:-1]))
    one = np.ones_like(u[:1])
    return leave, np.vstack([leave, one]) * np.cumprod(np.vstack([one, 1 - leave]), axis=0)


def smooth(t: Floats, held: HeldOut, k: float) -> tuple[float, float]:
    """Return Acc(t) and Time(t)."""
    _, P = chances(t, held.u, k)
    return float((P * held.r).sum(axis=0).mean()), float((P * held.tau[:, None]).sum(axis=0).mean())


def slope(leave: Floats, P: Floats, f: Floats, k: float) -> Floats:
    """Return the gradient ``[B - 1]`` of ``mean_j sum_b P_bj f_bj`` in t, for any ``f [B, M]``.

    A higher t_b moves samples from all later exits to b:  dP_b / dt_b = k P_b stay_b,  dP_i / dt_b = -k P_i leave_b for
    i > b.
    """
    paid = P * f
    later = paid.sum(axis=0) - np.cumsum(paid, axis=0)[:-1]
    found: Floats = k * (paid[:-1] * (1 - leave) - leave * later).mean(axis=1)
    return found


def slope_of_phi(t: Floats, anchor: Floats, held: HeldOut, L: float, s: Solver) -> Floats:
    """Return the gradient ``[B - 1]`` of phi_s at t, with t^s the anchor."""
    leave, P = chances(t, held.u, s.k)
    over = max(0.0, float((P.mean(axis=1) * held.tau).sum()) - L)
    return slope(leave, P, s.beta * over * held.tau[:, None] - held.r, s.k) + s.gamma * (t - anchor)


# The search.


def warm_start(held: HeldOut, L: float, k: float, box: tuple[float, float]) -> Floats:
    """Return equal thresholds ``[B - 1]`` with Time = L, or those of the box that come nearest."""
    lower, upper = box
    exits = len(held.tau) - 1

    def over(t: float) -> float:
        return smooth(np.full(exits, t), held, k)[1] - L

    if over(upper) >= 0 or over(lower) <= 0:
        return np.full(exits, upper if over(upper) >= 0 else lower)
    return np.full(exits, brentq(over, lower, upper))


def ippp(start: Floats, held: HeldOut, L: float, s: Solver, box: tuple[float, float]) -> Floats:
    """Return the iterate ``[B - 1]`` that is nearest to a stationary point."""
    t = found = start
    nearest, m = math.inf, (s.eta - s.mu) / (s.eta + s.mu)
    for _ in range(s.T):
        v = w = t
        for _ in range(s.J):
            before, v = v, np.clip(w - slope_of_phi(w, t, held, L, s) / s.eta, *box)
            w = v + m * (v - before)
        if (moved := float(((v - t) ** 2).sum())) < nearest:
            nearest, found = moved, t
        t = v
    return found


@lru_cache(maxsize=128)
def thresholds(held: HeldOut, L: float, s: Solver, box: tuple[float, float]) -> tuple[float, ...]:
    """Return t for a latency L; infinite ones if it is out of reach, the least if it is no limit."""
    exits = len(held.tau) - 1
    if held.tau[0] >= L:
        return (math.inf,) * exits
    if held.tau[-1] <= L:
        return (box[0],) * exits
    return tuple(ippp(warm_start(held, L, s.k, box), held, L, s, box).tolist())


def below(t: tuple[float, ...], measure: str, classes: int) -> Policy:
    """Return the rule that stops when u < t (strictly), in terms of what policies read."""
    if measure == "entropy":
        return Entropy(tuple(each * math.log(classes) for each in t))
    return MaxConfidence(tuple(math.nextafter(-each, math.inf) for each in t))


@dataclass(frozen=True)
class LatencyAware(ImageMethod):
    """Thresholds of all exits solved for one average latency."""

    measure: str = "confidence"  # of uncertainty: confidence or entropy; the paper: either, by network
    k: float = 30.0  # slope of the sigmoids; the paper: 30 for images, 100 and 200 for series
    beta: float = 5e2  # weight of the penalty where time is about 1; the paper: 5e2
    gamma: float = 10.0  # weight of the distance to the last iterate; the paper: 10
    eta: float = 100.0  # one divided by the length of a step; the paper: 100
    mu: float = 1.0  # the nearer to eta, the less momentum; the paper: 1
    T: int = 100  # iterates; the paper: 100
    J: int = 10  # gradient steps from one to the next; the paper: 10
    network: str = "resnet"  # resnet, or vgg with blocks = 4; the paper: B-AlexNet, S-ResNet-18, MSDNet
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100, ImageNet
    train_size: int = 6000  # training images; the paper: all
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks, or plain convolutions, of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where early exits stand
    half: bool = True  # whether the network learns with products in bfloat16
    epochs: float = 2.0  # of the network; the paper's is trained already
    batch: int = 32  # of the network's training
    rate: float = 2e-3  # of the network's training

    fits_on: ClassVar[float] = 0.5  # of the validation images: thresholds; latencies are judged on the others
    knob: ClassVar[str] = "latency"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"confidence": {}, "entropy": {"measure": "entropy"}}

    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "T": 16, "J": 4, "eta": 20.0}
    exempt: ClassVar[Mapping[str, str]] = {
        "cost_is_monotone": "thresholds are searched anew for each latency, and a search may end lower than it must"
    }

    def fit(self, prepared: Prepared) -> HeldOut:
        """What thresholds follow from, whatever the latency; all images have the same size, so one tells the times.

        Raises `ValueError` for a measure that there is not.
        """
        if self.measure not in BOX:
            raise ValueError(f"no measure {self.measure!r}; there are {', '.join(BOX)}")
        seen = prepared.split("fitting")
        r = (seen.answers.argmax(dim=-1) == seen.targets).double().numpy()
        return HeldOut(doubts(seen.answers, self.measure), r, seen.costs[:, 0] / seen.costs[-1, 0])

    @property
    def solver(self) -> Solver:
        """The settings of the search."""
        return Solver(self.k, self.beta, self.gamma, self.eta, self.mu, self.T, self.J)

    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """Thresholds for the latency, as a share of what reaching the last exit takes."""
        t = thresholds(prepared.fitted, knob, self.solver, BOX[self.measure])
        return below(t, self.measure, prepared.data.classes or 1)
