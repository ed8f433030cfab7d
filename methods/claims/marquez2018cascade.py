"""What deep cascade learning claims: as accurate as training end to end, better early layers, less memory and work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from eelit.methods.backbones.internal_classifier import places
from eelit.methods.claims.comparisons import accuracies
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.marquez2018cascade import SIDE, DeepCascade, through
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_heads

MEMORY, WORK = 0.75, 0.9
"""Most of the numbers and of the operations of training as a whole that are significantly less."""


def claims(method: DeepCascade, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside end-to-end training of the same network, for about as many operations; costs are those of one batch."""
    ours = accuracies(method, prepared)
    theirs = accuracies(method, end_to_end(method, prepared, bench))
    anew, stored = ways(method, prepared)
    tuned, longer = pre_trained(method, prepared, bench, stored.work)
    return [
        as_accurate(ours[-1], theirs[-1], stored.work),
        better_early(ours, theirs),
        progressive(ours),
        *cheaper(anew, stored),
        pre_training(tuned, longer),
    ]


def end_to_end(method: DeepCascade, prepared: Prepared, bench: Bench) -> Prepared:
    """Return the same network trained as a whole, then output blocks on its frozen layers, each for as many passes."""
    data = prepared.data.without_test()
    model = method.build(data, bench.seed)
    train_plain(model, data, bench, **method.options)
    train_heads(model, data, bench, keep=means, **method.options)
    return Prepared(method.deployed(model), prepared.data, bench, method)


def means(state: Tensor) -> Tensor:
    """Return all that an output block reads of maps ``[N, C, H, W]``."""
    return F.adaptive_avg_pool2d(state, places(state.shape[1:], SIDE))


def pre_trained(method: DeepCascade, prepared: Prepared, bench: Bench, work: float) -> tuple[float, float]:
    """Return the test accuracy after a cascade and then training as a whole, and after as much work of that alone.

    ``work`` is that of the cascade as a share of training as a whole.
    """
    data, found = prepared.data.without_test(), []
    for cascade_first, epochs in ((True, method.epochs), (False, round((1 + work) * method.epochs, 1))):
        model = method.build(data, bench.seed)
        if cascade_first:
            grown = method.build(data, bench.seed)
            method.train(grown, data, bench)
            model.stages.load_state_dict(grown.stages.state_dict())  # the output block starts anew
        train_plain(model, data, bench, **{**method.options, "epochs": epochs})
        found.append(accuracies(method, Prepared(method.deployed(model), prepared.data, bench, method))[-1])
    return found[0], found[1]


def as_accurate(ours: float, theirs: float, work: float) -> Outcome:
    """The whole network, given the work of the cascade as a share of training as a whole."""
    return Outcome(
        name="as accurate as end to end",
        statement="The last exit is at most one point less accurate than the same network trained as a whole, for as "
        "many passes as each layer has: that is about as many operations, but all layers together have several times "
        "as many passes.",
        holds=ours >= theirs - 0.01,
        measured=f"{ours:.4f} and {theirs:.4f}; the cascade takes {work:.1%} of the operations",
    )


def better_early(ours: list[float], theirs: list[float]) -> Outcome:
    """Layers before the middle."""
    gains = [a - b for a, b in zip(ours, theirs, strict=True)]
    early = gains[: len(gains) // 2]
    return Outcome(
        name="better early layers",
        statement="The exits of the first half of the layers are on average one point more accurate than output blocks "
        "trained for as many passes on the frozen layers of the network that was trained as a whole.",
        holds=mean(early) >= 0.01,
        measured="by exit " + ", ".join(f"{gain:+.4f}" for gain in gains),
    )


def progressive(ours: list[float]) -> Outcome:
    """Exit by exit."""
    return Outcome(
        name="accuracy rises with each layer",
        statement="Each exit is more accurate than the one before it, or at most half a point less, and the last is "
        "five points more accurate than the first.",
        holds=all(b >= a - 0.005 for a, b in pairwise(ours)) and ours[-1] >= ours[0] + 0.05,
        measured=", ".join(f"{accuracy:.4f}" for accuracy in ours),
    )


class Way(NamedTuple):
    """What training takes in one of two ways: frozen layers computed anew in each step, or once, their maps stored."""

    memory: float  # of the stage that needs most, as a share of what training as a whole needs
    work: float  # of all stages, as a share of the operations of training as a whole
    numbers: tuple[int, int]  # what is kept, by the cascade and by training as a whole

    @property
    def cheap(self) -> tuple[bool, bool]:
        """Return whether memory and work are significantly less."""
        return self.memory <= MEMORY, self.work <= WORK


def ways(method: DeepCascade, prepared: Prepared) -> tuple[Way, Way]:
    """Return what the cascade takes beside training as a whole, frozen layers computed anew and their maps stored.

    In float32, for a batch, in as many passes. Where maps are stored, both keep what they learn from: images or maps.
    """
    plain, data = method.replace({"half": False}), prepared.data.without_test()
    model, D = plain.build(data, 0), data.train.head(method.batch)
    kept, whole = step_of(model.plain_network(), D)
    images, stages, read, forward = D.inputs[0].numel(), [], [], []
    for F_i, O_i in zip(model.stages, model.heads, strict=True):
        read.append(D.inputs[0].numel())
        stages.append(step_of(nn.Sequential(copy.deepcopy(F_i), O_i), D))
        with FlopCounterMode(display=False) as counter:
            D = through(F_i, D)
        forward.append(counter.get_total_flops())
    steps, below = sum(flops for _, flops in stages), [sum(forward[:i]) for i in range(len(forward))]
    most, n = max(numbers for numbers, _ in stages), len(data.train)
    stored = max(numbers + n * size for (numbers, _), size in zip(stages, read, strict=True)), kept + n * images
    return (
        Way(most / kept, (steps + sum(below)) / whole, (most, kept)),
        Way(stored[0] / stored[1], (steps + below[-1] / method.epochs) / whole, stored),
    )


def cheaper(anew: Way, stored: Way) -> list[Outcome]:
    """Memory and work, each in the way in which it is less, and both in one."""
    (ours, theirs), (with_maps, with_images) = (tuple(n / 1e6 for n in way.numbers) for way in (anew, stored))
    return [
        Outcome(
            name="less memory",
            statement="If frozen layers are computed anew in each step, so that none of their maps is stored, the "
            "stage that needs most keeps at most three quarters of the numbers for a training step, activations and "
            "gradients, that training as a whole keeps.",
            holds=anew.cheap[0],
            measured=f"{ours:.2f} million instead of {theirs:.2f} million; with stored maps of all training images "
            f"{with_maps:.2f} million instead of {with_images:.2f} million with the images",
        ),
        Outcome(
            name="less computation",
            statement="If frozen layers are computed once and their maps are stored, all stages together take at most "
            "nine tenths of the operations of as many passes of training as a whole.",
            holds=stored.cheap[1],
            measured=f"{stored.work:.1%} of the operations; {anew.work:.1%} if frozen layers are computed anew",
        ),
        Outcome(
            name="less memory and less computation at once",
            statement="In one of the two ways, frozen layers computed anew in each step or their maps stored, both are "
            "less: at most three quarters of the numbers and nine tenths of the operations.",
            holds=all(anew.cheap) or all(stored.cheap),
            measured=f"computed anew: {anew.memory:.1%} of the numbers, {anew.work:.1%} of the operations; stored: "
            f"{stored.memory:.1%} and {stored.work:.1%}",
        ),
    ]


def step_of(model: nn.Module, examples: Examples) -> tuple[int, float]:
    """Return how many numbers a training step keeps, saved for going backward and as gradients, and its operations."""
    x, y, saved = torch.stack(list(examples.inputs)), examples.targets, dict[int, int]()
    own = {p.data_ptr() for p in model.parameters()}
    model.train()
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(_into(saved, own), _same):
        F.cross_entropy(model(x), y).backward()
    gradients = sum(p.grad.numel() for p in model.parameters() if p.grad is not None)
    return sum(saved.values()) + gradients, float(counter.get_total_flops())


def _into(saved: dict[int, int], own: set[int]) -> Callable[[Tensor], Tensor]:
    """Note the size of each tensor that is saved, once for each place in memory, but for weights."""

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            saved[tensor.data_ptr()] = max(saved.get(tensor.data_ptr(), 0), tensor.numel())
        return tensor

    return note


def _same(tensor: Tensor) -> Tensor:
    return tensor


def pre_training(tuned: float, longer: float) -> Outcome:
    """A start for training as a whole."""
    return Outcome(
        name="a good start for training as a whole",
        statement="Trained as a whole after the cascade, with an output block that starts anew, the network is half a "
        "point more accurate than trained as a whole from the start for as many operations as both take together, the "
        "cascade with stored maps.",
        holds=tuned >= longer + 0.005,
        measured=f"{tuned:.4f} and {longer:.4f}",
    )
