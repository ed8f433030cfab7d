"""What SnaPEA claims: work saved at no loss in exact mode, pruned or not, and half of it where layers speculate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import accuracy
from eelit.methods.engine.operating_points import at
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.timing import BATCH
from eelit.methods.families.dot_products import Convolutions, Kernels, Prepared, run
from eelit.methods.papers.akhlaghi2018snapea import Path, SnaPEA, Sorted

BUDGET = 0.03
"""The paper's loss of accuracy."""
DENSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the weights that pruning may leave."""
FREE = 0.01
"""Accuracy that pruning may lose on the images that thresholds are fitted on."""


def claims(method: SnaPEA, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Both modes in products, what speculation weights and the three passes are good for, and seconds."""
    return [
        unchanged(method, prepared, bench),
        saved(curve),
        halved(method, prepared, curve),
        with_pruning(of_pruned(method, prepared)),
        spread(prepared.fitted, method.replace({"spread": not method.spread}).prepare(bench).fitted),
        chosen(curve),
        faster(curve),
    ]


def unchanged(method: SnaPEA, prepared: Prepared, bench: Bench) -> Outcome:
    """Exact mode, its products really left out, beside the same sums that do not stop, and whole convolutions."""
    chosen = prepared.examples("test").head(bench.executed)
    early, never = (method.rule(knob, prepared) for knob in (0.0, -1.0))
    found = [
        (run(prepared.model, x, early).answers, run(prepared.model, x, never, really=False).answers, plain(prepared, x))
        for _, x in chosen.batches(BATCH)
    ]
    ours, stopless, whole = (torch.cat(each) for each in zip(*found, strict=True))
    same = int((ours == stopless).all(dim=1).sum())
    alike = int((ours.argmax(dim=1) == whole.argmax(dim=1)).sum())
    return Outcome(
        name="exact mode changes no answer",
        statement="In exact mode, with products really left out, all logits of all images that were executed are, to "
        "the last bit, those of the same sums in the same order that do not stop.",
        holds=same == len(chosen),
        measured=f"equal for {same} of {len(chosen)} images; beside the library's convolutions, which add in another "
        f"order, the class is the same for {alike} of them, and logits differ by at most "
        f"{float((ours - whole).abs().max()):.1e}",
    )


@torch.inference_mode()
def plain(prepared: Prepared, x: Tensor) -> Tensor:
    """Return the answers of the network by whole convolutions."""
    answers: Tensor = prepared.model(x)
    return answers


def saved(curve: Curve) -> Outcome:
    """The paper's speed-up of exact mode, in products."""
    point = next(point for point in curve.test if point.knob == 0)
    return Outcome(
        name="exact mode saves as much as the speed-up",
        statement="Exact mode computes at least 1.28 times fewer products than the whole network (the paper: 1.28 "
        "times as fast on its accelerator).",
        holds=point.speed_up >= 1.28,
        measured=f"{point.speed_up:.3f} times fewer",
    )


def halved(method: SnaPEA, prepared: Prepared, curve: Curve) -> Outcome:
    """Products of the layers that speculate, under the paper's budget."""
    plan, ran = method.plan(BUDGET, prepared), prepared.at("test", BUDGET)
    whole = prepared.at("test", -1.0).macs.double().mean(dim=1)
    on = [i + 1 for i, choice in enumerate(plan) if choice is not None and bool(choice.N.any())]
    gain = float(whole[on].sum() / ran.macs.double().mean(dim=1)[on].sum()) if on else 1.0
    point = next(point for point in curve.test if point.knob == BUDGET)
    loss = curve.full_quality - point.quality
    return Outcome(
        name="speculating layers do half of the work",
        statement="For a budget of three points at least half of the convolutions that may stop speculate (the paper: "
        "67.8 %), these compute half of their products (the paper: 2.02 times as fast), and at most four points of "
        "accuracy are lost on test images.",
        holds=2 * len(on) >= len(plan) and gain >= 2 and loss <= 0.04,
        measured=f"{len(on)} of {len(plan)} convolutions, {gain:.3f} times fewer products there, accuracy {-loss:+.4f}",
    )


class Pruned(NamedTuple):
    """A pruned network on test images: the share of weights that is left, products in all, accuracy, equal answers."""

    density: float
    early: float  # products of an image on average in exact mode
    never: float  # the same where nothing stops; weights that were pruned are on no list
    whole: float  # the same of the network that is not pruned, in exact mode
    accuracy: float
    same: float  # share of the images whose logits are the same to the last bit in exact mode and without stopping


def with_pruning(found: Pruned) -> Outcome:
    """The paper's claim that pruning leaves exact mode something to save, and the other way round."""
    gain = found.never / found.early
    return Outcome(
        name="exact mode saves on a pruned network, too",
        statement="Of a network whose weights of least magnitude are pruned, as many as cost at most one point of "
        "accuracy on held-out images, exact mode computes at least 1.28 times fewer products than without stopping, "
        "with the same logits to the last bit, and fewer than of the whole network (the paper: up to 1.63 times as "
        "fast, on networks that may have been pruned further, by training).",
        holds=found.density < 1 and gain >= 1.28 and found.early < found.whole and found.same == 1,
        measured=f"{gain:.3f} times fewer with {found.density:.0%} of the weights, {found.whole / found.early:.3f} "
        f"times fewer than exact mode of the whole network; accuracy {found.accuracy:.4f}, logits equal for "
        f"{found.same:.1%} of the images",
    )


def of_pruned(method: SnaPEA, prepared: Prepared) -> Pruned:
    """Prune as far as held-out images allow; then run test images in exact mode, and without stopping."""
    early, never = (method.rule(knob, prepared) for knob in (0.0, -1.0))
    density = sparsest(prepared, never)
    ours, plain = (
        prepared.ran("test", [pruned(each, density) for each in lists], f"{name}, {density:g} of the weights")
        for lists, name in ((early, "exact mode"), (never, "nothing stops"))
    )
    exact, stopless, whole = (
        float(prepared.spent(ran).double().mean()) for ran in (ours, plain, prepared.at("test", 0.0))
    )
    same = float((ours.answers == plain.answers).all(dim=1).double().mean())
    right = accuracy(ours.answers, prepared.examples("test").targets)
    return Pruned(density, exact, stopless, whole, right, same)


@torch.inference_mode()
def sparsest(prepared: Prepared, never: Sequence[Kernels]) -> float:
    """Return the least share of weights with which the network loses little on held-out images; 1 if none is enough."""
    held = prepared.for_choosing.examples("fitting")

    def right(model: Convolutions) -> float:
        return accuracy(torch.cat([model(x) for _, x in held.batches(BATCH)]), held.targets)

    least = right(prepared.model) - FREE - 1e-9
    found = (d for d in DENSITIES if right(filled(prepared.model, [pruned(each, d) for each in never])) >= least)
    return next(found, 1.0)


def pruned(kernels: Kernels, density: float) -> Sorted:
    """Return lists, in which nothing speculates, without the weights of least magnitude, as many of each kernel."""
    assert isinstance(kernels, Sorted)
    largest = kernels.weight.abs().argsort(dim=1, descending=True, stable=True)
    kept = largest[:, : math.ceil(density * kernels.m)].sort(dim=1).values  # in the order of the list
    start = (kept < kernels.start[:, None]).sum(dim=1)
    return replace(kernels, index=kernels.index.gather(1, kept), weight=kernels.weight.gather(1, kept), start=start)


def filled(model: Convolutions, lists: Sequence[Sorted]) -> Convolutions:
    """Return a copy of a network with 0 for each weight that is on no list."""
    copy = deepcopy(model)
    for i, kernels in enumerate(lists):
        weight = copy.layer(i).weight
        flat = torch.zeros_like(weight).flatten(1).scatter(1, kernels.index, kernels.weight)
        weight.copy_(flat.view_as(weight))
    return copy


def spread(ours: Path, other: Path) -> Outcome:
    """One speculation weight from each group against the N largest, on the images on which thresholds are fitted."""
    lost = [
        float(torch.cat([each.error[:-1].mean(dim=1) for each in path.candidates]).mean()) for path in (ours, other)
    ]
    return Outcome(
        name="one weight from each group tells more",
        statement="With thresholds at the same quantiles, so that as many of the sums below 0 are foreseen, the N "
        "largest weights make 0 of at least a twentieth more of the squared outputs than one from each group.",
        holds=lost[1] >= 1.05 * lost[0],
        measured=f"{lost[0]:.2%} of them with groups, {lost[1]:.2%} with the N largest",
        not_comparable="How the paper cuts the weights into groups could not be read: the groups are a reconstruction, "
        "and in the paper's own figure the one speculation weight is not the largest, as it is here.",
    )


def chosen(curve: Curve) -> Outcome:
    """The three passes against one quantile for all kernels."""
    point = next(point for point in curve.test if point.knob == BUDGET)
    (rival,) = curve.baselines
    exact = [next(p for p in points if p.knob == 0) for points in (curve.validation, curve.test)]
    found = at([*rival.validation, exact[0]], [*rival.test, exact[1]], 1 / point.speed_up)
    gain = point.quality - found.quality if found else 0.0
    return Outcome(
        name="parameters of each kernel beat one quantile",
        statement="With as many products as a budget of three points takes, one quantile for all kernels, mixed with "
        "exact mode as is best on validation images, is at least a point less accurate on test images.",
        holds=gain >= 0.01,
        measured=f"{gain:+.4f} at {1 / point.speed_up:.1%} of the products",
    )


def faster(curve: Curve) -> Outcome:
    """Seconds of the emulation on this processor, which the paper says nothing about."""
    ratio = max(done.full_seconds / done.seconds for done in curve.executions if done.knob > -1)
    return Outcome(
        name="faster without the accelerator, too",
        statement="At some knob that was executed, the emulation, which leaves out products one by one, takes less "
        "time on this processor than whole convolutions.",
        holds=ratio > 1,
        measured=f"at best {ratio:.4f} times as fast",
        not_comparable="What is timed is the emulation that counts: each product is a library call's own small matrix. "
        "It is no program that was written to be fast, and no accelerator.",
    )
