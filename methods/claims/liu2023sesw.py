"""What SESW claims: as accurate and efficient as weights that are learned by meta-learning, in much less time.

The weights act in training alone, so training is what is tried: both networks stop by the same rule, at equal cost.

The rival, learning to weight samples (L2W-DEN, han2022learning), is reconstructed here from its released code, with its
settings for CIFAR: another network learns which weights make the next step good for the exits that images would take.
Two things are simpler. The step within the step is taken to first order, which costs less than the released one,
through which gradients are passed; and both halves of a batch, having been each other's test, make one step of the
network together instead of one each.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from statistics import mean, median
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from eelit.methods.claims.comparisons import MIXED, gains_of_mixtures, on_average, points_of
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import JointImages
from eelit.methods.papers.liu2023sesw import SelfSupervisedWeighting, predictor
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import losses_of

META_HIDDEN, META_RATE, META_DECAY = 500, 1e-4, 1e-4
"""Units of the rival's network, its learning rate by Adam and its decay: those that it has for CIFAR."""
EPSILON = 0.8
"""How far the rival's weights may be from 1, for CIFAR."""
RATIO = 0.75
"""Of the images that reach an exit and those that reach the next, in the rival's objective."""
ROUNDS, STEPS = 3, 5
"""How often the steps of all trainings are timed in turn, and how many of them each time, besides a first time."""
Rival = TypeVar("Rival", bound=SelfSupervisedWeighting)


@dataclass(frozen=True)
class Unweighted(SelfSupervisedWeighting):
    """The same network on the plain sum of all losses."""

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Joint training, all images weighing alike."""
        JointImages.train(self, model, data, bench)


@dataclass(frozen=True)
class MetaWeighted(SelfSupervisedWeighting):
    """The same network with weights learned by meta-learning, reconstructed."""

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Everything together, on weights that the other network learns meanwhile."""
        train_meta(model, data, bench, **self.options)


def claims(method: SelfSupervisedWeighting, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside both rivals, trained for as many steps on the same images."""
    plain, meta = beside(method, Unweighted), beside(method, MetaWeighted)
    ours = points_of(method, prepared, bench)
    rivals = (points_of(rival, rival.prepare(bench), bench) for rival in (plain, meta))
    alike, learned = (gains_of_mixtures(ours, theirs) for theirs in rivals)
    return [*in_time(*paces([method, plain, meta], bench)), as_good(learned), better(alike)]


def beside(method: SelfSupervisedWeighting, rival: type[Rival]) -> Rival:
    """Return a rival with all settings of the method."""
    return rival(**{field.name: getattr(method, field.name) for field in fields(method)})


def as_good(found: list[float]) -> Outcome:
    """Compare with the network with meta-learned weights, at equal cost."""
    return Outcome(
        name="as good as meta-learned weights",
        statement="At equal cost accuracy on test data is on average at most half a point lower than with the same "
        f"network with meta-learned weights. {MIXED}",
        holds=mean(found or [-1.0]) >= -0.005,
        measured=on_average(found),
    )


def better(found: list[float]) -> Outcome:
    """Compare with the network on images that weigh alike, at equal cost."""
    return Outcome(
        name="better than equal weights",
        statement="At equal cost accuracy on test data is on average half a point higher than with the same network "
        f"trained as long on images that all weigh alike. {MIXED}",
        holds=mean(found or [0.0]) >= 0.005,
        measured=on_average(found),
    )


def in_time(ours: float, plain: float, meta: float) -> list[Outcome]:
    """Compare processor seconds of one step of training."""
    told = f"{1000 * ours:.0f} ms a step, {1000 * plain:.0f} with equal and {1000 * meta:.0f} with meta-learned weights"
    return [
        Outcome(
            name="half the time of meta-learned weights",
            statement="A step of training takes at most half of the processor time of one with meta-learned weights.",
            holds=ours <= 0.5 * meta,
            measured=told,
        ),
        Outcome(
            name="hardly slower than equal weights",
            statement="A step of training takes at most a tenth more processor time than one with equal weights.",
            holds=ours <= 1.1 * plain,
            measured=told,
        ),
    ]


def paces(methods: list[SelfSupervisedWeighting], bench: Bench) -> list[float]:
    """Return processor seconds of one step of each training, in turn, the median of all rounds but the first."""
    found = [[pace(method, bench) for method in methods] for _ in range(1 + ROUNDS)]
    return [median(each) for each in zip(*found[1:], strict=True)]


def pace(method: SelfSupervisedWeighting, bench: Bench) -> float:
    """Return processor seconds of one of the first steps of a training."""
    clock: list[float] = []
    method.prepare(Bench(seed=bench.seed, most_steps=STEPS, watch=lambda stage: clock.append(time.process_time())))
    return (clock[1] - clock[0]) / STEPS


# The rival.


class Half(NamedTuple):
    """Images of one half of a batch."""

    inputs: Tensor
    targets: Tensor


def meta_weights(g: nn.Module, losses: Tensor) -> Tensor:
    """Return ``w = 1 + epsilon (o - mean of o over exits)``, ``[K, n]``, with ``o = tanh(g)`` of losses ``[K, n]``."""
    o: Tensor = g(losses.detach().T).tanh().T
    return 1 + EPSILON * (o - o.mean(dim=0, keepdim=True))


def meta_loss(z: Tensor, y: Tensor) -> Tensor:
    """Return the sum of each exit's mean loss on the images that it would answer, of logits ``[K, n, C]``.

    Exit k answers a share of all, proportional to ``RATIO ** k``, on which it is surest of those left; the last one
    the rest.
    """
    K, n = z.shape[:2]
    losses, sure = losses_of(z, y), z.detach().softmax(dim=-1).amax(dim=-1)
    parts = [RATIO**k for k in range(1, K + 1)]
    left, total = torch.ones(n, dtype=torch.bool, device=z.device), z.new_zeros(())
    for k, part in enumerate(parts):
        many = math.floor(n * part / sum(parts)) if k < K - 1 else int(left.sum())
        taken = sure[k].masked_fill(~left, -1.0).argsort(descending=True)[:many]
        left[taken] = False
        total = total + (losses[k, taken].mean() if many else 0.0)
    return total


def meta_step(model: MultiExit, g: nn.Module, adam: torch.optim.Optimizer, own: Half, other: Half) -> None:
    """Move g so that a step of the network on weighted images of one half of a batch is good for the other half.

    To first order, a step on ``sum_k mean_i w_i^k l_i^k`` lowers the other half's meta loss M by its rate times
    ``sum_k mean_i w_i^k <grad M, grad l_i^k>``, which g makes larger. Running statistics of the network stay as
    they are.
    """
    weights: dict[str, Tensor] = dict(model.named_parameters())
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    M = meta_loss(functional_call(model, (weights, buffers), (other.inputs,)), other.targets)
    slopes = torch.autograd.grad(M, list(weights.values()), materialize_grads=True)
    with forward_ad.dual_level():
        moving = {
            name: forward_ad.make_dual(p.detach(), slope)
            for (name, p), slope in zip(weights.items(), slopes, strict=True)
        }
        found = losses_of(functional_call(model, (moving, buffers), (own.inputs,)), own.targets)
        losses, lowers = forward_ad.unpack_dual(found)
    adam.zero_grad()
    (-meta_weights(g, losses) * lowers).mean(dim=1).sum().backward()
    adam.step()


def halves(batch: Batch) -> tuple[Half, Half]:
    """Return both halves of a batch."""
    cut = len(batch.targets) // 2
    return Half(batch.inputs[:cut], batch.targets[:cut]), Half(batch.inputs[cut:], batch.targets[cut:])


def train_meta(model: MultiExit, data: Data, bench: Bench, **options: Any) -> None:
    """Train the network on meta-learned weights, g by two of `meta_step` before each of its own.

    ``options`` are those of `fit`.
    """

    def train() -> None:
        torch.manual_seed(bench.seed)
        g = predictor(model.exits, META_HIDDEN).to(device_of(model))
        adam = torch.optim.Adam(g.parameters(), lr=META_RATE, weight_decay=META_DECAY)

        def loss(batch: Batch) -> Tensor:
            first, second = halves(batch)
            meta_step(model, g, adam, first, second)
            meta_step(model, g, adam, second, first)
            losses = losses_of(model(batch.inputs), batch.targets)
            return (meta_weights(g, losses).detach() * losses).mean(dim=1).sum()

        model.train()
        label = "training all exits on meta-learned weights"
        fit(model.parameters(), data.train, loss, bench, label=label, beside=(adam,), **options)

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()
