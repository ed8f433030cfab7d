"""What GoogLeNet claims of its auxiliary heads: gradient for the first layers, and a better network without them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import islice
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from eelit.methods.backbones.vgg import plain_exits
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.families.image_cascades import SMALL_BLOCKS
from eelit.methods.papers.szegedy2015googlenet import GoogLeNet, Inception
from eelit.methods.papers.wang2018idk import IdkCascade
from eelit.methods.recipes.joint import exit_losses, weighted
from eelit.methods.recipes.plain import train_plain

GAIN = 0.005
"""What heads must bring; the paper: about so much."""
BATCHES = 10
"""Batches on which gradients are compared."""


@dataclass(frozen=True)
class Small(GoogLeNet):
    """The small network of IDK cascades: two plain convolutions of each of two widths, and no head but its last."""

    def build(self, data: Data, seed: int) -> MultiExit:
        """Its modules are not those of GoogLeNet."""
        shape: dict[str, Any] = {"widths": IdkCascade.small_widths, "blocks": SMALL_BLOCKS, "pixels": self.pixels}
        image, classes = data.train.inputs[0].shape, data.classes or 1
        return plain_exits(image, classes, **shape, shares=(), head=nn.Identity, half=False, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Ordinary training."""
        train_plain(model, data, bench, epochs=self.epochs, batch=self.batch, rate=self.rate)


def small(method: GoogLeNet) -> Small:
    """Return the small network on the images of the method, trained for as long, in such batches, at its rate."""
    return Small(**{field.name: getattr(method, field.name) for field in fields(method)})


def claims(method: GoogLeNet, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the same network trained as long without auxiliary losses, and with that behind 4d alone.

    What the three reach says something of heads if the best of them has learnt the task as well as a small network.
    """
    ours = curve.full_quality
    bare, single = (
        quality(method.replace({"discounts": discounts}), bench)
        for discounts in ((0.0, 0.0), (0.0, method.discounts[1]))
    )
    reason = why_undecided(max(ours, bare, single), quality(small(method), bench))
    found = [better(ours, bare), one_suffices(ours, bare, single)]
    return [
        stronger(method, prepared, bench),
        *(each.model_copy(update={"holds": each.holds and not reason, "not_comparable": reason}) for each in found),
    ]


def why_undecided(best: float, small: float) -> str:
    """Return why such networks can say nothing of what heads bring, or nothing: they must have learnt their task."""
    if best >= small:
        return ""
    return (
        "In so short a training the network has hardly learnt, with heads or without: the best of its three trainings "
        f"reaches {best:.4f} on test data. A small network of {2 * SMALL_BLOCKS} plain convolutions, trained on the "
        f"same images as long, reaches {small:.4f}."
    )


def quality(rival: GoogLeNet, bench: Bench) -> float:
    """Return the accuracy of the main classifier of another training on test data, its heads dropped."""
    return rival.full_model(rival.prepare(bench), bench)[0]


def better(ours: float, bare: float) -> Outcome:
    """What both heads bring to the network that is left when they are dropped."""
    return Outcome(
        name="better with auxiliary heads",
        statement="Without heads at inference, the network that learned with two of them is half a point more accurate "
        "than the same network trained as long on its main loss alone.",
        holds=ours >= bare + GAIN,
        measured=f"{ours:.4f} with, {bare:.4f} without auxiliary losses",
    )


def one_suffices(ours: float, bare: float, single: float) -> Outcome:
    """Whether the second head adds to what the first brings."""
    return Outcome(
        name="one head is enough",
        statement="Trained with the head behind 4d alone, the network is half a point more accurate than without any, "
        "and at most a quarter of a point less than with both.",
        holds=single >= bare + GAIN and single >= ours - GAIN / 2,
        measured=f"{single:.4f} with one, {ours:.4f} with two, {bare:.4f} without",
    )


def stronger(method: GoogLeNet, prepared: Prepared, bench: Bench) -> Outcome:
    """How much longer the gradient is that reaches the first module of the untrained network."""
    model, train, found = method.build(prepared.data, bench.seed), prepared.data.train, []
    model.train()
    torch.manual_seed(bench.seed)
    for index, x in islice(train.batches(method.batch), BATCHES):
        found.append(gradients(model, x, train.targets[index], method.discounts))
    ratio = mean(both for both, _ in found) / mean(alone for _, alone in found)
    return Outcome(
        name="more gradient for the first module",
        statement="Before the first step the gradient of the whole loss in module 3a is a tenth longer than that of "
        "the main loss alone.",
        holds=ratio >= 1.1,
        measured=f"{ratio:.2f} times as long, mean over {len(found)} batches",
    )


def gradients(model: MultiExit, x: Tensor, y: Tensor, discounts: tuple[float, float]) -> tuple[float, float]:
    """Return the length of the gradient in the first module, of the whole loss and of the main one alone."""
    first = next(part for part in model.modules() if isinstance(part, Inception))
    losses = exit_losses(model(x), y)
    found = []
    for weights in ([*discounts, 1.0], [0.0, 0.0, 1.0]):
        slopes = torch.autograd.grad(weighted(losses, weights), list(first.parameters()), retain_graph=True)
        found.append(float(torch.cat([slope.flatten() for slope in slopes]).norm()))
    return found[0], found[1]
