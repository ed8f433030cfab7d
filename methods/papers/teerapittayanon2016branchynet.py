"""BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks (BranchyNet).

Idea
    Most images are easy: what the first layers see is enough for them. Hang small branches on a trained network, train
    all together, and let an image leave at the first branch that is sure. Branches also regularise the trunk.

Model
    A trunk with side branches at chosen places, each with some layers and a softmax of its own; exits n = 1 … N, the
    last being the trunk's. B-LeNet: LeNet-5 (3 convolutions, 2 linear layers) with one branch (1 convolution, 1 linear
    layer) after the first convolution. B-AlexNet: AlexNet for small images (5 convolutions, 3 linear layers) with
    branches after the first convolution (2 convolutions, 1 linear layer) and the second (1 and 1).

Training
    First the plain trunk alone; then, from its weights, everything together (section III-B):
    L = sum_n w_n * L_n, with L_n the cross-entropy of exit n. Early branches weigh more than the last exit.

Exit rule
    e_n = -sum_c p_c ln p_c for the softmax p of exit n.  Stop at the first exit with e_n < T_n (strictly); the last
    exit always answers. The knob is a share of held-out images: T_n is the entropy that this share of them stays below
    at branch n, as in the released code. Claims screen a grid of T instead, one per branch, as the paper does.

Skipped
    Trunk and branches behind the exit. The trunk before it is computed once for all exits.

Deviations
    1. Fashion-MNIST (28×28, harder) instead of MNIST and CIFAR-10, which no package ships.
    2. 12,000 training images; the trunk sees them 4 times, then all exits together 4 times, instead of 50 and 100 times
       over all: what one core can train in a minute. B-AlexNet can be chosen (half the channels) but has no curve: in
       this time its trunk learns too little to say anything about branches. No B-ResNet.
    3. Batches of 64 instead of 512, the learning rate rising to 0.002 and falling to 0 instead of constant 0.001,
       gradients clipped at norm 1: few epochs have to do.
    4. Loss weights 1 for branches and 0.3 for the last exit, which the paper found best on a smaller B-AlexNet; the
       released code weighs all alike. The paper's factor 1/|C| on each loss is left out, as in the code.
    5. The last exit starts from the trained trunk's, as the paper says. The released code starts its linear layer anew.
    6. Branches sit where the paper says. The released B-AlexNet has them one convolution later.
    7. The released percentile search looks at training images in training mode; here at validation images. Its option
       to train deeper exits on uncertain images only (off by default) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import torch

from eelit.methods.backbones.convnet import branchy_alexnet, branchy_lenet
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.exit_outputs import all_outputs
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.base import entropy
from eelit.methods.policies.entropy import Entropy, percentile_thresholds
from eelit.methods.recipes.joint import train_joint
from eelit.methods.recipes.plain import train_plain

GRID = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0)
"""Entropies in nats that the released scripts try for each branch, up to the first above ln 10."""


@dataclass(frozen=True)
class BranchyNet(ExitMethod):
    """Side branches, joint training, entropy thresholds."""

    network: str = "lenet"  # lenet (as released), or alexnet (half the channels; wants more epochs)
    images: str = "fashion-mnist"  # data; the paper: MNIST (LeNet), CIFAR-10 (AlexNet)
    train_size: int = 12000  # training images; the paper: 60,000 and 50,000
    trunk_epochs: float = 4.0  # passes that train the plain trunk; the released script: 50
    epochs: float = 4.0  # passes that train all exits together; the released script: 100
    batch: int = 64  # the released script: 512
    rate: float = 2e-3  # largest learning rate of Adam; the paper: 0.001
    branch_weight: float = 1.0  # w_n of every branch; the paper: 1.0 (section V-A)
    last_weight: float = 0.3  # w_N of the last exit; the paper: 0.3 there, the released code 1.0

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "share"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
    tiny: ClassVar[Mapping[str, Any]] = {"images": "digits", "train_size": 600, "batch": 16, "rate": 5e-3}
    full: ClassVar[Mapping[str, Any]] = {"train_size": 50000, "trunk_epochs": 10.0, "epochs": 20.0}

    def load(self) -> Data:
        """Images in ten classes."""
        return tasks.images(self.images, train=self.train_size)

    def build(self, data: Data, seed: int) -> MultiExit:
        """The trunk with its branches."""
        image, classes = data.train.inputs[0].shape, data.classes or 1
        if self.network == "lenet":
            return branchy_lenet(image, classes, seed=seed)
        return branchy_alexnet(image, classes, width=0.5, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the trunk, then everything together."""
        train_plain(model, data, bench, epochs=self.trunk_epochs, **self.adam)
        weights = [self.branch_weight] * (model.exits - 1) + [self.last_weight]
        train_joint(model, data, bench, weights=weights, epochs=self.epochs, **self.adam)

    @property
    def adam(self) -> dict[str, Any]:
        """Options of `fit`; the decay rates are the paper's."""
        betas = {"betas": (0.99, 0.999)}
        return {"batch": self.batch, "rate": self.rate, "optimiser": torch.optim.Adam, "options": betas}

    def policy(self, knob: float, prepared: Prepared) -> Entropy:
        """One threshold per branch, fitted on validation data."""
        seen = prepared.split("validation").outputs
        return Entropy(percentile_thresholds(entropy(seen[:-1]).numpy(), knob))

    def claims(self, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
        """Large savings at the knee of the screened thresholds, and a last exit that gains from its branches."""
        return [self.knee(prepared), self.no_harm(prepared, bench, curve)]

    def knee(self, prepared: Prepared) -> Outcome:
        """Screen all combinations of thresholds on validation data; take the cheapest that is nearly as accurate."""
        held, test = prepared.split("validation"), prepared.split("test")
        grid = list(product(GRID, repeat=prepared.model.exits - 1))
        screened = [self.trial(Entropy(thresholds), held) for thresholds in grid]
        enough = self.score(held.outputs[-1], held.targets) - 0.005
        chosen = grid[min((i for i, p in enumerate(screened) if p.quality >= enough), key=lambda i: screened[i].cost)]
        point = self.trial(Entropy(chosen), test)
        loss = self.score(test.outputs[-1], test.targets) - point.quality
        return Outcome(
            name="faster at nearly the same accuracy",
            statement="The cheapest thresholds that lose at most 0.5 points on validation data make the network 1.5 "
            "times as fast as the plain one or faster, and lose at most 1 point.",
            holds=point.speed_up >= 1.5 and loss <= 0.01,
            measured=f"T = {', '.join(map(str, chosen))}: speed-up {point.speed_up:.2f}×, accuracy {-loss:+.4f}",
        )

    def no_harm(self, prepared: Prepared, bench: Bench, curve: Curve) -> Outcome:
        """Compare the last exit with the trunk that was trained alone."""
        trunk = self.build(prepared.data, bench.seed)
        train_plain(trunk, prepared.data, bench, epochs=self.trunk_epochs, **self.adam)
        examples = prepared.split("test").examples
        alone = self.score(all_outputs(trunk, examples, bench, "the plain trunk")[-1], examples.targets)
        gain = curve.full_quality - alone
        return Outcome(
            name="the last exit gains from the branches",
            statement="After joint training the last exit is at least as accurate as the trunk it started from (which "
            "was trained for fewer epochs, as in the paper).",
            holds=gain >= 0,
            measured=f"{curve.full_quality:.4f} after joint training, {alone:.4f} before ({gain:+.4f})",
        )
