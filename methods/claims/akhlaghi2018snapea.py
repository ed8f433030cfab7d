"""What SnaPEA claims: work saved at no loss in exact mode, and half of the work where layers speculate."""

from __future__ import annotations

import torch

from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import at
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.timing import BATCH
from eelit.methods.families.dot_products import Prepared, run
from eelit.methods.papers.akhlaghi2018snapea import Path, SnaPEA

BUDGET = 0.03
"""The paper's loss of accuracy."""


def claims(method: SnaPEA, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Both modes in products, what speculation weights and the three passes are good for, and seconds."""
    return [
        unchanged(method, prepared, bench),
        saved(curve),
        halved(method, prepared, curve),
        spread(prepared.fitted, method.replace({"spread": not method.spread}).prepare(bench).fitted),
        chosen(curve),
        faster(curve),
    ]


def unchanged(method: SnaPEA, prepared: Prepared, bench: Bench) -> Outcome:
    """Exact mode, its products really left out, beside the same sums that do not stop."""
    chosen = prepared.examples("test").head(bench.executed)
    early, never = (method.rule(knob, prepared) for knob in (0.0, -1.0))
    pairs = [
        (run(prepared.model, x, early).answers, run(prepared.model, x, never, really=False).answers)
        for _, x in chosen.batches(BATCH)
    ]
    same = sum(int((ours == whole).all(dim=1).sum()) for ours, whole in pairs)
    return Outcome(
        name="exact mode changes no answer",
        statement="In exact mode, with products really left out, all logits of all images that were executed are, to "
        "the last bit, those of the same sums in the same order that do not stop.",
        holds=same == len(chosen),
        measured=f"equal for {same} of {len(chosen)} images",
    )


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
    """Seconds of this processor, which the paper says nothing about."""
    ratio = max(done.full_seconds / done.seconds for done in curve.executions if done.knob > -1)
    return Outcome(
        name="faster without the accelerator, too",
        statement="At some knob that was executed, products left out one by one take less time on this processor than "
        "whole convolutions.",
        holds=ratio > 1,
        measured=f"at best {ratio:.4f} times as fast",
    )
