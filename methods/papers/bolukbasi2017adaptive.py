"""Adaptive Neural Networks for Efficient Inference (adaptive early exit and network selection).

Idea
    Leave trained networks as they are, and learn only when to stop: minimise expected time plus a penalty for those
    mistakes that the whole network would not have made. Solved from the last decision back to the first, this splits
    into weighted classifications, one for each decision: the label is the better action, and the weight is the
    additional cost of the worse one. The same holds for exits within one network and for choosing among several
    networks, where a sample may be sent straight to the largest.

Model
    Early exits: a network with exits k = 1 … K, the last its own answer; each other one is a linear classifier on
    pooled features. Network selection: separate models k = 1 … K, from the cheapest to the most expensive, which share
    nothing: a linear model and a forest on means over 4×4 pixels, a small plain and a large residual network.
    sigma_k = (p_(1), p_(1) - p_(2), H(p)) of the probabilities p at k; yhat_k is the answer there, T_k what it takes to
    come to k: the layers after exit k - 1 with exit k, or all of model k. Decision k < K has a score for each action:
    s_a(sigma_k) = w_a . sigma_k + b_a, with a = 0: answer, and a = j - k: go to j > k (among exits: to k + 1 alone).

Training
    Stage 1: the network by its cross-entropy (network selection: both networks, each by its own; the linear model and
    the forest are fitted). Stage 2, for early exits: the classifiers on frozen features, sum_k CE(yhat_k, y).
    Decisions, on held-out images, where nothing else learns: minimise
    E[ T + lambda (L(yhat_stop, y) - L(yhat_K, y))_+ ],   L the 0/1 error,  T as a share of the whole network's cost.
    For k = K - 1, …, 1:  c_0 = lambda (L(yhat_k, y) - L(yhat_K, y))_+,   c_a = T_j + V_j  with j = k + a;
    minimise the sum over images and actions of  (max_b c_b - c_a) (- ln softmax_a(s)),  weights (max_b c_b - c_a) made
    1 on average, features to mean 0 and deviation 1, plus a light penalty |w|^2 / 2;
    then V_k = c of the action that the learned scores take, and V_K = 0. With two actions that is weighted logistic
    regression: the label is the cheaper one, the weight |c_0 - c_1|. One that is costliest for all is never taken.

Exit rule
    Take the action with the largest score. The knob is lambda, with a training of the decisions for each: at 0 a
    mistake costs nothing, and all leave at the first exit; infinite means that no mistake may be risked, and all go on
    to the last.

Skipped
    All layers after the exit, with their classifiers; in network selection all models that are not run.

Trained otherwise
    Besides the epochs that all rows have, which train the network, its exits alone learn for as many on its frozen
    maps; in network selection each of the two networks has these epochs. That the networks are left as they are is what
    the paper is about.

Deviations
    1. Only the abstract, the introduction, the caption of the second figure and notes by others could be read. They
       describe the two systems, the global objective, the reduction from the last decision to the first and the jump to
       the largest network; cost, label, weight, features, the surrogate and the costs of several actions are
       reconstructed.
    2. Cluttered Fashion-MNIST (48×48) and a residual network of 13 convolutions, with five exits before the last,
       instead of ImageNet with AlexNet, GoogLeNet and ResNet-50; the 0/1 error of one answer, not of five.
    3. Models of three kinds, not only networks; the first two cost almost nothing, the third a fifth of the last.
    4. Time is counted in multiply-accumulates, a comparison in the forest as one of them; adding up what its trees
       answer, about 2,000 additions for an image, is not counted. The computation of a decision is counted where it is
       made, though it is left out when decisions are learned.
    5. Decisions learn on half of the validation images. A network makes too few mistakes on its training images.
    6. Exits read maps by mixed pooling, as the internal classifiers of other rows do. Pooled features are not among
       what decisions read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from eelit.methods.engine.cascade import Cascade
from eelit.methods.engine.examples import Data
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families import cascades, exits
from eelit.methods.families.image_cascades import ImageCascadeMethod
from eelit.methods.families.images import ImageMethod, TwoStageImageMethod
from eelit.methods.policies.base import Policy, on_host
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.linear_choice import FEATURES, LinearChoice, Rows, features

Numbers = NDArray[np.float64]


def extra_errors(answers: Tensor, targets: Tensor) -> Numbers:
    """Return ``(L(yhat_k, y) - L(yhat_K, y))_+ [K, N]`` of logits ``[K, N, C]``: mistakes that the last one avoids."""
    right = answers.argmax(dim=-1) == targets
    return on_host((~right & right[-1]).double())


class Seen(NamedTuple):
    """What decisions learn from."""

    sigma: Numbers  # [K - 1, N, FEATURES]
    extra: Numbers  # [K, N], extra errors
    time: Numbers  # [K, N], T_k as a share of the whole network's cost

    @classmethod
    def of(cls, seen: StoredOutputs, time: Numbers) -> Seen:
        """Return it from what all exits or models say, and the cost ``[K, N]`` of coming to each."""
        answers = seen.answers
        return cls(on_host(features(answers[:-1])), extra_errors(answers, seen.targets), time / seen.full_costs.mean())


def scores(rows: Rows, sigma: Numbers) -> Numbers:
    """Return s_a ``[A, N]`` of features ``[N, FEATURES]``."""
    w = np.array(rows)
    return w[:, :-1] @ sigma.T + w[:, -1:]


def cheapest_action(sigma: Numbers, c: Numbers) -> Rows:
    """Return w_a and b_a learned from features ``[N, FEATURES]`` and the costs of actions ``[A, N]``.

    An action that is costliest for every image is never taken; if all actions cost the same, the image is answered.
    """
    weights = c.max(axis=0) - c
    action, image = np.nonzero(weights > 0)
    rows = np.full((len(c), FEATURES + 1), 0.0)
    worth = np.unique(action)
    rows[:, -1] = -math.inf
    rows[worth if len(worth) else [0], -1] = 0.0
    if len(worth) > 1:
        mean, deviation = sigma.mean(axis=0), sigma.std(axis=0) + 1e-12
        found = LogisticRegression(max_iter=1000)
        weight = weights[action, image]
        found.fit(((sigma - mean) / deviation)[image], action, sample_weight=weight / weight.mean())
        w, b = found.coef_ / deviation, found.intercept_
        if len(worth) == 2:
            w, b = np.vstack([np.zeros_like(w), w]), np.array([0.0, *b])
        rows[worth] = np.column_stack([w, b - w @ mean])
    return tuple(tuple(row) for row in rows.tolist())


def learned(seen: Seen, lam: float, *, jumps: bool) -> tuple[Rows, ...]:
    """Return the rules of decisions 1 … K - 1, learned from the last to the first."""
    last, everyone = len(seen.extra) - 1, np.arange(seen.extra.shape[1])
    V, rules = {last: np.zeros(len(everyone))}, []
    for k in reversed(range(last)):
        ahead = range(k + 1, last + 1 if jumps else k + 2)
        c = np.stack([lam * seen.extra[k], *(seen.time[j] + V[j] for j in ahead)])
        rules.append(cheapest_action(seen.sigma[k], c))
        V[k] = c[scores(rules[-1], seen.sigma[k]).argmax(axis=0), everyone]
    return tuple(reversed(rules))


def rule_at(lam: float, seen: Seen, *, jumps: bool) -> Policy:
    """Return the rule that is learned at a price of extra errors."""
    return FixedExit(len(seen.sigma)) if math.isinf(lam) else LinearChoice(learned(seen, lam, jumps=jumps))


@dataclass(frozen=True)
class NetworkSelection(ImageCascadeMethod):
    """Separate models, of which a decision after each names the next to ask, if any."""

    jumps: bool = True  # whether models may be passed over; the paper: up to the largest
    members: tuple[str, ...] = ("linear", "forest", "small", "large")  # the paper: AlexNet, GoogLeNet, ResNet-50
    images: str = "cluttered"  # data; the paper: ImageNet
    train_size: int = 6000  # training images; the paper takes networks that are trained
    window: int = 4  # side of the squares of pixels that the linear model and the forest take the mean of
    trees: int = 200  # in the forest
    depth: int = 12  # most comparisons on a path through one of them
    comparison: float = 1.0  # multiply-accumulates that a comparison counts as
    small_widths: tuple[int, ...] = (128, 256)  # channels of the small network: a fifth of the large one's cost
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    half: bool = True  # whether networks learn with products in bfloat16; the paper: float32
    epochs: float = 2.0  # passes that train each network
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate

    fits_on: ClassVar[float] = 0.5  # of the validation images: for the decisions; lambda is judged on the others
    knob: ClassVar[str] = "price of an error"
    knobs: ClassVar[tuple[float, ...]] = (
        *(0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 1.5, 2.0, 3.0, 3.5, 4.0, 5.0, 6.0, 10.0, 15.0, 20.0, 40.0, math.inf),
    )
    exempt: ClassVar[Mapping[str, str]] = {
        "cost_is_monotone": "decisions are learned for each lambda, by a surrogate of the objective: a higher price of "
        "errors may send a few images less far",
    }

    def build(self, data: Data, seed: int) -> Cascade:
        """The models, of which there must be two to choose among."""
        if len(self.members) < 2:
            raise ValueError(f"nothing is chosen among so few members: {len(self.members)}")
        return super().build(data, seed)

    def fit(self, prepared: cascades.Prepared) -> Seen:
        """What decisions learn from: to come to a model takes all of it."""
        seen = prepared.split("fitting")
        return Seen.of(seen, seen.static_costs)

    def policy(self, knob: float, prepared: cascades.Prepared) -> Policy:
        """The knob is lambda."""
        return rule_at(knob, prepared.fitted, jumps=self.jumps)


@dataclass(frozen=True)
class AdaptiveExits(TwoStageImageMethod):
    """Exits on a frozen network, with decisions learned from the last to the first."""

    network: str = "resnet"  # residual; the paper: AlexNet, GoogLeNet, ResNet-50
    images: str = "cluttered"  # data; the paper: ImageNet
    train_size: int = 6000  # training images; the paper takes networks that are trained
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost; the paper: a few places, chosen by hand
    half: bool = True  # whether networks learn with products in bfloat16; the paper: float32
    epochs: float = 2.0  # passes that train the network
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate of the network
    head_epochs: float = 2.0  # passes that train the exits; the paper's are not known
    head_rate: float = 1e-3  # largest learning rate of the exits; the paper's is not known

    fits_on: ClassVar[float] = 0.5  # of the validation images: for the decisions; lambda is judged on the others
    knob: ClassVar[str] = "price of an error"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, math.inf)
    variants: ClassVar[Mapping[str, Mapping[str, Any] | type[NetworkSelection]]] = {
        "early exits": {}, "network selection": NetworkSelection,
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "head_epochs": 4.0, "head_rate": 1e-2}
    smoke: ClassVar[Mapping[str, Any]] = {**ImageMethod.smoke, "head_epochs": 3.0, "head_rate": 5e-3}
    exempt: ClassVar[Mapping[str, str]] = {
        "cost_is_monotone": "decisions are learned for each lambda, by a surrogate of the objective: a higher price of "
        "errors may send a few images less far",
    }

    def fit(self, prepared: exits.Prepared) -> Seen:
        """What decisions learn from: to come to an exit takes what lies behind the one before."""
        seen = prepared.split("fitting")
        return Seen.of(seen, np.diff(seen.costs, axis=0, prepend=0.0))

    def policy(self, knob: float, prepared: exits.Prepared) -> Policy:
        """The knob is lambda."""
        return rule_at(knob, prepared.fitted, jumps=False)
