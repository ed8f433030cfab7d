"""Zero Time Waste: Recycling Predictions in Early Exit Neural Networks (ZTW).

Idea
    An internal classifier that was not confident enough has still computed a prediction, which other methods discard.
    Here it is used twice: the output of one internal classifier is an input of the next, and the answer is a learned
    mean of all predictions so far. Both cost almost nothing, and the network itself is unchanged.

Model
    A trained network, frozen, with internal classifiers 1 … M as in Shallow-Deep Networks. Cascade connections: from
    the second on each reads, beside its pooled map phi_m, the logits of the one before:
    z_m = W_m [phi_m; stop_grad(z_{m-1})] + c_m,  p_j = softmax(z_j).
    Geometric ensemble m, with weights of its own for each m:
    q_m(c) ~ b_m(c) prod_{j<=m} p_j(c)^(w_m(j) / m),  w_m = exp(omega_m), b_m = exp(beta_m), ~ up to normalisation.
    Its logits are (1/m) sum_{j<=m} w_m(j) ln p_j + beta_m; at first omega_m ~ N(0, 0.01^2), beta_m = 0.
    Additive, for comparison: q_m(c) ~ sum_{j<=m} w_m(j) p_j(c) + b_m(c).

Training
    1. The network by itself, by its own cross-entropy; then it is frozen.
    2. The internal classifiers: sum_m CE(z_m, y). No gradient passes from one to the one that feeds it.
    3. The ensembles, everything else frozen: CE(q_m, y) over omega_m and beta_m, for each m by itself.

Exit rule
    Stop at the first m with max_c q_m(c) >= tau, one tau for all, with the answer of q_m. If none reaches tau, the
    network's own classifier answers. tau = 0 stops at the first, tau > 1 never.

Skipped
    All layers, classifiers and ensembles after the exit.

Trained otherwise
    Besides the epochs that all rows have, which train the network, the internal classifiers alone are trained for as
    many on its frozen maps, at 1e-3, the paper's rate, and the ensembles for forty on their outputs, by Adam at 1e-2:
    three stages are what the paper is about.

Deviations
    1. A small residual network with five internal classifiers on cluttered Fashion-MNIST, 6,000 images, 2 epochs,
       instead of ResNet-56, VGG-16, WideResNet-32-4 and MobileNet with 13 to 27 on CIFAR and Tiny ImageNet, and
       ResNet-50 on ImageNet: what two cores can train in minutes.
    2. Internal classifiers have no convolution of their own before they pool, as the released scripts give them: on
       narrow maps it would cost as much as half a block. So they differ from Shallow-Deep Networks by the connections
       alone.
    3. z_{m-1} is not normalised, as in the released scripts for small images; for ImageNet these have layer
       normalisation there.
    4. The last classifier answers alone, as in the authors' later code. The code of the paper puts it into one more
       ensemble; which of the two the paper's tables show is not known.
    5. AdamW, whose learning rate rises and then falls linearly to 0, instead of SGD and Adam with rates that fall in
       steps; gradients are clipped at norm 1; images are not randomly shifted or flipped, nor for the ensembles. These
       learn with Adam for 40 epochs at 1e-2 instead of 501 at 5e-4.
    6. The released additive ensemble adds 1e-6 to each q_m(c); here its logarithm is that of q_m itself.
    7. Internal classifiers learn in 376 steps instead of about 9,800, yet at the paper's rate of 1e-3. It is the one
       chosen for Shallow-Deep Networks on validation images, among four (kaya2019sdn), so that both differ by the
       connections alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from eelit.methods.backbones.internal_classifier import InternalClassifier, condensed
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, Plain
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import frozen_states, train_heads

State = tuple[Tensor, Tensor]
"""A map ``[N, D, H, W]``, and what the internal classifiers passed so far said, ``z_1 … z_m`` as ``[N, m, C]``."""


class CascadedClassifier(nn.Module):
    """Internal classifier m: mixed pooling, and one linear layer that also reads ``reads`` logits of the one before."""

    def __init__(self, internal: InternalClassifier, reads: int) -> None:
        super().__init__()
        self.pool, _, last = internal
        self.reads, linear = reads, cast(nn.Linear, last)
        self.linear = nn.Linear(linear.in_features + reads, linear.out_features) if reads else linear

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """Return ``z_m [N, C]`` from a map ``[N, D, H, W]`` and ``z_{m-1} [N, C]``, to which no gradient passes."""
        phi = self.pool(x).flatten(1)
        if self.reads and before is not None:
            phi = torch.cat([phi, before.detach()], dim=1)
        return cast(Tensor, self.linear(phi))


class Recycling(nn.Module):
    """A part of the network, and the internal classifier behind it, which knows what the one before said."""

    def __init__(self, body: nn.Module, classifier: CascadedClassifier) -> None:
        super().__init__()
        self.body, self.classifier = body, classifier

    def forward(self, state: Tensor | State) -> State:
        """Advance the map and add ``z_m``; the first takes the image ``[N, D, H, W]``."""
        x, z = (state, None) if isinstance(state, Tensor) else state
        x = self.body(x)
        own = self.classifier(x, None if z is None else z[:, -1])[:, None]
        return x, own if z is None else torch.cat([z, own], dim=1)


class LastPart(nn.Module):
    """The rest of the network, whose own classifier reads a map and nothing else."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, state: State) -> Tensor:
        """Return the network's own logits, from the map alone."""
        return cast(Tensor, self.body(state[0]))


class Ensemble(nn.Module):
    """The weighted mean of ``p_1 … p_m``, geometric or additive: logits of ``q_m``."""

    def __init__(self, members: int, classes: int, *, geometric: bool) -> None:
        super().__init__()
        self.geometric = geometric
        self.omega = nn.Parameter(torch.randn(members) * 0.01)
        self.beta = nn.Parameter(torch.zeros(classes))

    def forward(self, state: Sequence[Tensor]) -> Tensor:
        """Return logits ``[N, C]`` from a state, of which the ``z_j [N, m, C]`` at its end are read."""
        log_p, w = state[-1].log_softmax(dim=-1), self.omega.exp()
        if self.geometric:
            return log_p.mT @ (w / len(w)) + self.beta
        q = log_p.exp().mT @ w + self.beta.exp()
        return (q / q.sum(dim=-1, keepdim=True)).log()


class RecyclingNetwork(MultiExit):
    """A network whose exits are ensembles of its internal classifiers; without these it is the plain one."""

    def __init__(self, shallow: MultiExit, classes: int, *, cascade: bool, geometric: bool) -> None:
        *bodies, last = shallow.stages
        *internal, own = shallow.heads
        classifiers = [
            CascadedClassifier(cast(InternalClassifier, each), classes if cascade and m else 0)
            for m, each in enumerate(internal)
        ]
        stages = [Recycling(body, classifier) for body, classifier in zip(bodies, classifiers, strict=True)]
        ensembles = [Ensemble(m, classes, geometric=geometric) for m in range(1, shallow.exits)]
        super().__init__([*stages, LastPart(last)], [*ensembles, own])

    @property
    def bodies(self) -> list[nn.Module]:
        """The parts of the network, without internal classifiers."""
        return [cast(Recycling, stage).body for stage in self.stages]

    @property
    def classifiers(self) -> list[CascadedClassifier]:
        """The internal classifiers."""
        return [cast(Recycling, stage).classifier for stage in self.stages[:-1]]

    def full(self, x: Tensor) -> Tensor:
        """Return the answer of the plain network, which asks no internal classifier."""
        for body in self.bodies:
            x = body(x)
        return cast(Tensor, self.heads[-1](x))

    def plain_network(self) -> Plain:
        """Return the plain network, weights shared."""
        return Plain(self.bodies, self.heads[-1])


def cascaded(classifiers: Sequence[CascadedClassifier], maps: Sequence[Tensor]) -> Tensor:
    """Return ``z_1 … z_M`` as ``[M, N, C]`` from what each classifier reads of the network."""
    z: list[Tensor] = []
    for classifier, x in zip(classifiers, maps, strict=True):
        z.append(classifier(x, z[-1] if z else None))
    return torch.stack(z)


def train_classifiers(model: RecyclingNetwork, data: Data, bench: Bench, **options: Any) -> None:
    """Minimise ``sum_m CE(z_m, y)`` over the internal classifiers, on frozen maps; ``options`` are those of `fit`."""
    classifiers = model.classifiers

    def loss(batch: Batch) -> Tensor:
        return exit_losses(cascaded(classifiers, batch.inputs), batch.targets).sum()

    def train() -> None:
        maps = frozen_states(MultiExit(model.bodies, model.heads), data.train, bench, condensed)
        parameters = (p for classifier in classifiers for p in classifier.parameters())
        fit(parameters, maps, loss, bench, label="training internal classifiers on frozen maps", **options)

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()


@dataclass(frozen=True)
class ZeroTimeWaste(ImageMethod):
    """Internal classifiers that hand on what they said."""

    cascade: bool = True  # whether internal classifiers read what the one before said
    geometric: bool = True  # the ensemble; False: additive, for comparison
    network: str = "resnet"  # the paper: ResNet-56, VGG-16, WideResNet-32-4, MobileNet, ResNet-50
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100, Tiny ImageNet, ImageNet
    train_size: int = 6000  # training images; the paper: 50,000 of CIFAR
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution; the paper's ResNet-56: 16, 32, 64
    blocks: int = 3  # blocks of each width; the paper's ResNet-56: 9
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where exits stand; the paper: each block
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # of the network; the paper: 100
    batch: int = 32  # the paper: 128
    rate: float = 2e-3  # learning rate of the network, with AdamW; the paper: 0.1 of SGD
    head_epochs: float = 2.0  # of the internal classifiers; the paper: 50
    head_rate: float = 1e-3  # learning rate there; the paper: 1e-3 of Adam
    ensemble_epochs: float = 40.0  # of the ensembles; the paper: 501
    ensemble_batch: int = 512  # the paper: 512
    ensemble_rate: float = 1e-2  # learning rate there; the paper: 5e-4

    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ZTW": {}, "additive": {"geometric": False}, "no cascade": {"cascade": False},
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.tiny, "head_epochs": 4.0, "head_rate": 1e-2, "ensemble_epochs": 10.0, "ensemble_batch": 64,
        "ensemble_rate": 0.1,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.smoke, "head_epochs": 3.0, "head_rate": 5e-3, "ensemble_batch": 128, "ensemble_rate": 0.05,
    }  # fmt: skip

    def build(self, data: Data, seed: int) -> RecyclingNetwork:
        """The network of Shallow-Deep Networks, its classifiers connected, with an ensemble at each."""
        shallow = super().build(data, seed)
        return RecyclingNetwork(shallow, data.classes or 1, cascade=self.cascade, geometric=self.geometric)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Network, internal classifiers, ensembles, one after the other."""
        train_plain(model, data, bench, **self.options)
        heads: dict[str, Any] = {"epochs": self.head_epochs, "batch": self.batch, "rate": self.head_rate}
        train_classifiers(cast(RecyclingNetwork, model), data, bench, **heads)
        last: dict[str, Any] = {"epochs": self.ensemble_epochs, "batch": self.ensemble_batch}
        train_heads(
            model, data, bench, keep=lambda state: state[1:], rate=self.ensemble_rate, optimiser=torch.optim.Adam,
            **last,
        )  # fmt: skip

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is tau."""
        return MaxConfidence(knob)
