"""What EENet claims: less energy than a plain network and than early exits without forecasts; deadlines are kept.

Rivals are as slow as they can be without forecasts, and how many answers are late is told of both sides.

Energy is that of the method's chip, whose voltages are assumed, so outcomes about energy say nothing of the paper's.

The loop is tried at the two heaviest loads that the chip can serve, found on validation data: under much less nothing
is late in any case, and under more no level is fast enough, so that neither tells what the loop does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import mean
from typing import NamedTuple

import numpy as np

from eelit.methods.claims.comparisons import gains
from eelit.methods.engine.evaluate import followed
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Learning, Lost, OperatingPoint, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.li2023eenet import Chip, Done, EENet, Legs, Level, legs_of, managed, rests_of
from eelit.methods.policies.max_confidence import MaxConfidence

ASSUMED = "energy is computed from a model of a processor with assumed voltages; nothing was measured"
POINT = 0.01
"""Of accuracy, on validation data, that a setting may lose."""
LATE = 0.01
"""Share of answers by which more may be late than a rival's."""
QUEUES, QUEUE, MOST_LEGS = 40, 3, 9
"""Small queues for which all levels are tried, their images, and the most legs of one."""
LOADS = tuple(round(0.3 + 0.01 * step, 2) for step in range(121))
"""Images that come in the time of the plain network, among which the loads are found at which the loop is tried."""
SHOWN = (0.3, 0.6, 0.9, 1.2)
"""Loads at which energy is set beside that of the best levels, in a picture."""
WAYS: tuple[Mapping[str, float], ...] = ({}, {"K_p": 0.0, "K_i": 0.0}, {"governs": False})
"""With the loop, without it, and at the highest level."""


def claims(method: EENet, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the plain network, early exits without forecasts, fixed depths, the best levels, and without a loop."""
    if not method.governs or not method.K_p:
        return []
    rivals = {baseline.name: baseline for baseline in curve.baselines}
    beta = cheapest_within(curve.validation, curve.test, POINT).knob
    c = cheapest_of(rivals["max-confidence"], curve).knob
    own = late(method.forecast(prepared, "test", method.rule(beta, prepared))[1])
    plain = late(method.cut_off(prepared, "test", -1))
    sure = late(method.cautious(prepared, "test", MaxConfidence(c))[1])
    managed_too = late(method.levelled(prepared, "test", c, method.before(prepared))[1])
    return [
        less_than_plain(curve, rivals["static exit"], own, plain),
        less_than_early_exits(
            curve,
            rivals["max-confidence"],
            rivals["max-confidence at the highest level"],
            rivals["max-confidence with the governor"],
            own,
            sure,
        ),
        less_by_levels_alone(
            curve, rivals["max-confidence"], rivals["max-confidence with the governor"], managed_too, sure
        ),
        better_than_fixed(curve, rivals["static exit"]),
        near_oracle(method, prepared, beta),
        deadlines(method, prepared, beta),
    ]


def cheapest_of(rival: Baseline, curve: Curve) -> OperatingPoint:
    """Return a rival's cheapest setting that loses at most a point of the best that the method reaches."""
    full = max(point.quality for point in curve.validation)
    return cheapest_within(rival.validation, rival.test, POINT, of=full)


def less_than_plain(curve: Curve, fixed: Baseline, own: float, plain: float) -> Outcome:
    """Against the network without exits, which is as slow as its deadline allows; given shares of late answers."""
    point, known = cheapest_within(curve.validation, curve.test, POINT), fixed.test[-1]
    saved, loss = 1 - point.cost / known.cost, curve.full_quality - point.quality
    return Outcome(
        name="less energy than the plain network",
        statement="The cheapest beta that loses at most one point on validation data takes half of the energy of the "
        "plain network, whose level is set by all of its work (the paper: up to 63.8 % less than classic networks), "
        "loses at most two points on test data, and at most one answer in a hundred more is late.",
        holds=saved >= 0.5 and loss <= 0.02 and own <= plain + LATE,
        measured=f"{saved:.1%} saved ({1 - 1 / point.speed_up:.1%} of the energy at the highest level), accuracy "
        f"{-loss:+.4f}, {own:.1%} late, the plain network {plain:.1%}; at beta = {point.knob:g}",
        not_comparable=ASSUMED,
    )


def less_than_early_exits(
    curve: Curve, rival: Baseline, highest: Baseline, governed: Baseline, own: float, sure: float
) -> Outcome:
    """Against early exits that nobody forecasts, each at its own cheapest setting; given shares of late answers.

    With the rival's exits under the method's governor in between, what the stopping rule makes of it is told apart from
    what the levels do.
    """
    ours = cheapest_within(curve.validation, curve.test, POINT)
    theirs, fastest = cheapest_of(rival, curve), cheapest_of(highest, curve)
    saved, loss = 1 - ours.cost / theirs.cost, theirs.quality - ours.quality
    between = same_exits(governed, theirs)
    return Outcome(
        name="less energy than early exits without forecasts",
        statement="Of settings that lose at most one point on validation data, the cheapest takes a fifth less energy "
        "than the cheapest of stopping at the largest probability on a chip that is just fast enough for the rest of "
        "the whole network (the paper: 21.5 % less than earlier strategies), is at most a point less accurate on test "
        "data, and at most one answer in a hundred more is late.",
        holds=saved >= 0.2 and loss <= 0.01 and own <= sure + LATE,
        measured=f"{saved:.1%} saved ({1 - ours.cost / fastest.cost:.1%} beside the highest level), accuracy "
        f"{-loss:+.4f}, {own:.1%} late, the other {sure:.1%}; the energy of its stopping rule is "
        f"{ours.cost / between.cost - 1:+.1%} beside the largest probability under the same governor, that of its "
        f"levels {between.cost / theirs.cost - 1:+.1%} beside the other's at the same exits",
        not_comparable=ASSUMED,
    )


def same_exits(governed: Baseline, point: OperatingPoint) -> OperatingPoint:
    """Return the setting with the same threshold, so with the same answers and work, under the method's governor."""
    return next(each for each in governed.test if each.knob == point.knob)


def less_by_levels_alone(curve: Curve, rival: Baseline, governed: Baseline, own: float, sure: float) -> Outcome:
    """The governor with forecasts against levels for the whole network, with the same exits, answers and work."""
    theirs = cheapest_of(rival, curve)
    saved = 1 - same_exits(governed, theirs).cost / theirs.cost
    each = [1 - ours.cost / other.cost for ours, other in zip(governed.test, rival.test, strict=True)]
    return Outcome(
        name="less energy by levels alone",
        statement="Where inferences stop at the largest probability, at the cheapest threshold that loses at most one "
        "point on validation data, governor and loop with a forecast of the exit take a tenth less energy for the same "
        "work than a chip that is just fast enough for the rest of the whole network, and at most one answer in a "
        "hundred more is late.",
        holds=saved >= 0.1 and own <= sure + LATE,
        measured=f"{saved:.1%} saved, {own:.1%} late, the other {sure:.1%}; over all thresholds from {min(each):.1%} "
        f"to {max(each):.1%}",
        not_comparable=ASSUMED,
    )


def better_than_fixed(curve: Curve, rival: Baseline) -> Outcome:
    """Against fixed depths on the same chip, of which all work is known: what exits that vary are worth there.

    Settings are compared one by one: images wait for each other, and levels follow what the ones before have taken, so
    the energy of two settings that take turns is not between theirs.
    """
    found = gains(Baseline(name="ours", validation=curve.validation, test=curve.test), rival)
    gain = mean(found or [-1.0])
    return Outcome(
        name="better than a fixed depth on the same chip",
        statement="At no more than the energy of each fixed depth, whose level is set by all of its work, accuracy on "
        "test data is on average half a point higher. Two betas, or two depths, are not mixed, as images wait for each "
        "other.",
        holds=gain >= 0.005,
        measured=f"{gain:+.4f} on average over the energies of {len(found)} depths",
        not_comparable=ASSUMED,
    )


@cache
def best_levels(
    legs: tuple[tuple[float, ...], ...], came: tuple[float, ...], deadline: float, chip: Chip
) -> tuple[float, ...]:
    """Return the least joules with exactly 0, 1, … late answers in a queue, of all levels of all legs: all are tried.

    They are infinite where no levels have just so many. The exits at which inferences stop, and so the legs, are known;
    they run one after the other.
    """
    flat = [(i, W) for i, own in enumerate(legs) for W in own]
    ends = {sum(map(len, legs[: i + 1])) - 1 for i in range(len(legs))}

    def best(k: int, now: float, level: Level) -> list[float]:
        if k == len(flat):
            return [0.0]
        i, W = flat[k]
        found = [math.inf] * (len(legs) + 1)
        for wanted in chip.levels:
            took, used = chip.ran(W, wanted, level)
            done = max(now, came[i]) + took
            missed = k in ends and done > came[i] + deadline
            for late, joules in enumerate(best(k + 1, done, wanted), missed):
                if late < len(found):
                    found[late] = min(found[late], used + joules)
        return found

    return tuple(best(0, 0.0, chip.highest))


class Queues(NamedTuple):
    """What small queues took, and the best levels for them."""

    joules: tuple[float, float]  # of the best levels with no more late answers than ours, in each queue
    late: tuple[int, int]  # of the levels that make the fewest late
    tried: int

    @property
    def more(self) -> float:
        """By which share more energy was taken than at the best levels with no more late answers."""
        return self.joules[0] / self.joules[1] - 1 if self.tried else 0.0

    @property
    def shares(self) -> tuple[float, float]:
        """Return the shares of answers that are late, ours and the fewest."""
        ours, fewest = self.late
        return ours / max(1, QUEUE * self.tried), fewest / max(1, QUEUE * self.tried)


def queued(method: EENet, prepared: Prepared, beta: float) -> Queues:
    """Set small queues of test images beside the best levels that there are; each begins anew, uncorrected.

    Energy is compared at no more late answers: who is late more often could do with less.
    """
    seen = prepared.split("test")
    course, whole = followed(method.rule(beta, prepared), seen.outputs), method.whole(seen)
    legs, rests, deadline = legs_of(seen, course), rests_of(seen, course), method.deadline * whole
    came = method.came(whole, "test", prepared.bench.seed, len(legs))
    starts = (start for start in range(0, len(legs) - QUEUE + 1, QUEUE))
    few = [start for start in starts if sum(map(len, legs[start : start + QUEUE])) <= MOST_LEGS][:QUEUES]
    joules, missed = np.zeros(2), np.zeros(2, dtype=int)
    for start in few:
        own, due = legs[start : start + QUEUE], [second - came[start] for second in came[start : start + QUEUE]]
        done = managed(own, due, deadline, method.chip, method.loop, rests=rests[start : start + QUEUE])
        best = best_levels(tuple(map(tuple, own)), tuple(due), deadline, Chip())
        lost = sum(each.late for each in done)
        joules += sum(each.joules for each in done), min(best[: lost + 1])
        missed += lost, next(late for late, least in enumerate(best) if least < math.inf)
    return Queues((float(joules[0]), float(joules[1])), (int(missed[0]), int(missed[1])), len(few))


def near_oracle(method: EENet, prepared: Prepared, beta: float) -> Outcome:
    """See how far small queues are from the best levels."""
    found = queued(method, prepared, beta)
    answers = max(1, QUEUE * found.tried)
    return Outcome(
        name="near the best levels",
        statement=f"In up to {QUEUES} queues of {QUEUE} test images whose inferences have at most {MOST_LEGS} legs "
        "together, at most a quarter more energy is taken than at the best of all levels with no more late answers, "
        "found by trying all with the exits known; and at most one answer in a hundred more is late than with the "
        "levels that make the fewest late.",
        holds=bool(found.tried) and found.more <= 0.25 and found.late[0] <= found.late[1] + LATE * answers,
        measured=f"{found.more:+.1%} in {found.tried} queues; {found.late[0]} of {answers} answers late, at least "
        f"{found.late[1]} at any levels",
        not_comparable=ASSUMED,
    )


def learning(method: EENet, prepared: Prepared, bench: Bench, curve: Curve) -> list[Learning]:
    """Return by how much small queues take more energy than at the best levels, and what is late, by the load.

    The two belong together: no answer less is late at those best levels, though at others there might be.
    """
    if not method.governs or not method.K_p:
        return []
    beta = cheapest_within(curve.validation, curve.test, POINT).knob
    ways = {"EENet": method, "the highest level": method.replace({"governs": False})}
    found = {
        name: [queued(way.replace({"arriving": load}), prepared, beta) for load in SHOWN] for name, way in ways.items()
    }
    missed = {name: [each.shares[0] for each in queues] for name, queues in found.items()}
    missed["the levels that make the fewest late"] = [each.shares[1] for each in found["EENet"]]
    return [
        by_load(
            f"Energy above that of the best levels, which know all exits and have no more late answers, in queues of "
            f"{QUEUE} images, by load",
            "% of the least energy",
            {name: [each.more for each in queues] for name, queues in found.items()},
        ),
        by_load(f"Late answers in these queues of {QUEUE} images, by load", "% of the answers", missed),
    ]


def by_load(title: str, unit: str, shares: Mapping[str, Sequence[float]]) -> Learning:
    """Return a picture of shares at each of the loads that are shown."""
    return Learning(
        title=title,
        time="images that come in the time of the plain network",
        unit=unit,
        lines=[
            Lost(rule=name, times=list(SHOWN), values=[100 * share for share in values])
            for name, values in shares.items()
        ],
    )


def late(done: Sequence[Done]) -> float:
    """Return the share of inferences that were late."""
    return mean(each.late for each in done)


def heaviest(method: EENet, legs: Sequence[Legs], whole: float, seed: int) -> float:
    """Return the heaviest of `LOADS` up to which the highest level has few late answers on validation streams."""
    highest, found = method.replace({"governs": False}), LOADS[0]
    for load in LOADS:
        if late(highest.replace({"arriving": load}).run(legs, whole, "validation", seed)) > LATE:
            break
        found = load
    return found


class Tried(NamedTuple):
    """What the loop does at one load, each beside no loop, and beside the highest level: ``[3]``."""

    load: float
    late: tuple[float, ...]
    cost: tuple[float, ...]  # millijoules


def deadlines(method: EENet, prepared: Prepared, beta: float) -> Outcome:
    """See what the loop does at the heaviest loads that can be served; nothing else differs."""
    held, seed, policy = prepared.split("validation"), prepared.bench.seed, method.rule(beta, prepared)
    plain = [[macs] for macs in held.static_costs[-1].tolist()]
    exits = legs_of(held, followed(policy, held.outputs))
    loads = sorted({heaviest(method, legs, method.whole(held), seed) for legs in (plain, exits)})
    seen = prepared.split("test")
    course, whole, found = followed(policy, seen.outputs), method.whole(seen), []
    legs, rests = legs_of(seen, course), rests_of(seen, course)
    for load in loads:
        ways = (method.replace({"arriving": load, **changed}) for changed in WAYS)
        done = [way.run(legs, whole, "test", seed, rests=rests) for way in ways]
        found.append(Tried(load, tuple(map(late, done)), tuple(1000 * mean(d.joules for d in each) for each in done)))
    return corrected(found)


def corrected(found: Sequence[Tried]) -> Outcome:
    """Judge the loop by what is late without it, but need not be."""
    ours, without, top = (mean(each) for each in zip(*(one.late for one in found), strict=True))
    spent, _, most = (mean(each) for each in zip(*(one.cost for one in found), strict=True))
    return Outcome(
        name="the loop keeps deadlines",
        statement="At the heaviest loads at which on validation data at most 1 % of the answers are late at the "
        "highest level, of the plain network and with exits at the cheapest beta that loses at most one point, the "
        "loop over inferences takes away at least half of the late answers on test data that there are without it but "
        "not at the highest level, or keeps them below 1 %, and takes less energy than the highest level.",
        holds=ours <= max((without + top) / 2, 0.01) and spent < most,
        measured="; ".join(
            f"load {load:g}: {a:.1%} late, {b:.1%} without, {c:.1%} at the highest level ({x:.4g}, {y:.4g} and {z:.4g} "
            "simulated mJ)"
            for load, (a, b, c), (x, y, z) in found
        ),
    )
