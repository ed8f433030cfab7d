"""What Triple Wins claims: defended exits are more accurate, more robust and cheaper than one defended exit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import device_of
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.hu2020triplewins import ATTACKS, Attack, Ball, TripleWins, attacked, average, single
from eelit.methods.recipes.joint import losses_of

ATTACKED, FEWER = 2000, 500
"""Test images that are attacked on a track; and where a difference of ten points is asked for."""
QUICK = 32
"""A shorter run attacks one in 32 of its test images: each of eight attacks takes ten steps on every one."""
STEP, STEPS = 2 / 255, 10
"""Attacks of the test: ten times the steps of the training's, with the paper's step on CIFAR-10."""
GAIN = 0.005
"""How much more accurate, clean and attacked, counts."""
SHARES = (0.5, 1 / 6, 0.05)
"""Shares at which accuracy, robustness and cost are told side by side, besides the one that is chosen."""
WHERE = (
    "At the cheapest share that is half a point more accurate on validation data than either network without exits "
    "(the same network trained against attacks for as long with its own exit alone; and our defended network cut off "
    "for good at the exit that is best on validation data),"
)


def claims(method: TripleWins, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside two defended networks without exits; the first defence also beside no defence."""
    if method.defence == "none":
        return []
    alone = method.replace({"shares": (), "defence": "main exit"})
    ready = alone.prepare(bench)
    rivals = [trained_alone(alone, ready), cut_off(method, prepared)]
    goal = max(rival.held for rival in rivals) + GAIN
    point = cheapest_within(curve.validation, curve.test, 0.0, of=goal)
    missed = (
        "" if max(p.quality for p in curve.validation) >= goal - 1e-9 else "no share is that accurate; at the best "
    )
    found = [more_accurate(point, rivals, missed), cheaper(point, rivals, missed)]
    seen = under_attack(method, prepared, bench)
    lasting = [
        alone.static(stored(alone, ready, bench, single, "main exit"))[0],
        method.static(seen[f"exit {rivals[1].exit + 1}"])[rivals[1].exit],
    ]
    robust = more_robust(method, prepared, curve, point, seen, rivals, lasting, missed)
    found.insert(1, robust)
    main = method.defence == next(iter(ATTACKS))
    return [*found, needed(method, prepared, bench, point.knob, seen["average"])] if main else found


# The rivals.


class Rival(NamedTuple):
    """A defended network with one exit."""

    name: str
    exit: int  # of the network that it is cut from, from 0
    held: float  # accuracy on validation images
    test: OperatingPoint  # on clean test images


def trained_alone(alone: TripleWins, ready: Prepared) -> Rival:
    """Return the network that never had other exits."""
    held, test = (alone.static(ready.split(split))[-1] for split in ("validation", "test"))
    return Rival("trained without exits", 0, held.quality, test)


def cut_off(method: TripleWins, prepared: Prepared) -> Rival:
    """Return our own network cut off at its best exit: what of our gain neither adaptivity nor attacks explain."""
    held, test = (method.static(prepared.split(split)) for split in ("validation", "test"))
    best = max(range(len(held)), key=lambda i: (held[i].quality, -held[i].cost))
    return Rival(f"cut off at exit {best + 1}", best, held[best].quality, test[best])


# Attacks.


def stored(
    method: TripleWins, prepared: Prepared, bench: Bench, attack: Attack, name: str, most: int = ATTACKED
) -> StoredOutputs:
    """Return what all exits say of test images that were attacked, with products as precise as the training's."""
    ball = Ball.of(prepared.data.train, eps=method.eps, g=STEP, S=STEPS)
    clean = prepared.split("test").examples.head(most if bench.test is None else min(most, bench.test // QUICK))
    bench.progress(f"attacking {len(clean)} test images: {name}", None)
    with torch.autocast(device_of(prepared.model).type, torch.bfloat16, enabled=method.half):
        images = attacked(prepared.model, clean, attack, ball, seed=bench.seed)
    return prepared.store(images, f"attacked ({name})")


def under_attack(method: TripleWins, prepared: Prepared, bench: Bench) -> dict[str, StoredOutputs]:
    """Return what all exits say under the single attack on each, the average attack, and max-average.

    Max-average is that of the single attacks whose mean loss is largest: they are not made anew.
    """
    singles = {
        f"exit {i + 1}": stored(method, prepared, bench, partial(single, exit_=i), f"exit {i + 1}")
        for i in range(prepared.model.exits)
    }
    found = {**singles, "average": stored(method, prepared, bench, average, "average")}
    return {**found, "max-average": worst_of_each([*singles.values()])}


def worst_of_each(every: Sequence[StoredOutputs]) -> StoredOutputs:
    """Return for each image what is said under the attack whose mean loss over all exits is largest."""
    outputs = torch.stack([seen.outputs for seen in every])
    means = torch.stack([losses_of(seen.outputs, seen.targets).mean(dim=0) for seen in every])
    chosen = means.argmax(dim=0)
    return replace(every[0], outputs=outputs[chosen, :, torch.arange(len(chosen))].transpose(0, 1))


# What is claimed.


class Gain(NamedTuple):
    """By how much one side is more accurate than another on the same images."""

    mean: float
    error: float  # standard error of the mean, from the difference of each image

    @property
    def counts(self) -> bool:
        """Whether it is large enough, and beyond chance."""
        return self.mean >= GAIN and self.mean > 2 * self.error

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.error:.4f}"


def gain(ours: NDArray[np.generic], theirs: NDArray[np.generic]) -> Gain:
    """Return the gain of answers ``[N]`` that are right or wrong over others on the same images."""
    apart = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    return Gain(float(apart.mean()), float(apart.std(ddof=1)) / math.sqrt(len(apart)))


def right(point: OperatingPoint) -> NDArray[np.generic]:
    """Return of each image ``[N]`` whether the answer is right."""
    return cast("NDArray[np.generic]", point.samples.quality if point.samples else None)


def more_accurate(ours: OperatingPoint, rivals: Sequence[Rival], missed: str) -> Outcome:
    """Compare with each rival on the same clean test images."""
    gains = [gain(right(ours), right(rival.test)) for rival in rivals]
    told = ", ".join(f"{r.name} {r.test.quality:.4f} ({g})" for r, g in zip(rivals, gains, strict=True))
    return Outcome(
        name="more accurate than without exits",
        statement=f"{WHERE} accuracy on clean test images is half a point, and two standard errors of the paired "
        "difference, higher than that of either.",
        holds=not missed and all(each.counts for each in gains),
        measured=f"{missed}{ours.quality:.4f} at share {ours.knob:g}; {told}",
    )


def cheaper(ours: OperatingPoint, rivals: Sequence[Rival], missed: str) -> Outcome:
    """Compare with the rival that is the more accurate on validation data."""
    rival = max(rivals, key=lambda each: (each.held, -each.test.cost))
    saved = 1 - ours.cost / rival.test.cost
    return Outcome(
        name="cheaper than without exits",
        statement=f"{WHERE} 30 % of the computation of the more accurate of the two is saved on clean test images.",
        holds=not missed and saved >= 0.3,
        measured=f"{missed}{saved:.1%} of the MACs of the one {rival.name} saved, at share {ours.knob:g}",
    )


def more_robust(
    method: TripleWins,
    prepared: Prepared,
    curve: Curve,
    ours: OperatingPoint,
    seen: Mapping[str, StoredOutputs],
    rivals: Sequence[Rival],
    lasting: Sequence[OperatingPoint],
    missed: str,
) -> Outcome:
    """Compare under the attack that is worst for our exits with each rival (``lasting``) under that on its own exit."""

    def at(knob: float) -> dict[str, OperatingPoint]:
        rule = method.rule(knob, prepared)
        return {name: method.trial(rule, each, knob) for name, each in seen.items()}

    def worst_at(knob: float) -> OperatingPoint:
        return min(at(knob).values(), key=lambda point: point.quality)

    gains = [gain(right(worst_at(ours.knob)), right(rival)) for rival in lasting]
    attacks = ", ".join(f"{name} {p.quality:.4f} at {1 / p.speed_up:.0%}" for name, p in at(ours.knob).items())
    others = ", ".join(f"{r.name} {p.quality:.4f} ({g})" for r, p, g in zip(rivals, lasting, gains, strict=True))
    beside = "; ".join(
        f"share {p.knob:.3g}: {p.quality:.4f} clean, {worst_at(p.knob).quality:.4f} attacked, {1 / p.speed_up:.0%}"
        for p in curve.test
        if p.knob in SHARES
    )
    return Outcome(
        name="more robust than without exits",
        statement=f"{WHERE} accuracy on attacked test images is half a point, and two standard errors of the paired "
        "difference, higher than that of either, even under the worst of all attacks: the single one on each exit, "
        "average and max-average.",
        holds=not missed and all(each.counts for each in gains),
        measured=f"{missed}accuracy and cost under attack: {attacks}; {others}; {beside}; "
        f"{len(right(lasting[0]))} images",
    )


def needed(method: TripleWins, prepared: Prepared, bench: Bench, knob: float, ours: StoredOutputs) -> Outcome:
    """See what the average attack leaves of exits that nobody defended."""
    bare = method.replace({"defence": "none"})
    ready = bare.prepare(bench)
    theirs = bare.trial(bare.rule(knob, ready), stored(bare, ready, bench, average, "average", FEWER))
    undefended = right(theirs)
    defended = right(method.trial(method.rule(knob, prepared), ours))[: len(undefended)]
    found = gain(defended, undefended)
    return Outcome(
        name="exits need the defence",
        statement="Under the average attack and at the same share, exits that were trained without attacks are at "
        "least ten points less accurate.",
        holds=found.mean >= 0.1,
        measured=f"{theirs.quality:.4f}, with the defence {defended.mean():.4f} ({found})",
    )
