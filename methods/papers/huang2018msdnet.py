"""Multi-Scale Dense Networks for Resource Efficient Image Classification (MSDNet).

Idea
    Early classifiers on an ordinary CNN fail twice: first layers see only fine detail, and serving them spoils what
    later layers need. So keep coarse maps, too, from the first layer on, and connect layers densely, that nothing is
    lost. The same network then answers on demand (anytime) and serves batches with a common budget (budgeted).

Model
    Scales s = 1 … S, from fine to coarse. Layer 0: x_0^1 from the image, x_0^s from x_0^(s-1) by strided convolution.
    Layer l >= 1 adds g m_s channels:  x_l^s = [x_(l-1)^s, down(x_(l-1)^(s-1)), same(x_(l-1)^s)], each new part a 1×1
    bottleneck and a 3×3 convolution; the finest scale has no down part. The layers are cut into S equal blocks; each
    drops the finest scale left, and a 1×1 transition halves the channels. Classifiers read the coarsest map only: two
    strided convolutions, mean, linear layer. Finer maps are computed only as far as the next classifier needs them
    (lazy evaluation): a classifier at layer l needs scale s up to layer l - (S - s).

Training
    All classifiers together: L = sum_k w_k L_k with w_k = 1, L_k the cross-entropy of classifier k.

Exit rule
    The knob is a budget, as a share of the cost C_K of reaching the last classifier. Budgeted: stop at the first
    classifier whose largest probability is >= theta_k; the last one always answers. If every classifier released a
    share q of what reaches it, q_k = z (1-q)^(k-1) q of all would leave there (z makes the sum 1). Find the q whose
    mean cost sum_k q_k C_k is the budget; then, one by one, theta_k is the confidence that a share q_k of all held-out
    images still reaches. As (1-q)^k ~ p^k with p = 1-q, dearer budgets need p > 1, as in the released code.
    Anytime: every image has the budget for itself and gets the answer of the last classifier within it.

Skipped
    All layers and classifiers behind the exit, and finer maps that no classifier up to the exit needs.

Deviations
    1. Fashion-MNIST (28×28, one channel) instead of CIFAR and ImageNet, which no package ships.
    2. 4 classifiers at layers 1, 3, 6, 10 instead of 5 to 7 up to layer 28; C0 = 8, g = 4, 64 channels in classifiers
       instead of 16, 6, 128; the first convolution has stride 2, so that maps have 14, 7 and 4 pixels a side. 12,000
       images, 4 epochs instead of 300, for want of time; later classifiers would need more to show their worth.
    3. The learning rate rises, then falls linearly to 0, instead of falling tenfold at half and three quarters of the
       training; gradients are clipped at norm 1; no shifts and flips of the images.
    4. The released op counter ignores lazy evaluation and counts ReLU, pooling and biases; here MACs that really ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from eelit.methods.backbones.msdnet import Layout, msdnet
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.base import Policy, softmax
from eelit.methods.policies.budgeted_thresholds import exit_shares, ratio_within, thresholds_for
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.joint import train_joint

SMALL = Layout(exits=4, stride=2, channels=8, growth=4, head=64)
TINY = Layout(exits=3, channels=4, growth=4, factors=(1, 2), head=16)


@dataclass(frozen=True)
class MSDNet(ExitMethod):
    """Multi-scale dense network with thresholds solved for a budget."""

    prediction: str = "budgeted"  # budgeted: the batch shares the budget; anytime: every image has it
    images: str = "fashion-mnist"  # data; the paper: CIFAR-10, CIFAR-100, ImageNet
    train_size: int = 12000  # training images; the paper: 45,000 of CIFAR
    epochs: float = 4.0  # passes over them; the paper: 300
    batch: int = 64  # the paper: 64
    rate: float = 0.1  # largest learning rate of SGD; the paper: 0.1
    layout: Layout = SMALL  # the network; the paper for batches: 5 to 7 classifiers, C0 = 16, g = 6, stride 1

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "budget"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"budgeted": {}, "anytime": {"prediction": "anytime"}}
    tiny: ClassVar[Mapping[str, Any]] = {"images": "digits", "train_size": 600, "layout": TINY}
    full: ClassVar[Mapping[str, Any]] = {"train_size": 50000, "epochs": 15.0, "layout": Layout()}

    def load(self) -> Data:
        """Images in ten classes."""
        return tasks.images(self.images, train=self.train_size)

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network with its classifiers."""
        return msdnet(self.layout, inputs=data.train.inputs[0].shape[0], classes=data.classes or 1, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Joint training, all classifiers weighing alike."""
        sgd = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
        train_joint(
            model, data, bench, weights=[1.0] * model.exits, epochs=self.epochs, batch=self.batch, rate=self.rate,
            optimiser=torch.optim.SGD, options=sgd,
        )  # fmt: skip

    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """Thresholds fitted on validation data, or the exit that the budget reaches."""
        held = prepared.split("validation")
        cost = held.costs[:, 0]  # one row suffices: all images have the same size
        budget = knob * cost[-1]
        if self.prediction == "anytime":
            return FixedExit(max(0, int(np.searchsorted(cost, budget, side="right")) - 1))
        if budget <= cost[0]:
            return MaxConfidence(0.0)
        shares = exit_shares(ratio_within(budget, cost), len(cost))
        return MaxConfidence(thresholds_for(softmax(held.outputs).amax(dim=-1).numpy(), shares))

    def claims(self, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
        """A common budget buys more than the same one for each image; and what the anytime network promises."""
        if self.prediction == "anytime":
            return [self.grows(prepared)]
        return [self.beats_anytime(prepared, curve), self.keeps_budget(prepared, curve)]

    def beats_anytime(self, prepared: Prepared, curve: Curve) -> Outcome:
        """Compare with answering everything at one exit, mixed between neighbouring exits to the same mean cost."""
        fixed = [self.trial(FixedExit(k), prepared.split("test")) for k in range(prepared.model.exits)]
        at = [np.interp(p.cost, [f.cost for f in fixed], [f.quality for f in fixed]) for p in curve.test[1:-1]]
        gain = float(np.mean([p.quality - a for p, a in zip(curve.test[1:-1], at, strict=True)]))
        return Outcome(
            name="a shared budget beats the same budget for each image",
            statement="At equal mean cost, budgeted batches are on average more accurate than anytime prediction.",
            holds=gain > 0,
            measured=f"{gain:+.4f} accuracy over {len(at)} budgets",
        )

    def keeps_budget(self, prepared: Prepared, curve: Curve) -> Outcome:
        """Thresholds were solved on validation data; see what test data cost."""
        dearest = float(prepared.split("test").costs[-1, 0])
        off = [p.cost / (p.knob * dearest) - 1 for p in curve.test if p.knob * dearest > curve.test[0].cost]
        return Outcome(
            name="the budget is kept",
            statement="On test data the mean cost exceeds no budget by more than 5 %.",
            holds=max(off) <= 0.05,
            measured=f"{min(off):+.1%} to {max(off):+.1%} of the budget",
        )

    def grows(self, prepared: Prepared) -> Outcome:
        """Compare the last classifier with the first."""
        quality = [self.trial(FixedExit(k), prepared.split("test")).quality for k in range(prepared.model.exits)]
        return Outcome(
            name="more computation, better answers",
            statement="The last classifier is more accurate than the first, which is already good: within 5 points.",
            holds=0 < quality[-1] - quality[0] < 0.05,
            measured=", ".join(f"{q:.4f}" for q in quality),
        )
