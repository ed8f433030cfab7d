"""Differentiable Branching in Deep Networks for Fast Inference (differentiable branching).

Idea
    Usually the exits' thresholds are tuned by hand after training, one for each exit. Here every branch outputs,
    besides its class scores, a gate value for stopping there. Combined from the last branch backwards, these gates give
    one soft answer and one expected cost of all branches. Both can be differentiated, so branches, gates and network
    are trained together, with a price on computation.

Model
    A network with branches i = 1 … B, the last its own classifier. Each branch but the last has one linear layer on its
    pooled map that gives K + 1 numbers: logits z_i, and the logit of its gate g_i in (0, 1). y_i = softmax(z_i).
    Soft output, from the back:  s_B = y_B,  s_i = g_i y_i + (1 - g_i) s_{i+1}.
    So s_1 = sum_i pi_i y_i with pi_i = g_i prod_{j<i} (1 - g_j), g_B = 1: the probability of exiting at branch i. The
    soft cost in the same way: k_B = c_B,  k_i = g_i c_i + (1 - g_i) k_{i+1},  c_i the cost up to branch i as a share of
    c_B.

Training
    Everything together:  L = mean of CE(s_1, y) + lam k_1 + a sum_i CE(y_i, y)  over the images,
    CE(s_1, y) = -ln s_1[y]. In the first term a branch learns from an image in proportion to pi_i: nothing if an
    earlier gate is fully open or its own is shut. The last term, our addition, keeps all branches learning.

Exit rule
    Leave at the first branch with g_i >= 1/2, with the answer y_i; else at branch B. lam sets the price of computation,
    with one training run for each; here the knob moves the threshold of one training run: 0 leaves at the first branch,
    above 1 never.

Skipped
    All layers after the exit, with their branches.

Deviations
    1. The paper could not be read. The recursion, the last gate of 1 and the threshold are Eqs. 16 and 17 of the first
       author's tutorial; that y_i are probabilities, the single loss and the cost as a regulariser are from a student
       reproduction, which puts the loss at the other end of the recursion, where no branch would learn anything.
    2. In later code of the same group, where the method is a baseline, logits are mixed and the last branch's own loss
       is added: CE(softmax(s_1), y) + CE(y_B, y) with s_i made of z_i. The setting `mixed` has this.
    3. The last term of L is ours (a = 0.3). Without it, the variant "soft output alone", gates soon favour one branch,
       and no other learns: on a narrow network and 3,000 images this is the last branch for lam up to 0.1, and the
       first for 0.5. A later remark of the first author, that training may collapse, agrees. How the paper avoids this
       is not known, and neither is its lam; the later code has 0.001. Claims are tested with several values of lam, at
       1/2.
    4. Where s_1[y] underflows to 0, its logarithm is that of the least number above 0, without a gradient: an image of
       which the mixture is certain, and wrong, teaches nothing by the first term.
    5. Whether a gate of exactly 1/2 stops is not known; here it does, as in that code.
    6. A small residual network with five branches on cluttered Fashion-MNIST, 6,000 images, 2 epochs, instead of
       AlexNet, VGG-13 and ResNet-18 on CIFAR-10, CIFAR-100 and CINIC-10: what two cores can train in minutes. Branches
       are mixed pooling and a linear layer, the internal classifiers of other methods here, with one output more.
    7. AdamW, whose learning rate rises and then falls linearly to 0, with gradients clipped at norm 1, instead of Adam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import InternalClassifier, Shape
from eelit.methods.engine.costs import exit_costs
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.base import widened
from eelit.methods.policies.gate_confidence import GateConfidence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


class Branch(nn.Module):
    """An internal classifier whose last output is a gate."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.shared = InternalClassifier(shape, classes + 1)

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        """Return z_i ``[N, K]`` and g_i ``[N]`` of maps ``[N, channels, H, W]``."""
        said = self.shared(state)
        return {"answer": said[:, :-1], "gate": widened(said[:, -1]).sigmoid()}


def soft(values: Tensor, g: Tensor) -> Tensor:
    """Return ``s_1 [N, …]`` of what branches say, ``[B, N, …]``, and their gates ``[B - 1, N, …]``."""
    s = values[-1]
    for y_i, g_i in zip(values[:-1].flip(0), g.flip(0), strict=True):
        s = g_i * y_i + (1 - g_i) * s
    return s


def soft_cost(c: Tensor, g: Tensor) -> Tensor:
    """Return ``k_1 [N]`` of costs ``[B]`` and gates ``[B - 1, N]``."""
    return soft(c[:, None].expand(-1, g.shape[1]), g)


def branching_loss(z: Tensor, g: Tensor, y: Tensor, *, c: Tensor, lam: float, a: float, mixed: str) -> Tensor:
    """Return L of logits ``[B, N, K]``, gates ``[B - 1, N]`` and classes ``[N]``, given costs ``[B]``."""
    if mixed == "logits":
        error = F.cross_entropy(soft(z, g[..., None]), y) + F.cross_entropy(z[-1], y)
    else:
        s_1 = soft(z.softmax(dim=-1), g[..., None])
        error = F.nll_loss(s_1.clamp(min=torch.finfo(s_1.dtype).tiny).log(), y)
    return error + lam * soft_cost(c, g).mean() + a * exit_losses(z, y).sum()


def cost_shares(model: MultiExit, image: Tensor) -> Tensor:
    """Return ``c_i [B]`` for images such as ``[channels, H, W]``: MACs with all branches on the way, by those of B."""
    spent = torch.tensor(exit_costs(model, image[None].to(device_of(model))), device=device_of(model))
    return spent / spent[-1]


def train_branching(
    model: MultiExit, data: Data, bench: Bench, *, lam: float, a: float, mixed: str, **options: Any
) -> None:
    """Minimise L over everything; ``options`` are those of `fit`."""

    def train() -> None:
        c = cost_shares(model, data.train.inputs[0])

        def loss(batch: Batch) -> Tensor:
            said = model(batch.inputs)
            return branching_loss(said["answer"], said["gate"][:-1], batch.targets, c=c, lam=lam, a=a, mixed=mixed)

        model.train()
        fit(model.parameters(), data.train, loss, bench, label="training network, branches and gates", **options)

    settings = {"lam": lam, "a": a, "mixed": mixed, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class DifferentiableBranching(ImageMethod):
    """Branches whose gates learn with them."""

    lam: float = 0.1  # price of the whole network in nats; the paper's is not known
    a: float = 0.3  # weight of each branch's own loss; 0: they learn by the soft output alone
    mixed: str = "probabilities"  # what gates mix: probabilities, or logits as in later code
    network: str = "resnet"  # resnet, or vgg with blocks = 4; the paper: AlexNet, VGG-13, ResNet-18
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100, CINIC-10
    train_size: int = 6000  # training images; the paper: 50,000 of CIFAR
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks, or plain convolutions, of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where branches stand
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # the paper's are not known
    batch: int = 32  # the paper: 128
    rate: float = 2e-3  # learning rate of AdamW; the paper's, of Adam, is not known

    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "with branch losses": {}, "soft output alone": {"a": 0.0},
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "lam": 0.01}
    others: ClassVar[Mapping[str, Any]] = {**ImageMethod.others, "mixed": "logits"}

    def head(self, shape: Shape, classes: int) -> Branch:
        """Return an untrained branch for maps of this shape: logits of the classes and a gate."""
        return Branch(shape, classes)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Joint training of network, branches and gates on the soft output."""
        if self.mixed not in ("probabilities", "logits"):
            raise ValueError(f"gates mix no {self.mixed!r}; there are probabilities and logits")
        train_branching(model, data, bench, lam=self.lam, a=self.a, mixed=self.mixed, **self.options)

    def policy(self, knob: float, prepared: Prepared) -> GateConfidence:
        """The knob is the threshold on g_i; the paper's is 1/2."""
        return GateConfidence(knob)
