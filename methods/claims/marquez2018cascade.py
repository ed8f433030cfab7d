"""What deep cascade learning claims: as accurate as training end to end, better early layers, less memory and work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from statistics import mean

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


def claims(method: DeepCascade, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside end-to-end training of the same network, for as many passes or more; costs are those of one batch."""
    ours = accuracies(method, prepared)
    theirs = accuracies(method, end_to_end(method, prepared, bench))
    tuned, longer = pre_trained(method, prepared, bench)
    return [
        as_accurate(ours[-1], theirs[-1]),
        better_early(ours, theirs),
        progressive(ours),
        *cheaper(method, prepared),
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


def pre_trained(method: DeepCascade, prepared: Prepared, bench: Bench) -> tuple[float, float]:
    """Return the test accuracy after a cascade and then training as a whole, and after as many passes of that alone."""
    data, found = prepared.data.without_test(), []
    for cascade_first, epochs in ((True, method.epochs), (False, 2 * method.epochs)):
        model = method.build(data, bench.seed)
        if cascade_first:
            grown = method.build(data, bench.seed)
            method.train(grown, data, bench)
            model.stages.load_state_dict(grown.stages.state_dict())  # the output block starts anew
        train_plain(model, data, bench, **{**method.options, "epochs": epochs})
        found.append(accuracies(method, Prepared(method.deployed(model), prepared.data, bench, method))[-1])
    return found[0], found[1]


def as_accurate(ours: float, theirs: float) -> Outcome:
    """The whole network."""
    return Outcome(
        name="as accurate as end to end",
        statement="The last exit is at most one point less accurate than the same network trained as a whole, for as "
        "many passes as each layer has.",
        holds=ours >= theirs - 0.01,
        measured=f"{ours:.4f} and {theirs:.4f}",
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


def cheaper(method: DeepCascade, prepared: Prepared) -> list[Outcome]:
    """Memory and work of a training step, in float32: what is kept for it, and operations forward and backward."""
    plain = method.replace({"half": False})
    data = prepared.data.without_test()
    model = plain.build(data, 0)
    kept, work = step_of(model.plain_network(), data.train.head(method.batch))
    stages, D = [], data.train.head(method.batch)
    forward = 0.0  # once for all passes
    for F_i, O_i in zip(model.stages, model.heads, strict=True):
        stages.append(step_of(nn.Sequential(copy.deepcopy(F_i), O_i), D))
        with FlopCounterMode(display=False) as counter:
            D = through(F_i, D)
        forward += counter.get_total_flops() / method.epochs
    most, total = max(numbers for numbers, _ in stages), sum(flops for _, flops in stages) + forward
    return [
        Outcome(
            name="less memory",
            statement="The stage that needs most keeps at most three quarters of the numbers for a training step, "
            "activations and gradients, that training as a whole keeps.",
            holds=most <= 0.75 * kept,
            measured=f"{most / 1e6:.2f} million instead of {kept / 1e6:.2f} million, batches of {method.batch}",
        ),
        Outcome(
            name="less computation",
            statement="All stages together take at most nine tenths of the operations of as many passes of training as "
            "a whole.",
            holds=total <= 0.9 * work,
            measured=f"{total / work:.1%} of the operations",
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
        "point more accurate than trained as a whole from the start for as many passes as both have together.",
        holds=tuned >= longer + 0.005,
        measured=f"{tuned:.4f} and {longer:.4f}",
    )
