"""What distillation between exits claims: better early exits, most of all from few labels, and from images without."""

from __future__ import annotations

from statistics import mean
from typing import get_args

from eelit.methods.claims.comparisons import gains_by_exit
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.phuong2019distillation import MultiExitDistillation

FEW = 0.1
"""Share of the training images of which labels are few; the paper has 20 to 70 percent of CIFAR-100."""
CONSTANT = (1.0, 2.0, 4.0)
"""Temperatures that stay; the paper tries 1, 2, 3 and 4."""


def claims(method: MultiExitDistillation, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the exit-wise loss in both modes; what few labels, unlabelled images and annealing do, in budget mode."""
    labels = method.replace({"C": 0.0})
    reason = poor_teacher(labels, labels.prepare(bench))
    if method.mode == "anytime":
        return [unless(reason, ensembles(method, prepared, bench, curve))]
    gains = gains_by_exit(method, prepared, labels, bench)
    fewer = few(method)
    gains_of_few = gains_by_exit(fewer, fewer.prepare(bench), few(labels), bench)
    # One pass goes over the images without labels; each step sees as many labelled ones as the rival's.
    unlabelled = method.replace({"labelled": FEW, "epochs": method.epochs / (1 - FEW)})
    outcomes = [
        better_early(gains),
        better_with_few(gains[:-1], gains_of_few[:-1]),
        helped(gains_by_exit(unlabelled, unlabelled.prepare(bench), fewer, bench)),
        annealed(method, prepared, bench),
    ]
    return [unless(reason, outcome) for outcome in outcomes]


def poor_teacher(labels: MultiExitDistillation, prepared: Prepared) -> str:
    """Return why distillation shows nothing, or nothing: the last exit teaches, so it must know more than the others.

    It is judged on validation data, by the network that learns from ``labels`` alone, which distillation has not
    changed.
    """
    *early, last = (point.quality for point in labels.static(prepared.split("validation")))
    if last > max(early):
        return ""
    told = ", ".join(f"{quality:.4f}" for quality in [*early, last])
    return (
        "The last exit teaches the others, and the method rests on its being the most accurate. Of the network that is "
        f"trained on labels alone it is not: on validation images its exits reach {told}."
    )


def unless(reason: str, outcome: Outcome) -> Outcome:
    """Return an outcome that neither holds nor fails if there is a reason."""
    return outcome.model_copy(update={"holds": outcome.holds and not reason, "not_comparable": reason})


def few(method: MultiExitDistillation) -> MultiExitDistillation:
    """Return the method on a share of the training images, for as many steps."""
    size = round(FEW * method.train_size)
    return method.replace({"train_size": size, "epochs": method.epochs * method.train_size / size})


def told(gains: list[float]) -> str:
    """Return gains by exit for a report."""
    return "by exit " + ", ".join(f"{gain:+.4f}" for gain in gains)


def better_early(gains: list[float]) -> Outcome:
    """What learning from the last exit brings, given the gains of all exits."""
    *early, last = gains
    return Outcome(
        name="better early exits",
        statement="Beside the same network trained as long on labels alone, early exits are on average half a point "
        "more accurate, and the last exit loses at most half a point.",
        holds=mean(early) >= 0.005 and last >= -0.005,
        measured=told(gains),
    )


def better_with_few(full: list[float], small: list[float]) -> Outcome:
    """Whether early exits gain more where labelled images are few."""
    return Outcome(
        name="most from few images",
        statement=f"With {FEW:.0%} of the training images and as many steps, early exits gain on average at least half "
        "a point over labels alone, and half a point more than with all of them.",
        holds=mean(small) >= max(0.0, mean(full)) + 0.005,
        measured=f"{mean(small):+.4f} on average with few images, {mean(full):+.4f} with all; {told(small)} with few",
    )


def helped(gains: list[float]) -> Outcome:
    """What images without labels bring to early exits."""
    return Outcome(
        name="unlabelled images help",
        statement=f"Where {FEW:.0%} of the training images have labels, early exits are on average half a point more "
        "accurate if the others are learned from without, beside as many labelled ones in as many steps (the paper: up "
        "to 1.2 points).",
        holds=mean(gains[:-1]) >= 0.005,
        measured=told(gains),
    )


def annealed(method: MultiExitDistillation, prepared: Prepared, bench: Bench) -> Outcome:
    """Compare with temperatures that stay: the best on validation data, and none at all."""
    rivals = [method.replace({"tau": tau, "multiplier": 1.0}) for tau in CONSTANT]
    ready = [rival.prepare(bench) for rival in rivals]
    held, test = (
        {rival.tau: quality(rival, each, split) for rival, each in zip(rivals, ready, strict=True)}
        for split in get_args(Split)
    )
    best, ours = max(CONSTANT, key=lambda tau: held[tau]), quality(method, prepared, "test")
    return Outcome(
        name="annealing needs no tuning",
        statement="With the annealed temperature early exits are on average at most a quarter of a point less accurate "
        "than with the constant one that is best on validation data, and at least half a point more than with 1.",
        holds=ours >= test[best] - 0.0025 and ours >= test[1.0] + 0.005,
        measured=f"{ours:.4f} annealed; " + ", ".join(f"{test[tau]:.4f} with {tau:g}" for tau in CONSTANT)
        + f"; {best:g} is best on validation data",
    )  # fmt: skip


def quality(method: MultiExitDistillation, prepared: Prepared, split: Split) -> float:
    """Return the mean accuracy of the early exits on a split."""
    return mean(point.quality for point in method.static(prepared.split(split))[:-1])


def ensembles(method: MultiExitDistillation, prepared: Prepared, bench: Bench, curve: Curve) -> Outcome:
    """What distillation brings to the mean of the first exits."""
    labels = method.replace({"C": 0.0})
    theirs = labels.sweep(labels.prepare(bench), bench, "test", method.knobs[: prepared.model.exits])
    gains = [a.quality - b.quality for a, b in zip(curve.test, theirs, strict=False)]
    return Outcome(
        name="better ensembles of early exits",
        statement="Beside the same network trained as long on labels alone, the mean of the first m exits, m up to the "
        "last early one, is on average half a point more accurate.",
        holds=mean(gains[:-1]) >= 0.005,
        measured=f"of the first 1, 2, … exits {', '.join(f'{gain:+.4f}' for gain in gains)}",
    )
