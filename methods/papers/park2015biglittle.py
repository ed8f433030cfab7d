"""Big/Little Deep Neural Network for Ultra Low Power Inference (big/LITTLE DNN, BL-DNN).

Idea
    Most inputs do not need the big network, and a little one can tell which: where its best class is well ahead of the
    next, its answer is kept and the big one does not run. At design time the allowed loss of accuracy determines the
    required margin, and which of several little networks is best; at run time the margin adapts to the inputs. The
    check uses nothing from inside either network, so any two can be combined.

Model
    LITTLE and BIG, separate models that share nothing, at energies e_l and e_b for each input. s_(1) and s_(2) are the
    two largest scores of LITTLE: its probabilities, or the raw scores before the softmax.
    Score margin:  SM = s_(1) - s_(2).
    LITTLE is one of three candidates: a linear model and a forest, which read means over 4×4 pixels, and a small plain
    network of convolutions; BIG is a large residual network.

Training
    Stages 1 and 2: the small network and BIG, each by its own cross-entropy; the other candidates are fitted. Design
    time, on held-out inputs:  r(theta) = share of inputs with SM < theta,  energy = e_l + r(theta) e_b, loss(theta) =
    accuracy of BIG - accuracy of the pair;  theta = the smallest with loss <= the allowed one. LITTLE is the candidate
    whose energy is least at the theta of its own for an allowed loss of one point. Run time (`adapted`): BIG's answer
    is known of each input that is passed on, and of one in ten kept ones, which BIG checks and each of which stands for
    ten. From the last inputs follows for any t
    D(t) = share of inputs with SM >= t whose answers by LITTLE and by BIG differ:
    theta rises by a step if D(theta) is more than allowed, and falls by one if even D(theta - step) is not.

Exit rule
    Keep LITTLE's answer when SM >= theta, else run BIG on the input and take its answer. The knob is the allowed loss:
    at 1 theta is 0 and BIG never runs; if no theta reaches the allowed loss it is infinite, and BIG always runs.

Skipped
    All of BIG where LITTLE's answer is kept. An input that is passed on pays for both.

Trained otherwise
    The small network and BIG each learn for the epochs that all rows have: two networks are what the paper is about.

Deviations
    1. Only the paper's abstract could be read and an image of the passage that defines the score margin. They say that
       there are methods for design time and for run time; how these work is reconstructed.
    2. Whether scores are taken after the softmax is not known: the variant `raw scores` takes those before it. Nor is
       it known whether a margin of exactly theta is enough; here it is.
    3. Cluttered Fashion-MNIST, a large residual network and little models of three kinds, instead of pairs of networks
       on ImageNet and MNIST.
    4. Energy is counted in multiply-accumulates, a comparison in the forest as one of them; adding up what its trees
       answer, about 2,000 additions for an image, is not counted.
    5. Design time sees half of the validation inputs, since models are more accurate on their training inputs than on
       others.
    6. At run time there are no labels, so disagreements of both are counted, which are at least as many as the lost
       right answers. One in ten kept answers is checked, so an allowed share a shows in one of 10 / a inputs: a window
       must hold several times as many, and theta follows no faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine.cascade import Cascade
from eelit.methods.engine.examples import Data, parted
from eelit.methods.engine.method import Bench
from eelit.methods.families.cascades import Prepared
from eelit.methods.families.image_cascades import ImageCascadeMethod
from eelit.methods.policies.base import checked, exact, on_host
from eelit.methods.policies.margin import Margin, margin
from eelit.methods.policies.raw_margin import RawMargin, raw_margin

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Pair(NamedTuple):
    """What LITTLE and BIG do with the same inputs."""

    SM: Numbers  # [N], score margin of LITTLE
    little: Flags  # [N], where LITTLE is right
    big: Flags  # [N], where BIG is right
    e_l: float  # energy of LITTLE for an input, mean
    e_b: float  # of BIG

    def loss(self, theta: float) -> float:
        """Return by how much the pair is less accurate than BIG alone."""
        return float(self.big.mean() - np.where(theta <= self.SM, self.little, self.big).mean())

    def energy(self, theta: float) -> float:
        """Return ``e_l + r(theta) e_b``; whoever has no margin is run on BIG."""
        return self.e_l + float(1 - (theta <= self.SM).mean()) * self.e_b

    def theta(self, allowed: float) -> float:
        """Return the smallest theta with at most the allowed loss: 0, a margin seen, or infinity."""
        tried = [0.0, *np.unique(self.SM[self.SM > 0]), math.inf]
        return next((float(t) for t in tried if self.loss(t) <= allowed + 1e-12), math.inf)


def chosen(pairs: list[Pair], allowed: float) -> int:
    """Return which of several LITTLEs with the same BIG needs least energy at an allowed loss, the first of equals."""
    energies = [pair.energy(pair.theta(allowed)) for pair in pairs]
    return energies.index(min(energies))


class Ran(NamedTuple):
    """What happened at run time, input by input."""

    theta: Numbers  # [N], as it was when the input came
    kept: Flags  # [N], where LITTLE's answer was kept
    big: Flags  # [N], where BIG ran, audits among them


def adapted(
    SM: Numbers,
    same: Flags,
    theta: float,
    allowed: float,
    *,
    step: float,
    window: int,
    every: int,
    audit: float,
    seed: int,
) -> Ran:
    """Run a stream of inputs with margins ``[N]``, of which LITTLE and BIG answer ``same [N]``, theta moving.

    An input whose answer is kept is audited with the chance ``audit``, and what an audit finds counts ``1 / audit``.
    After ``every`` so many inputs theta may move by a step, by what the last ``window`` have shown, once there are so
    many. Raises `ValueError` for numbers with which theta cannot move so.
    """
    checked("adapted", "audit", audit, above=0, most=1)
    checked("adapted", "window", window, whole=True, least=1)
    checked("adapted", "every", every, whole=True, least=1)
    checked("adapted", "step", step, least=0, finite=True)
    drawn = np.random.default_rng(seed).random(len(SM)) < audit
    thetas, kept, found = np.zeros(len(SM)), np.zeros(len(SM), dtype=bool), np.zeros(len(SM))
    for start in range(0, len(SM), every):
        if start >= window:
            seen, lower = slice(start - window, start), max(theta - step, 0.0)
            if differing(SM[seen], found[seen], theta) > allowed:
                theta += step
            elif differing(SM[seen], found[seen], lower) <= allowed:
                theta = lower
        now = slice(start, start + every)
        thetas[now], kept[now] = theta, theta <= SM[now]
        found[now] = ~same[now] * np.where(kept[now], drawn[now] / audit, 1.0)
    return Ran(thetas, kept, ~kept | drawn)


def differing(SM: Numbers, found: Numbers, t: float) -> float:
    """Return D(t) from margins and the differences that were found, ``[N]`` both, each as many as it stands for."""
    return float(found[t <= SM].sum() / len(SM))


@dataclass(frozen=True)
class BigLittle(ImageCascadeMethod):
    """A little model, and a big one for what it is unsure of."""

    scores: str = "probabilities"  # what margins are taken of: probabilities, or raw scores; the paper's is not known
    candidates: tuple[str, ...] = ("linear", "forest", "small")  # for LITTLE; the paper: networks of several sizes
    allowed: float = 0.01  # loss of accuracy for which LITTLE is chosen; the paper: 0.0090 on ImageNet, 0.0012 on MNIST
    images: str = "cluttered"  # data; the paper: ImageNet, MNIST
    train_size: int = 6000  # training images; the paper takes networks that are trained
    window: int = 4  # side of the squares of pixels that the linear model and the forest take the mean of
    trees: int = 200  # in the forest
    depth: int = 12  # most comparisons on a path through one of them
    comparison: float = 1.0  # multiply-accumulates that a comparison counts as
    small_widths: tuple[int, ...] = (32, 64)  # channels of the small network, two convolutions of each width
    pixels: int = 4  # side of the square of pixels that the first convolution of either network sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of BIG
    blocks: int = 3  # its residual blocks of each width
    half: bool = True  # whether it learns with products in bfloat16
    epochs: float = 2.0  # passes that train each network
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate

    fits_on: ClassVar[float] = 0.5  # of the validation images: for design time; the knob is judged on the others
    knob: ClassVar[str] = "allowed loss"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.08, 0.06, 0.04, 0.03, 0.02, 0.01, 0.0, -math.inf)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"probabilities": {}, "raw scores": {"scores": "raw scores"}}
    tiny_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"raw scores": {"allowed": 0.5}}
    others: ClassVar[Mapping[str, Any]] = {
        **ImageCascadeMethod.others, "candidates": ("linear",), "comparison": 0.5, "scores": "raw scores",
    }  # fmt: skip

    @property
    def members(self) -> tuple[str, ...]:  # type: ignore[override]
        """The candidates for LITTLE, then BIG."""
        return (*self.candidates, "large")

    def build(self, data: Data, seed: int) -> Cascade:
        """All candidates and BIG, with the number of the candidate that is chosen, the first as yet."""
        if self.scores not in ("probabilities", "raw scores"):
            raise ValueError(f"no margin of {self.scores!r}; there are probabilities and raw scores")
        if not self.candidates:
            raise ValueError("there is no candidate for LITTLE")
        checked("BigLittle", "allowed", self.allowed)
        model = super().build(data, seed)
        model.register_buffer("chosen", torch.tensor(0))
        return model

    def train(self, model: Cascade, data: Data, bench: Bench) -> None:
        """Train all candidates and BIG, then choose LITTLE on held-out images."""
        super().train(model, data, bench)
        held = parted(data.validation, {"fitting": self.fits_on})["fitting"]
        every = super().deployed(model)
        z, costs = every.outputs(held, bench, "fitting"), every.costs(held).mean(axis=1)
        pairs = [
            self.pair(z_l, z[-1], held.targets, e_l, costs[-1]) for z_l, e_l in zip(z[:-1], costs[:-1], strict=True)
        ]
        model.get_buffer("chosen").fill_(chosen(pairs, self.allowed))

    def deployed(self, model: Cascade) -> Cascade:
        """LITTLE, the chosen one, and BIG."""
        little = model.members[int(model.get_buffer("chosen"))]
        return super().deployed(Cascade([little, model.members[-1]]))  # type: ignore[list-item]

    def pair(self, little: Tensor, big: Tensor, targets: Tensor, e_l: float, e_b: float) -> Pair:
        """Return what two models do, from their logits ``[N, C]``, the classes ``[N]`` and their mean energies."""
        found = margin(little) if self.scores == "probabilities" else raw_margin(little)
        right, right_big = ((z.argmax(dim=-1) == targets).numpy() for z in (little, big))
        return Pair(on_host(exact(found)), right, right_big, e_l, e_b)

    def fit(self, prepared: Prepared) -> Pair:
        """What theta is chosen from at design time, whatever loss is allowed."""
        seen = prepared.split("fitting")
        (little, big), (e_l, e_b) = seen.outputs, seen.static_costs.mean(axis=1)
        return self.pair(little, big, seen.targets, e_l, e_b)

    def policy(self, knob: float, prepared: Prepared) -> Margin | RawMargin:
        """The knob is the allowed loss."""
        theta = prepared.fitted.theta(knob)
        return Margin(theta) if self.scores == "probabilities" else RawMargin(theta)
