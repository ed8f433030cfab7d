"""Jointly-Learned Exit and Inference for a Dynamic Neural Network (JEI-DNN).

Idea
    With a confidence threshold that is chosen after training, exits receive samples that they were not trained for. So
    gates and exits are learned together on a frozen network: gates with five parameters look for the cheapest exit that
    suffices, and exits are trained for the samples that the gates send them.

Model
    A trained network, frozen. After layers l = 1 … G a classifier: a linear layer on the map gives z_l. Its gate reads
    the uncertainty of p = softmax(z_l), held fixed:  g_l = sigmoid(w [max p, H(p), p_(1) - p_(2), H(p^2 / sum p^2)] +
    b), with H the entropy in nats and p_(1), p_(2) the two largest. The network's own head is exit G+1.
    P_l = max(0, min(g_l, 1 - sum_{j<l} g_j)) is the probability of leaving at l,
    q_l = P_l / prod_{j<l} (1 - q_j), in [0, 1], the same for a sample that has come so far.

Training
    1. The network alone, as usual; then it is frozen, its head too.
    2. The classifiers alone: sum_l (G + 2 - l) CE(z_l, y), l from 1.
    3. In turn, for `switch` batches each, the gates first:
       Gates. With c_l the cost up to exit l as a share of that of G+1, b = argmin_l CE(z_l, y) + lam c_l is the best
       exit, and a_j = 1 if j >= b, else 0. L_gate = mean over samples and gates of w BCE(g_j, a_j); w = 1 where a_j =
       0, else min(#0 / #1, 5), counted for each gate on held-out data at the start of each epoch. Classifiers. L_cls =
       mean over samples and classifiers of r P_l CE(z_l, y), P_l held fixed, and r = sum_l CE(z_l, y) / sum_l P_l
       CE(z_l, y) held fixed, too: the total loss of a sample is unchanged, and the P_l distribute it over the exits.

Exit rule
    Leave at the first l with q_l >= 0.5, else at G+1. lam sets the price of computation, with one training run for
    each; here the knob moves the threshold of one training run: 0 leaves at the first exit, above 1 never.

Skipped
    All layers after the exit, with their classifiers and gates.

Trained otherwise
    Besides the epochs that all rows have, which train the network (stage 1), classifiers and gates alone are trained
    for four more on its frozen states, two in stage 2 and two in stage 3, the latter by SGD with momentum, classifiers
    at 0.01 and gates at 0.2: the paper is about what can be added to an existing network.

Deviations
    1. A residual network on cluttered Fashion-MNIST, 6,000 images, instead of T2T-ViT on CIFAR and SVHN. Classifiers
       read the mean over 4×4 parts of the map, instead of the class token under the network's last normalisation.
    2. One lam for each variant, and a curve over the threshold, which stays 0.5 in the paper. The paper's claims are
       tested at 0.5, with one training run for each lam.
    3. The released code does not hold r fixed. Then r cancels P, in value and in gradient, and the classifiers learn as
       if there were no gates: this is the variant "weights cancelled".
    4. #1 counts the samples with a_j = 1. The released code counts those whose best exit is j itself: far fewer.
    5. The warm-up has a fixed length. In the paper each classifier is stopped once its validation accuracy has not
       risen for two epochs. Afterwards the network of the last epoch is taken, not that of the best one.
    6. Stages 1 and 2 by AdamW. Stage 3 by SGD with the paper's rate for classifiers, momentum and weight decay, but
       with gates at 0.2 instead of 0.01 and phases of 100 batches instead of 200, as an epoch has 188, and the training
       is short. AdamW divides each gradient by its size and so undoes what P_l does: a classifier that gets few samples
       is moved as far as the others, on what these few say. On validation images (cluttered, one seed, lam of 1 and
       0.2) it was 4.4 points less accurate than thresholds on confidence at the same cost, SGD 0.2.
    7. r is at most 100, so that it stays a number where the loss of the exit at which a sample leaves is 0 in float32.
       With SGD that is all that it does: bounds of 10 and 100, or none, differ by 0.0004 at most in mean accuracy on
       validation images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import Shape, places
from eelit.methods.engine.costs import exit_costs
from eelit.methods.engine.examples import Data, Examples, parted
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.base import entropy, softmax, widened
from eelit.methods.policies.exit_probability import ExitProbability, shared_out
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses, losses_of, weighted
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import frozen_rows

SIDE = 4  # a classifier reads the mean over SIDE × SIDE parts of a map
LARGEST_WEIGHT = 5.0  # of what a gate should let go
SGD = {"momentum": 0.9, "weight_decay": 5e-4}  # of stage 3, as in the paper
LARGEST_R = 100.0  # by how much a sample's loss counts more at the exits where it leaves


# The network.


def read_of(state: Tensor) -> Tensor:
    """Return what a classifier reads of maps ``[N, C, H, W]``: ``[N, size]``."""
    return F.adaptive_avg_pool2d(state, places(state.shape[1:], SIDE)).flatten(1)


def doubts(z: Tensor) -> Tensor:
    """Return what a gate reads of logits ``[..., C]``: max p, H(p), p_(1) - p_(2), H(p^2 / sum p^2); no gradient."""
    z = widened(z.detach())
    top = softmax(z).topk(2, dim=-1).values
    return torch.stack([top[..., 0], entropy(z), top[..., 0] - top[..., 1], entropy(2 * z)], dim=-1)


class GatedExit(nn.Module):
    """A linear classifier on a map, and its gate."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(shape[0] * math.prod(places(shape, SIDE)), classes)
        self.gate = nn.Linear(4, 1)

    def gate_logit(self, z: Tensor) -> Tensor:
        """Return the logit ``[N]`` of g_l from z_l ``[N, C]``."""
        return self.gate(doubts(z).to(self.gate.weight.dtype)).squeeze(-1)

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        """Return z_l ``[N, C]`` and g_l ``[N]`` from maps ``[N, channels, H, W]``."""
        z = self.classifier(read_of(state))
        return {"answer": z, "gate": widened(self.gate_logit(z)).sigmoid()}


def early_exits(model: MultiExit) -> list[GatedExit]:
    """Return exits 1 … G, which have gates: all but the last."""
    return [cast(GatedExit, head) for head in model.heads[:-1]]


# What is learned. Exits are counted from 0 here, and from 1 in the equations.


def exit_probabilities(g: Tensor) -> Tensor:
    """Return P_l ``[G, n]`` of gates ``[G, n]``."""
    found, total, stayed = [], torch.zeros_like(g[0]), torch.ones_like(g[0])
    for g_l in g:
        P, _, stayed = shared_out(g_l, total, stayed)
        total = total + g_l
        found.append(P)
    return torch.stack(found)


def gate_targets(losses: Tensor, costs: Tensor, lam: float) -> Tensor:
    """Return a_j ``[G, n]``: 1 from the best exit on, from ``CE(z_l, y)`` ``[G + 1, n]`` and c_l ``[G + 1]``."""
    best = (losses + lam * costs[:, None]).argmin(dim=0)
    gates = torch.arange(len(losses) - 1, device=losses.device)
    return (gates[:, None] >= best).to(losses.dtype)


def positive_weights(targets: Tensor) -> Tensor:
    """Return ``min(#0 / #1, 5)`` of each gate, ``[G]``, in targets ``[G, n]``."""
    ones = targets.sum(dim=1)
    return ((targets.shape[1] - ones) / ones.clamp(min=0.1)).clamp(max=LARGEST_WEIGHT)


def gate_loss(logits: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
    """Return L_gate from the gates' logits and targets ``[G, n]``, and what positive targets weigh ``[G]``."""
    w = torch.where(targets > 0, positive[:, None], 1.0)
    return F.binary_cross_entropy_with_logits(logits, targets, weight=w)


def classifier_loss(losses: Tensor, P: Tensor, *, detached: bool) -> Tensor:
    """Return L_cls from ``CE(z_l, y)`` and P_l, ``[G, n]`` both; unless r is held fixed (``detached``), P cancels."""
    whole, shared = losses.sum(dim=0), P * losses
    if not detached:  # r sum_l P_l CE(z_l, y) = sum_l CE(z_l, y)
        return whole.mean() / len(losses)
    r = whole / shared.sum(dim=0).clamp(min=torch.finfo(losses.dtype).tiny)
    return (r.detach().clamp(max=LARGEST_R) * shared).mean()


class Frozen(NamedTuple):
    """What a frozen network makes of samples."""

    read: Examples  # what the G classifiers read, one after the other in one vector for each sample
    last: Tensor  # [N], CE of the network's own head


def frozen(model: MultiExit, examples: Examples, bench: Bench) -> Frozen:
    """Return what the exits read of all examples, and how the network's own head fares, in the host's memory."""
    bench.progress("states of the frozen network", None)

    def both(index: Tensor, x: Any) -> tuple[Tensor, Tensor]:
        *states, end = model.states(x)
        read = torch.cat([read_of(state) for state in states], dim=1).cpu()
        return read, F.cross_entropy(model.heads[-1](end).cpu(), examples.targets[index], reduction="none")

    read, last = frozen_rows(model, examples, both)
    return Frozen(Examples(list(read), examples.targets), last)


@dataclass
class Alternation:
    """The loss of stages 2 and 3 on what is frozen; each batch of stage 3 belongs to a phase."""

    early: Sequence[GatedExit]
    train: Frozen
    held: Frozen  # on which positive targets are counted
    costs: Tensor  # [G + 1], c_l
    lam: float
    detached: bool
    switch: int
    epoch: int  # batches in one
    positive: Tensor | None = None  # [G], what positive targets weigh in this epoch

    def answers(self, read: Tensor) -> Tensor:
        """Return z_l ``[G, n, C]`` from what the classifiers read, ``[n, sizes]``."""
        parts = read.split([exit_.classifier.in_features for exit_ in self.early], dim=1)
        return torch.stack([exit_.classifier(part) for exit_, part in zip(self.early, parts, strict=True)])

    def targets(self, z: Tensor, y: Tensor, last: Tensor) -> Tensor:
        """Return the gates' targets a_j ``[G, n]``, from logits ``z [G, n, C]`` and the last exit's losses ``[n]``."""
        return gate_targets(torch.cat([losses_of(z, y), last[None].to(z)]), self.costs.to(z), self.lam)

    def warm_up(self, batch: Batch) -> Tensor:
        """Return the loss of stage 2: classifiers alone, early ones weighing more."""
        G = len(self.early)
        return weighted(exit_losses(self.answers(batch.inputs), batch.targets), [float(G + 1 - i) for i in range(G)])

    def in_turn(self, batch: Batch) -> Tensor:
        """Return the loss of stage 3: gates and classifiers take turns."""
        if self.positive is None or batch.step % self.epoch == 0:
            self.positive = self.counted()
        gates = batch.step // self.switch % 2 == 0
        with torch.set_grad_enabled(not gates):
            z = self.answers(batch.inputs)
        with torch.set_grad_enabled(gates):
            logits = torch.stack([exit_.gate_logit(z_l) for exit_, z_l in zip(self.early, z, strict=True)])
        if gates:
            return gate_loss(logits, self.targets(z, batch.targets, self.train.last[batch.index]), self.positive)
        P = exit_probabilities(logits.sigmoid())
        return classifier_loss(losses_of(z, batch.targets), P, detached=self.detached)

    @torch.no_grad()
    def counted(self) -> Tensor:
        """Return what positive targets weigh ``[G]``, counted on the held-out samples."""
        device = device_of(self.early[0])
        z = self.answers(torch.stack(list(self.held.read.inputs)).to(device))
        return positive_weights(self.targets(z, self.held.read.targets.to(device), self.held.last))


def train_exits(
    model: MultiExit, data: Data, held: Examples, bench: Bench, *,
    lam: float, detached: bool, switch: int, batch: int, epochs: tuple[float, float], rates: tuple[float, float, float],
) -> None:  # fmt: skip
    """Stages 2 and 3 on a network that is trained, ``epochs`` long.

    ``rates`` are those of the classifiers in stage 2, of the classifiers in stage 3, and of the gates.
    """
    early = early_exits(model)
    classifiers = [p for exit_ in early for p in exit_.classifier.parameters()]
    gates = [p for exit_ in early for p in exit_.gate.parameters()]

    def train() -> None:
        known, others = frozen(model, data.train, bench), frozen(model, held, bench)
        spent = exit_costs(model, data.train.inputs[0][None].to(device_of(model)))
        costs, steps = torch.tensor(spent) / spent[-1], math.ceil(len(data.train) / batch)
        losses = Alternation(early, known, others, costs, lam, detached, switch, steps)
        (warm, joint), (warm_rate, joint_rate, gate_rate) = epochs, rates
        fit(
            classifiers, known.read, losses.warm_up, bench, label="training the classifiers",
            epochs=warm, batch=batch, rate=warm_rate,
        )  # fmt: skip
        if joint:
            fit(
                [*classifiers, *gates], known.read, losses.in_turn, bench,
                label="training gates and classifiers in turn", epochs=joint, batch=batch, rate=joint_rate,
                faster=gates, faster_rate=gate_rate, optimiser=torch.optim.SGD, options=SGD,
            )  # fmt: skip

    settings = {"lam": lam, "detached": detached, "switch": switch, "batch": batch, "epochs": list(epochs)}
    settings |= {"rates": list(rates), "train": len(data.train), "held": len(held)}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class JeiDnn(ImageMethod):
    """Gates and classifiers that learn from each other, on a frozen network."""

    network: str = "resnet"  # resnet, or vgg with blocks = 4; the paper: T2T-ViT-7 and T2T-ViT-14
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100, CIFAR-100-LT, SVHN
    train_size: int = 6000  # training images; released code: 45,000 of CIFAR-10
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks, or plain convolutions, of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where exits stand; the paper: every layer
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # of stage 1; the paper starts from trained networks
    batch: int = 32  # the paper: 64
    rate: float = 2e-3  # largest learning rate of stages 1 and 2, by AdamW; the paper: 0.01 in stage 2, by SGD
    lam: float = 0.5  # price of the whole network in nats; the released runs: 0.01 to 7
    detached: bool = True  # False: r is not held fixed, as in the released code
    warm_epochs: float = 2.0  # of stage 2; released code: until it rests, at most 6
    joint_epochs: float = 2.0  # of stage 3; released code: 15 to 20 with stage 2
    switch: int = 100  # batches of one phase; released code: 200
    joint_rate: float = 0.01  # largest learning rate of the classifiers in stage 3, by SGD; the paper: 0.01
    gate_rate: float = 0.2  # largest learning rate of the gates, by SGD; the paper: 0.01

    fits_on: ClassVar[float] = 0.5  # of the validation images: how many should leave; knobs are judged on the others
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"joint": {}, "weights cancelled": {"detached": False}}
    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "warm_epochs": 4.0, "joint_epochs": 4.0, "switch": 1}

    def head(self, shape: Shape, classes: int) -> GatedExit:
        """A classifier and its gate."""
        return GatedExit(shape, classes)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The network, then what is put on it."""
        train_plain(model, data, bench, **self.options)
        held = parted(data.validation, {"fitting": self.fits_on})["fitting"]
        train_exits(
            model, data, held, bench, lam=self.lam, detached=self.detached, switch=self.switch, batch=self.batch,
            epochs=(self.warm_epochs, self.joint_epochs), rates=(self.rate, self.joint_rate, self.gate_rate),
        )  # fmt: skip

    def policy(self, knob: float, prepared: Prepared) -> ExitProbability:
        """The knob is the threshold on q_l; the paper's is 0.5."""
        return ExitProbability(knob)
