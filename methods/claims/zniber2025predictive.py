"""What EE-PCN claims: a shallow network in cycles comes near a deep one with less, and easy images need few cycles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import mean
from typing import cast

import torch
from torch import nn

from eelit.methods.claims.comparisons import gains_by_exit
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import device_of
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.timing import BATCH
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.zniber2025predictive import PredictiveCodingExits, Sweep
from eelit.methods.recipes.plain import train_plain

ERRORS = 2000
"""Test images on which errors of prediction are measured."""


def claims(method: PredictiveCodingExits, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside a deep network trained for as long; beside the first sweep alone; distilled, beside labels alone."""
    found = [stops_early(curve), foreseen(errors(prepared))]
    if method.distilled:
        labels = method.replace({"distilled": False})
        return [*found, taught(gains_by_exit(method, prepared, labels, bench))]
    deep = deep_network(method, prepared, bench)
    held, test = (method.static(deep.split(split))[-1].quality for split in ("validation", "test"))
    sizes = [weights(each.model) for each in (prepared, deep)]
    swept = method.replace({"cycles": 0})
    alone = swept.static(swept.prepare(bench).split("test"))[-1].quality
    cost = float(deep.split("test").full_costs.mean())
    return [
        *found,
        comparable(curve, held, test, cost, sizes),
        refined([point.quality for point in method.static(prepared.split("test"))], alone),
    ]


def deep_network(method: PredictiveCodingExits, prepared: Prepared, bench: Bench) -> Prepared:
    """Return the network that would teach, trained on the same images for as many steps."""
    known = prepared.data.without_test()
    model = method.teacher(known, bench.seed)
    train_plain(model, known, bench, epochs=method.epochs, batch=method.batch, rate=method.rate)
    return Prepared(method.deployed(model), prepared.data, bench, method)


def weights(model: nn.Module) -> int:
    """Return how many weights a network has."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def errors(prepared: Prepared) -> list[float]:
    """Return the mean of ``||e_0||`` over test images in each cycle: by how far the image is not what is predicted."""
    network = cast(Sweep, prepared.model.stages[0]).network
    cycles, chosen = prepared.model.exits - 1, prepared.split("test").examples.head(ERRORS)
    found = [0.0] * cycles
    for _, x in chosen.batches(BATCH, device=device_of(network)):
        r = network.sweep(x)
        for t in range(cycles):
            r, p = network.back(r)
            found[t] += float((r[0] - p[0]).flatten(1).norm(dim=1).sum()) / len(chosen)
            r = network.forth(r, p)
    return found


def foreseen(errors: Sequence[float]) -> Outcome:
    """See whether the image is predicted better and better, which nobody has taught."""
    return Outcome(
        name="errors of prediction fall",
        statement="The distance between an image and what the levels predict of it, ||e_0||, falls from each cycle to "
        "the next, on average over test images. It is no part of the loss.",
        holds=all(b < a for a, b in pairwise(errors)),
        measured=", ".join(f"{error:.4g}" for error in errors),
    )


def stops_early(curve: Curve) -> Outcome:
    """Stop when sure, beside all cycles."""
    point = cheapest_within(curve.validation, curve.test, 0.005)
    loss, saved = curve.full_quality - point.quality, 1 - 1 / point.speed_up
    return Outcome(
        name="fewer cycles at equal accuracy",
        statement="The cheapest threshold that loses at most half a point on validation data saves 30 % of the MACs of "
        "all cycles and loses at most one point on test data.",
        holds=saved >= 0.3 and loss <= 0.01,
        measured=f"{saved:.1%} of the MACs saved, accuracy {-loss:+.4f}, at threshold {point.knob:g}",
    )


def comparable(curve: Curve, held: float, test: float, cost: float, sizes: Sequence[int]) -> Outcome:
    """Compare with a deep network, given its accuracy on validation and test data, its cost, and both sizes."""
    point = cheapest_within(curve.validation, curve.test, 0.01, of=held)
    ours, theirs = sizes
    return Outcome(
        name="comparable to a deep network with less",
        statement="The cheapest threshold that loses at most one point to the deep network on validation data, or "
        "else the best one, loses at most two points to it on test data, with a quarter of its weights and half of its "
        "MACs.",
        holds=point.quality >= test - 0.02 and ours <= theirs / 4 and point.cost <= cost / 2,
        measured=f"accuracy {point.quality - test:+.4f}, {ours / theirs:.1%} of the weights, {point.cost / cost:.1%} "
        f"of the MACs, at threshold {point.knob:g}",
    )


def refined(accuracies: Sequence[float], alone: float) -> Outcome:
    """See what cycles bring, beside the first sweep of the same network and beside one that was trained alone."""
    return Outcome(
        name="cycles refine the answer",
        statement="After all cycles accuracy on test data is three points higher than after the first sweep, and one "
        "point higher than that of the same layers up, trained for as many steps without cycles.",
        holds=accuracies[-1] >= accuracies[0] + 0.03 and accuracies[-1] >= alone + 0.01,
        measured=", ".join(f"{accuracy:.4f}" for accuracy in accuracies) + f"; without cycles {alone:.4f}",
    )


def taught(gains: Sequence[float]) -> Outcome:
    """What learning from a deep network brings, given the gains of all exits."""
    return Outcome(
        name="a deep network teaches well",
        statement="Beside the same network trained for as many steps on labels alone, exits are on average half a "
        "point more accurate.",
        holds=mean(gains) >= 0.005,
        measured="by exit " + ", ".join(f"{gain:+.4f}" for gain in gains),
    )
