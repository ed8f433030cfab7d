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

from eelit.methods.claims.alone import reached_alone
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.hu2020triplewins import ATTACKS, TripleWins, average, single, stored
from eelit.methods.recipes.joint import losses_of

FEWER = 500
"""Test images that are attacked where a difference of ten points is asked for."""
GAIN = 0.005
"""How much more accurate, clean and attacked, counts."""
SHARES = (0.5, 1 / 6, 0.05)
"""Shares at which accuracy, robustness and cost are told side by side, besides the one that is chosen."""
SAVED = 0.3
"""Share of the rival's computation that must be saved, as in the paper."""
WHERE = (
    "At the cheapest share that is half a point more accurate on validation data than the same network trained against "
    "attacks for as long with its own exit alone,"
)


def claims(method: TripleWins, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside a defended network without exits, the paper's rival; the first defence also beside no defence."""
    if method.defence == "none":
        return []
    alone = method.replace({"shares": (), "defence": "main exit"})
    ready = alone.prepare(bench)
    rival = trained_alone(alone, ready)
    point, missed = as_accurate_as(rival.held + GAIN, curve)
    seen = under_attack(method, prepared, bench)
    lasting = alone.static(stored(alone, ready, bench, single, "main exit"))[0]
    found = [
        more_accurate(point, rival, missed),
        more_robust(method, prepared, curve, point, seen, lasting, missed),
        cheaper(curve, point, rival, missed),
        beside_one_exit(curve, cut_off(method, prepared)),
    ]
    main = method.defence == next(iter(ATTACKS))
    return [*found, needed(method, prepared, bench, point.knob, seen["average"])] if main else found


def as_accurate_as(goal: float, curve: Curve) -> tuple[OperatingPoint, str]:
    """Return the cheapest share with this accuracy on validation data, else the best one, and what to say then."""
    reached = max(p.quality for p in curve.validation) >= goal - 1e-9
    point = cheapest_within(curve.validation, curve.test, 0.0, of=goal)
    return point, "" if reached else "no share is that accurate; at the best "


# The rivals.


class Rival(NamedTuple):
    """A defended network with one exit."""

    name: str
    held: float  # accuracy on validation images
    test: OperatingPoint  # on clean test images


def trained_alone(alone: TripleWins, ready: Prepared) -> Rival:
    """Return the network that never had other exits."""
    held, test = (alone.static(ready.split(split))[-1] for split in ("validation", "test"))
    return Rival("trained without exits", held.quality, test)


def cut_off(method: TripleWins, prepared: Prepared) -> Rival:
    """Return our own network cut off at its best exit: what of our gain neither adaptivity nor attacks explain."""
    held, test = (method.static(prepared.split(split)) for split in ("validation", "test"))
    best = max(range(len(held)), key=lambda i: (held[i].quality, -held[i].cost))
    return Rival(f"exit {best + 1}", held[best].quality, test[best])


# Attacks.


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


def more_accurate(ours: OperatingPoint, rival: Rival, missed: str) -> Outcome:
    """Compare on the same clean test images."""
    found = gain(right(ours), right(rival.test))
    return Outcome(
        name="more accurate than without exits",
        statement=f"{WHERE} accuracy on clean test images is half a point, and two standard errors of the paired "
        "difference, higher.",
        holds=not missed and found.counts,
        measured=f"{missed}{ours.quality:.4f} at share {ours.knob:g}; {rival.name} {rival.test.quality:.4f} ({found})",
    )


def cheaper(curve: Curve, ours: OperatingPoint, rival: Rival, missed: str) -> Outcome:
    """Compare on clean test images; it shows nothing if an early exit for all images does just that."""
    saved = 1 - ours.cost / rival.test.cost
    reason = reached_alone(curve, "Exit", lost=-GAIN, speed_up=1 / (1 - SAVED), whole=rival.test.quality)
    return Outcome(
        name="cheaper than without exits",
        statement=f"{WHERE} 30 % of its computation is saved on clean test images.",
        holds=not missed and not reason and saved >= SAVED,
        measured=f"{missed}{saved:.1%} of the MACs of the one {rival.name} saved, at share {ours.knob:g}",
        not_comparable=reason,
    )


def beside_one_exit(curve: Curve, rival: Rival) -> Outcome:
    """Compare with our own network cut off: what the choice of an exit for each image adds to joint training."""
    point, missed = as_accurate_as(rival.held, curve)
    saved, found = 1 - point.cost / rival.test.cost, gain(right(point), right(rival.test))
    return Outcome(
        name="cheaper than one fixed exit",
        statement="At the cheapest share that is as accurate on validation data as our own defended network cut off "
        "for good at the exit that is best there, a tenth of that one's computation is saved on clean test images, and "
        "at most half a point of accuracy is lost.",
        holds=not missed and saved >= 0.1 and found.mean >= -GAIN,
        measured=f"{missed}{saved:.1%} of the MACs of {rival.name} saved, accuracy {found}, at share {point.knob:g}",
    )


def more_robust(
    method: TripleWins,
    prepared: Prepared,
    curve: Curve,
    ours: OperatingPoint,
    seen: Mapping[str, StoredOutputs],
    lasting: OperatingPoint,
    missed: str,
) -> Outcome:
    """Compare under the attack that is worst for our exits with the rival (``lasting``) under that on its own exit."""

    def at(knob: float) -> dict[str, OperatingPoint]:
        rule = method.rule(knob, prepared)
        return {name: method.trial(rule, each, knob) for name, each in seen.items()}

    def worst_at(knob: float) -> OperatingPoint:
        return min(at(knob).values(), key=lambda point: point.quality)

    found = gain(right(worst_at(ours.knob)), right(lasting))
    attacks = ", ".join(f"{name} {p.quality:.4f} at {1 / p.speed_up:.0%}" for name, p in at(ours.knob).items())
    beside = "; ".join(
        f"share {p.knob:.3g}: {p.quality:.4f} clean, {worst_at(p.knob).quality:.4f} attacked, {1 / p.speed_up:.0%}"
        for p in curve.test
        if p.knob in SHARES
    )
    return Outcome(
        name="more robust than without exits",
        statement=f"{WHERE} accuracy on attacked test images is half a point, and two standard errors of the paired "
        "difference, higher, even under the worst of all attacks: the single one on each exit, average and "
        "max-average.",
        holds=not missed and found.counts,
        measured=f"{missed}accuracy and cost under attack: {attacks}; trained without exits {lasting.quality:.4f} "
        f"({found}); {beside}; {len(right(lasting))} images",
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
