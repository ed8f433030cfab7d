"""DynExit: A Dynamic Early-Exit Strategy for Deep Residual Networks (DynExit).

Idea
    The loss weights of the exits are usually guessed, and a bad guess harms either the early exits or the last one.
    Here gradient descent finds them: the weights are parameters like any others, squashed to lie between 0 and 1, and
    their ratio changes during training. Nothing is tuned by hand; inference does not change.

Model
    A residual network with light heads at chosen places, exits i = 1 … N, the last of which is the network's own.

Training
    Everything together, the raw weights w_i too, from w_i = 0:
    L = sum_i r_i L_i  with  r_i = sigma(w_i) / sum_j sigma(w_j),  sigma(a) = 1 / (1 + exp(-a)),
    L_i the cross-entropy of exit i. As d L / d w_i = sigma(w_i) (1 - sigma(w_i)) (L_i - L) / sum_j sigma(w_j), weight
    moves from exits whose loss is above the weighted mean to those below: all exits alike at first, deep ones later.

Exit rule
    Stop at the first exit i < N whose entropy, -sum_c p_c ln p_c of its softmax p in nats, is below T (strictly). T = 0
    never stops, T > ln C always stops at the first (C classes). One T, chosen on validation data, serves all exits.

Skipped
    The layers after the exit, with their heads.

Trained otherwise
    "learned weights": in the epochs that all rows have the raw weights learn at a rate of their own, 1e-2, and without
    weight decay: they are what the paper is about.

Deviations
    1. Only the paper's abstract could be read and two surveys. They describe a residual network, joint training, raw
       weights that are trained and used through a sigmoid, fixed thresholds from validation data.
    2. The sigmoids are divided by their sum. In the bare form, L = sum_i sigma(w_i) L_i, every derivative by w_i is
       positive, so that all weights would shrink without end; the abstract speaks of the ratio of the exits.
    3. Entropy as the confidence, and one threshold for all exits, are those of BranchyNet, which the paper builds on;
       which confidence it tests is not known. Nor are heads, depths and data, for which the track's stand here.
    4. The raw weights have a learning rate of their own and no weight decay. As AdamW moves each of them by about its
       rate in a step, the network's 2e-3 could not take the ratio of two weights beyond 1.5 in the 376 steps of the
       track. With 1e-2 the last exit came to weigh 4.5 times as much as the first, and on cluttered validation images
       the thresholds were on average 0.4 points more accurate than with equal weights; no third rate was tried.
    5. The variant `equal weights` keeps w = 0, which is joint training with weights 1/N.
    6. The exit unit for hardware is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


class SparingAdamW(torch.optim.AdamW):
    """AdamW that leaves a group of parameters with a rate of its own, the raw weights, without weight decay."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; only one that has no rate of its own decays."""
        super().add_param_group({**({"weight_decay": 0.0} if "lr" in param_group else {}), **param_group})


def ratio(raw: Tensor) -> Tensor:
    """Return the weights ``r_i [N]`` of the exits, which sum to 1, from the raw ones ``w_i [N]``."""
    squashed = raw.sigmoid()
    return squashed / squashed.sum()


@dataclass(frozen=True)
class DynExit(ImageMethod):
    """Joint training with loss weights that are learned."""

    network: str = "resnet"  # residual, as the paper's, of unknown depths
    images: str = "cluttered"  # data; the paper's are not known
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where exits stand
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # passes over the images
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate of the network
    weight_rate: float = 1e-2  # largest learning rate of the raw weights; the paper's is not known
    learned: bool = True  # whether the raw weights learn, as in the paper; else all exits weigh alike

    knob: ClassVar[str] = "entropy threshold"
    knobs: ClassVar[tuple[float, ...]] = (2.4, 1.8, 1.5, 1.2, 1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"learned weights": {}, "equal weights": {"learned": False}}

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network with its heads, and a raw weight for the loss of each exit."""
        model = super().build(data, seed)
        model.register_parameter("raw_weights", nn.Parameter(torch.zeros(model.exits), requires_grad=self.learned))
        return model

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Minimise ``L = sum_i r_i L_i`` over the network, the heads and the raw weights."""
        raw, options, weight_rate = model.get_parameter("raw_weights"), self.options, self.weight_rate

        def loss(batch: Batch) -> Tensor:
            return (ratio(raw) * exit_losses(model(batch.inputs), batch.targets)).sum()

        def train() -> None:
            model.train()
            fit(
                model.parameters(),
                data.train,
                loss,
                bench,
                label="training all exits and their weights",
                optimiser=SparingAdamW,
                options={"fused": True},
                faster=[raw] if raw.requires_grad else [],
                faster_rate=weight_rate,
                **options,
            )

        settings = {"learned": self.learned, "train": len(data.train), **options}
        if self.learned:
            settings["weight_rate"] = weight_rate
        trained(model, train, bench, data=data.digest, settings=settings)
        model.eval()

    def policy(self, knob: float, prepared: Prepared) -> Entropy:
        """The knob is T in nats."""
        return Entropy(knob)
