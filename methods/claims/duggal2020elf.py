"""What ELF claims: more of all classes right than with class weights alone, and exits that save computation besides."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import mean

import torch
from torch import Tensor

from eelit.methods.claims.comparisons import MIXED, gains_of_mixtures, on_average, points_of
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.duggal2020elf import LdamMethod, counted, each_loss, margins

GAIN = 0.005
"""What counts; the paper: 0.5 to 1.1 points on CIFAR-10 with a ratio of 100."""
NEVER = 1.0
"""A confidence that none exceeds: examples are charged at all exits."""


def claims(method: LdamMethod, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the same loss at the last exit alone, and at all exits for all examples, in as many steps each."""
    alone, every = method.replace({"shares": ()}), method.replace({"t": NEVER})
    single = alone.prepare(bench)
    summed = gains_of_mixtures(points_of(method, prepared, bench), points_of(every, every.prepare(bench), bench))
    theirs = recalls(single)
    return [
        static(recalls(prepared), theirs, counted(prepared.data)),
        dynamic(curve, alone.static(single.split("validation"))[-1].quality, mean(theirs)),
        better_than_sum(summed),
        rising(method, prepared),
        frequent_first(method, prepared, curve),
    ]


def recalls(prepared: Prepared) -> list[float]:
    """Return the recall of each class at the last exit, on test data."""
    seen = prepared.split("test")
    right = seen.answers[-1].argmax(dim=-1) == seen.targets
    return [float(right[seen.targets == c].double().mean()) for c in range(seen.answers.shape[-1])]


def groups(n: Tensor) -> dict[str, list[int]]:
    """Return which classes have many training examples (more than the mean), few (less than a quarter), or medium."""
    share = (n / n.double().mean()).tolist()
    found: dict[str, list[int]] = {"many": [], "medium": [], "few": []}
    for c, each in enumerate(share):
        found["many" if each > 1 else "few" if each < 0.25 else "medium"].append(c)
    return found


def by_group(values: Sequence[float], n: Tensor) -> str:
    """Return means over the classes of each group, for a report."""
    means = ((name, classes) for name, classes in groups(n).items() if classes)
    return ", ".join(f"{name} {mean(values[c] for c in classes):+.4f}" for name, classes in means)


def static(ours: list[float], theirs: list[float], n: Tensor) -> Outcome:
    """The network that is left when branches are dropped, against the one that never had any."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return Outcome(
        name="better without its branches",
        statement="With the branches dropped, mean recall on test data is half a point higher than that of the network "
        "that learned for as long without branches, by the same loss and class weights.",
        holds=mean(differences) >= GAIN,
        measured=f"{mean(differences):+.4f} to {mean(ours):.4f}; {by_group(differences, n)}",
    )


def dynamic(curve: Curve, held: float, test: float) -> Outcome:
    """The cheapest threshold that is as good as the network without branches."""
    point = cheapest_within(curve.validation, curve.test, 0.0, of=held)
    saved = 1 - 1 / point.speed_up
    return Outcome(
        name="a tenth saved at no loss",
        statement="The cheapest threshold with the mean recall, on validation data, of the network without branches "
        "saves a tenth of the computation, and loses at most half a point to it on test data (the paper: 15 to 32 % "
        "saved on CIFAR-10).",
        holds=saved >= 0.1 and point.quality >= test - GAIN,
        measured=f"{saved:.1%} saved at s = {point.knob:g}, mean recall {point.quality - test:+.4f}",
    )


def better_than_sum(found: list[float]) -> Outcome:
    """What leaving in training brings beside the branches by themselves."""
    return Outcome(
        name="better than the sum of all exits",
        statement="At equal cost mean recall on test data is on average half a point higher than with the same network "
        f"trained on all examples at all exits. {MIXED}",
        holds=mean(found or [0.0]) >= GAIN,
        measured=on_average(found),
    )


def leaving(method: LdamMethod, prepared: Prepared) -> tuple[Tensor, Tensor, Tensor]:
    """Return at how many exits each training example is charged, its loss there, and at the last exit, without w."""
    seen, n = prepared.split("train"), counted(prepared.data)
    delta = margins(n, method.margin if method.cosines else 0.0)
    stays, losses = each_loss(seen.outputs, seen.targets, delta, t=method.t, scale=method.scale)
    return stays.sum(dim=0), (stays * losses).sum(dim=0), losses[-1]


def rising(method: LdamMethod, prepared: Prepared) -> Outcome:
    """Property 1 of the paper, on the training data."""
    exits, *losses = leaving(method, prepared)
    found, last = ([float(each[exits == k].mean()) for k in exits.unique()] for each in losses)
    return Outcome(
        name="who leaves later has lost more",
        statement="Training examples leave at two exits at least, and at each have on average a higher loss than those "
        "that leave before: in sum, to which each exit adds, and at the last exit by itself, which need not be so.",
        holds=len(found) > 1 and all(a < b for losses in (found, last) for a, b in pairwise(losses)),
        measured=f"{', '.join(f'{loss:.2f}' for loss in found)} in sum, {', '.join(f'{loss:.2f}' for loss in last)} at "
        "the last exit",
    )


def frequent_first(method: LdamMethod, prepared: Prepared, curve: Curve) -> Outcome:
    """Which classes leave before the last exit, at the threshold that costs nearest to three quarters."""
    knob = min(curve.validation, key=lambda point: abs(1 / point.speed_up - 0.75)).knob
    seen = prepared.split("test")
    early = torch.as_tensor(replay(method.rule(knob, prepared), seen.outputs)) < len(seen.outputs) - 1
    shares = [float(early[seen.targets == c].double().mean()) for c in range(seen.answers.shape[-1])]
    found = groups(counted(prepared.data))
    many, few = (mean([shares[c] for c in found[name]] or [0.0]) for name in ("many", "few"))
    return Outcome(
        name="frequent classes leave first",
        statement="At about three quarters of the cost, the share of test images that leave before the last exit is "
        "ten points higher in frequent classes than in rare ones (the paper: 38 % and 11 %).",
        holds=many >= few + 0.1,
        measured=f"at s = {knob:g}: {by_group(shares, counted(prepared.data))}",
    )
