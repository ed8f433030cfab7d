"""Class-specific early exit design methodology for convolutional neural networks (class-specific early exits).

Idea
    In use, only a few classes of a network may be frequent or urgent. So leave the network as it is, and add exits that
    answer for those target classes alone: whether an image belongs to one of them is an easier question than which
    class it is. The exits are chosen by one figure, the mean latency of images of the target classes, under the
    condition that the accuracy over all classes does not fall.

Model
    After each candidate place l of a trained network with classes Y, a detector for the targets S, a subset of Y:
    phi_l, the map F_l pooled to 4×4 places;  g_l, linear, |S| + 1 scores of phi_l: each target, and "other". To compare
    exits, a detector's answer is expressed in terms of Y: p(s) = softmax(g_l)_s for targets, and the probability of
    "other" in equal parts for all other classes.

Training
    First the network alone, by cross-entropy; then it is frozen. Then the detectors by
    L = sum_l CE(g_l, y'), y' = y for targets and "other" for all other classes.
    Then the design, on held-out images, for an accuracy slack eps:
    Thresholds: theta_{l,s} is the least value of a grid by which exit l breaks, by answering s, at most eps N more
    answers of the network than it repairs, of N images.
    Exits: begin with none. Of the exits that may be added, those with which the error over all classes is at most the
    network's plus eps, the one is added by which T, the mean cost of images of the target classes, falls most; as long
    as one makes it fall.

Exit rule
    Stop at an exit l that was chosen if a target s has softmax(g_l)_s > theta_{l,s} (strictly), and more than any other
    score has; the answer is s. Samples predicted as "other" continue. The knob is eps: of all judged designs that lose
    no more accuracy than eps on held-out images, the one with the least T is taken. Below 0 there is none, and the
    network answers without exits.

Skipped
    For images that are recognised as a target class, all layers after the exit; for the others nothing. Exits that were
    not chosen are removed from the network.

Trained otherwise
    Besides the epochs that all rows have, which train the network, the detectors learn for as many on its frozen maps:
    that the network is given and stays as it is, is what the paper is about.

Deviations
    1. This is a reconstruction, as only the abstract could be read. It names the input (a trained network, targets),
       the output (a network with early exits), the objective (the mean latency of the target classes) and the condition
       (the accuracy over all classes). Detectors, thresholds, the greedy choice and its order are ours.
    2. A small residual network with five candidate places on cluttered Fashion-MNIST, 6,000 images, 2 epochs, instead
       of ResNet-21, ResNet-110, Inception-v3 and DenseNet-121 on CIFAR-10 and CIFAR-100: what two cores can train in
       minutes.
    3. Targets are footwear (sandals, sneakers and ankle boots), or trousers; those of the paper are not known.
    4. Latency is counted in multiply-accumulates, not measured on a device.
    5. Costs of the curve are means over the images of all classes, as in every other row. The paper's figure, for the
       target classes, is given in addition, in the search and in the outcomes.
    6. Designs for several slacks are searched, not for slack 0 alone, so that there is a front. Thresholds are set on
       the images of the search, and no design is judged for that; the random search beside it has the same thresholds,
       and differs in which sets of exits it judges.
    7. There must be a target, and a class that is none: without targets the network would have no exits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.backbones.internal_classifier import InternalClassifier, Shape
from eelit.methods.engine.examples import Data
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.search import SPARE, Designs, Judge, Judged, Space, firsts
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families.designs import Design, DesignMethod, Prepared, without_idle
from eelit.methods.families.images import TwoStageImageMethod
from eelit.methods.policies.base import Policy
from eelit.methods.policies.target_classes import TargetClasses


class Detector(nn.Module):
    """``g_l``: from maps ``[N, C, H, W]`` to logits ``[N, classes]``, in which "other" is all classes but the targets.

    Their cross-entropy is that of the scores of targets and "other", but for a constant.
    """

    def __init__(self, shape: Shape, targets: Sequence[int], classes: int) -> None:
        super().__init__()
        self.g = InternalClassifier(shape, len(targets) + 1)
        self.classes = classes
        self.register_buffer("targets", torch.tensor(targets))

    def forward(self, F: Tensor) -> Tensor:
        """Score the targets and "other", and divide the latter equally."""
        g = self.g(F)
        other = g[:, -1:] - math.log(self.classes - g.shape[1] + 1)
        found: Tensor = other.expand(-1, self.classes).index_copy(1, self.get_buffer("targets"), g[:, :-1])
        return found


def recognised(seen: StoredOutputs, targets: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which target each early exit recognises in each image, ``[E - 1, N, S]``, and p of each target."""
    p = seen.answers[:-1].double().softmax(dim=-1)[..., list(targets)].numpy()
    return (p == p.max(axis=-1, keepdims=True)) & (p > 1 - p.sum(axis=-1, keepdims=True)), p


def levels_within(seen: StoredOutputs, targets: Sequence[int], levels: Sequence[float], eps: float) -> Designs:
    """Return the numbers ``[E - 1, S]`` of the least levels that break at most ``eps N`` more answers than they repair.

    No answer is broken by the last level if that is 1.
    """
    said, p = recognised(seen, targets)
    y = seen.targets.numpy()
    right = (seen.answers[-1].argmax(dim=-1) == seen.targets).numpy()
    found = np.full((said.shape[0], len(targets)), len(levels) - 1, dtype=np.int64)
    for k, s in enumerate(targets):
        worth = np.where(right, y != s, -1.0 * (y == s))  # 1 where an answer is broken, -1 where one is repaired
        for i in reversed(range(len(levels))):
            harm = ((said[..., k] & (p[..., k] > levels[i])) * worth).sum(axis=1)
            found[harm <= eps * len(y) + 1e-9, k] = i
    return found


def greedy(judge: Judge, thresholds: Designs, eps: float) -> Judged:
    """Add exits with these thresholds ``[E - 1, S]`` one by one, and return all designs that were judged on the way.

    The first of them is the network without exits.
    """
    nothing = np.concatenate([np.zeros(len(thresholds), dtype=np.int64), thresholds.ravel()])
    found = Judged(nothing[None], judge(nothing[None]))
    (base, T), kept = found.scores[0], nothing
    while len(free := np.flatnonzero(kept[: len(thresholds)] == 0)):
        tried = np.repeat(kept[None], len(free), axis=0)
        tried[np.arange(len(free)), free] = 1
        scores = judge(tried)
        found = Judged(np.concatenate([found.designs, tried]), np.concatenate([found.scores, scores]))
        costs = np.where(scores[:, 0] <= base + eps + 1e-9, scores[:, 1], np.inf)
        best = int(costs.argmin())
        if costs[best] >= T:
            break
        T, kept = costs[best], tried[best]
    return found


def some(count: int, early: int, rows: Sequence[Designs], seed: int) -> Designs:
    """Return designs drawn at random: any set of exits, with one of the rows of thresholds ``[E - 1, S]``."""
    rng = np.random.default_rng(seed)
    kept, which = rng.integers(0, 2, (count, early)), rng.integers(0, len(rows), count)
    return np.concatenate([kept, np.stack(rows)[which].reshape(count, -1)], axis=1)


@dataclass(frozen=True)
class ClassSpecific(TwoStageImageMethod, DesignMethod):
    """Exits that answer for target classes alone, chosen so that these are recognised soon and nothing is lost."""

    targets: tuple[int, ...] = (5, 7, 9)  # S; not known of the paper
    network: str = "resnet"  # the paper: ResNet-21, ResNet-110, Inception-v3, DenseNet-121
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100
    train_size: int = 6000  # training images; the paper: 50,000
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where candidates stand: after every block
    half: bool = True  # whether the network learns with products in bfloat16
    epochs: float = 2.0  # passes that train the network; the paper is given a trained one
    batch: int = 32  # images of a step
    rate: float = 2e-3  # learning rate of AdamW
    head_epochs: float = 2.0  # passes that train the detectors; not known of the paper
    head_rate: float = 5e-3  # learning rate there; not known of the paper
    levels: tuple[float, ...] = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)  # for theta, rising
    slacks: tuple[float, ...] = (0.0, 0.005, 0.01, 0.02, 0.05, 1.0)  # values of eps to search with; the paper: 0

    knob: ClassVar[str] = "accuracy slack"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.02, 0.01, 0.005, 0.0, -1.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"footwear": {}, "trousers": {"targets": (1,)}}
    tiny: ClassVar[Mapping[str, Any]] = {
        **DesignMethod.tiny,
        "widths": (1, 8, 24),
        "shares": (0.05, 0.4),
        "head_epochs": 6.0,
        "head_rate": 2e-2,
    }
    smoke: ClassVar[Mapping[str, Any]] = {**DesignMethod.smoke, "head_epochs": 3.0, "head_rate": 2e-2}
    others: ClassVar[Mapping[str, Any]] = {
        **DesignMethod.others,
        "shares": (0.01, 0.4),
        "levels": (0.0, 0.9, 1.0),
        "slacks": (0.0, 1.0),
    }
    algorithm: ClassVar[str] = "greedy choice of exits for each of several slacks"
    searched: ClassVar[str] = "which exits are there, and for which slack their thresholds are set"
    averaged: ClassVar[str] = "MACs of an image of the target classes"
    exempt: ClassVar[Mapping[str, str]] = {
        "eager_is_the_first_exit": "images of all other classes go on to the end, whatever the slack",
        "cost_is_monotone": "designs are chosen by what target images cost alone, and on other images",
        "trousers: trades_off": "one class in ten leaves early, so that less than a tenth of all cost can be saved",
    }

    @property
    def never(self) -> tuple[float, ...]:
        """Thresholds that nothing is above."""
        return (1.0,) * len(self.targets)

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network with a detector at each candidate place. Raises `ValueError` for targets that mean nothing."""
        classes, S = data.classes or 1, self.targets
        if not 0 < len(S) < classes or len({*S}) < len(S) or not all(s in range(classes) for s in S):
            raise ValueError(f"targets are some, not all, of the classes 0 to {classes - 1}, each named once, not {S}")
        return super().build(data, seed)

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """A detector for maps ``[C, H, W]``."""
        return Detector(shape, self.targets, classes)

    def space(self, exits: int) -> Space:
        """A bit for each candidate, then a number of a threshold for each candidate and target."""
        early, S = exits - 1, self.each
        nothing = (*(0,) * early, *(len(self.levels) - 1,) * early * S)
        values = (2,) * early + (len(self.levels),) * early * S
        return Space(values, (nothing,), partial(without_idle, early=early, each=S))

    @property
    def each(self) -> int:
        """An exit has a threshold for each target."""
        return len(self.targets)

    def different(self, exits: int) -> float:
        """Sets of exits for each slack, and the network without exits."""
        return float((2 ** (exits - 1) - 1) * len(self.slacks) + 1)

    def design(self, genes: Sequence[int], exits: int) -> Design:
        """Read exits and thresholds from the genes."""
        early, S = exits - 1, self.each
        theta = [self.levels[i] for i in genes[early:]]
        rows = tuple(tuple(theta[i : i + S]) for i in range(0, early * S, S))
        return Design(tuple(bit == 1 for bit in genes[:early]), rows)

    def stop(self, thresholds: Sequence[tuple[float, ...]]) -> Policy:
        """A target must be recognised, by more than its threshold."""
        return TargetClasses(self.targets, tuple(thresholds))

    def weighed(self, seen: StoredOutputs) -> Tensor:
        """Images of the target classes count."""
        return torch.isin(seen.targets, torch.tensor(self.targets))

    def fit(self, prepared: Prepared) -> Judged:
        """Search greedily for each slack, and keep all that was judged; the first is the network without exits."""
        written = self.space(prepared.model.exits).written

        def judge(designs: Designs) -> NDArray[np.float64]:
            return self.judged(designs, prepared, "fitting")

        pairs = zip(self.rows(prepared), self.slacks, strict=True)
        parts = [(written(each.designs), each.scores) for each in (greedy(judge, row, eps) for row, eps in pairs)]
        return Judged(*(np.concatenate(part) for part in zip(*parts, strict=True))).once

    def rows(self, prepared: Prepared) -> list[Designs]:
        """Return for each slack the thresholds ``[E - 1, S]``, which the answers to the images of the search set."""
        seen = prepared.split("fitting")
        return [levels_within(seen, self.targets, self.levels, eps) for eps in self.slacks]

    def rival(self, prepared: Prepared) -> Judged:
        """Return as many different designs, each a random set of exits with the thresholds of one of the slacks.

        So both searches know the same of the images: they differ in which sets of exits they judge.
        """
        space, early = self.space(prepared.model.exits), prepared.model.exits - 1
        budget = len(prepared.fitted.designs)
        drawn = some(SPARE * budget, early, self.rows(prepared), prepared.bench.seed)
        drawn = space.written(np.concatenate([np.array(space.known), drawn]))
        designs = drawn[firsts(drawn)[:budget]]
        return Judged(designs, self.judged(designs, prepared, "fitting"))

    def taken(self, knob: float, found: Judged) -> int:
        """Return the number of the design of the least T among those that lose at most ``knob`` of accuracy."""
        allowed = np.flatnonzero(found.scores[:, 0] <= found.scores[0, 0] + knob + 1e-9)
        return int(allowed[found.scores[allowed, 1].argmin()])

    def chosen(self, knob: float, prepared: Prepared) -> Design:
        """Return the design for a slack; below 0 there is none, and the network answers without exits."""
        exits, found = prepared.model.exits, prepared.fitted
        number = self.taken(knob, found) if knob >= 0 else 0
        return self.design(found.designs[number].tolist(), exits)

    def told(self, design: Design) -> str:
        """Name the exits, from 1, with the thresholds of the targets."""
        rows = [" / ".join(f"{theta:g}" for theta in row) for row in design.thresholds]
        kept = [f"exit {i + 1} above {rows[i]}" for i, stays in enumerate(design.kept) if stays]
        return ", ".join(kept) or "no exit"
