"""What exit prediction claims: less computation on the device at little loss, and thresholds that follow bandwidth.

Beside it: whether a divided network is of any use here, where the server alone might do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from statistics import mean
from typing import NamedTuple, TypeVar

import torch

from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import accuracy
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.tiers import Plan, Prepared
from eelit.methods.papers.dong2022exitpredictor import (
    ETAS,
    TAUS,
    ExitPrediction,
    Foretold,
    StoredForetold,
    Tables,
    chosen,
    foretold,
    regressed,
)
from eelit.methods.world.machines import Link
from eelit.methods.world.stream import Always, stream
from eelit.methods.world.traces import steady

LINKS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths to try, as shares of the usual one."""
TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Targets to try, as shares of the expected time without exits."""
RATES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
"""Bandwidths at which it is set beside one machine alone: where links are slow, little should be sent."""
SETTLED = 60.0
"""Seconds after which the moving average of a bandwidth that stays is that bandwidth."""
PICTURES = 500
"""Most pictures that go through each world."""
LOSS = 0.005
"""Accuracy that cheaper thresholds may cost on validation data."""
AnyPlan = TypeVar("AnyPlan", bound=Plan)


def claims(method: ExitPrediction, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try computation with each side at its cheapest setting, time over bandwidths and targets, and one machine."""
    target = cheapest_within(curve.validation, curve.test, 0.01).knob
    device = next(base for base in curve.baselines if base.name == "all on the device").test[0].cost
    return [
        *spared(method, prepared),
        adapted(method, prepared),
        beside_one_machine(beside(method, prepared, target), device, target),
    ]


class Spent(NamedTuple):
    """What becomes of pictures on the device."""

    macs: float
    quality: float


def on_device(seen: StoredForetold, plan: Plan) -> Spent:
    """Return multiply-accumulates on the device and accuracy under a plan."""
    course = seen.course(plan)
    return Spent(mean(legs[0].macs for legs in course.legs), accuracy(seen.at(course.exits), seen.targets))


def spared(method: ExitPrediction, prepared: Prepared) -> list[Outcome]:
    """What EP saves, and what a predictor would that is always right, with each side at its cheapest setting.

    A setting must lose at most half a point, on validation data, to asking every exit at the tau of EP's labels.
    """
    held, test = (prepared.split(split) for split in ("validation", "test"))
    assert isinstance(held, StoredForetold)
    assert isinstance(test, StoredForetold)
    least = on_device(held, Plan(method.cuts, method.tau)).quality - LOSS
    taus = (method.tau, *TAUS)
    plain = cheapest(held, [Plan(method.cuts, tau) for tau in taus], least)
    ep = cheapest(held, [Foretold(method.cuts, tau, eta=eta) for eta, tau in product(ETAS, taus)], least)
    ours, theirs = on_device(test, ep), on_device(test, plain)
    at = f"eta = {ep.eta:g} and tau = {ep.knob:g} against tau = {plain.knob:g}"
    return [less(ours, theirs, at), foreseen(ours, theirs, perfect(test, method.cuts[0], plain).macs)]


def cheapest(seen: StoredForetold, plans: Sequence[AnyPlan], least: float) -> AnyPlan:
    """Return the plan that computes least on the device, of those with at least this accuracy; the first if none is."""
    spent = {plan: on_device(seen, plan) for plan in plans}
    good = [plan for plan in plans if spent[plan].quality >= least]
    return min(good or plans[:1], key=lambda plan: spent[plan].macs)


def perfect(seen: StoredForetold, cut: int, plain: Plan) -> Spent:
    """Return the same for a predictor that costs nothing and knows at which exit a plain plan lets each picture go."""
    assert plain.knob is not None
    stops = seen.stops(plain.knob)[:cut]
    left, _ = foretold(torch.ones(stops.shape[1], 1), stops, 0.5, len(seen.costs))
    blocks, own = seen.stages[:cut].cumsum(axis=0), seen.heads[:cut]
    macs = [float(blocks[min(i, cut - 1), n] + (own[i, n] if i < cut else 0)) for n, i in enumerate(left.tolist())]
    return Spent(mean(macs), accuracy(seen.at(left), seen.targets))


def less(ours: Spent, plain: Spent, at: str) -> Outcome:
    """Judge what is saved on the device."""
    saved = 1 - ours.macs / plain.macs
    return Outcome(
        name="less computation on the device",
        statement="With thresholds chosen on validation data, tau alone without EP, eta and tau with it, each side as "
        "cheap as can be while it loses at most half a point to asking every exit at the confidence for which EP has "
        "learnt, the device computes at least 10 % less with EP on test data (the dissertation: over 20 %), and "
        "accuracy is at most one point lower.",
        holds=saved >= 0.1 and plain.quality - ours.quality <= 0.01,
        measured=f"{saved:.1%} less, accuracy {ours.quality - plain.quality:+.4f}, at {at}",
    )


def foreseen(ours: Spent, plain: Spent, least: float) -> Outcome:
    """Judge it by what can be saved at all."""
    share = (plain.macs - ours.macs) / max(plain.macs - least, 1e-9)
    return Outcome(
        name="a good part of what can be foretold",
        statement="That is at least a third of what a predictor would save, at the tau chosen without EP, that costs "
        "nothing and is always right.",
        holds=share >= 1 / 3,
        measured=f"{share:.1%} of it",
    )


def adapted(method: ExitPrediction, prepared: Prepared) -> Outcome:
    """Thresholds that follow the bandwidth against those best at the usual one, one steady bandwidth at a time.

    Targets are left out that no pair keeps at a bandwidth.
    """
    known: Tables = prepared.fitted
    late: list[tuple[float, float]] = []
    gains: list[float] = []
    for target in TARGETS:
        seconds = target * method.speeds.plain(known, method.bandwidth)
        curves = regressed(known, method.speeds, method.bandwidth, seconds, method.degree)
        usual = chosen(known, method.speeds.expected(known, method.bandwidth), seconds)
        for share in LINKS:
            if method.speeds.expected(known, share * method.bandwidth).min() > seconds:
                continue
            ours, theirs = (tried(method, prepared, share, pair) for pair in (curves.at(share), usual))
            late.append((max(0.0, ours[0] / seconds - 1), max(0.0, theirs[0] / seconds - 1)))
            if share >= 1:
                gains.append(ours[1] - theirs[1])
    return judged(late, gains)


def tried(method: ExitPrediction, prepared: Prepared, share: float, pair: tuple[float, float]) -> tuple[float, float]:
    """Return the mean seconds to an answer under a pair at a bandwidth that stays, without queues, and the accuracy."""
    return sent(method, prepared, share, Foretold(method.cuts, pair[1], eta=pair[0]))


def sent(method: ExitPrediction, prepared: Prepared, share: float, plan: Plan) -> tuple[float, float]:
    """Return the same under a plan."""
    seen, world = prepared.split("test"), method.world("test", 0)
    link = Link(steady(share * method.bandwidth), method.round_trip)
    count = min(PICTURES, len(seen.examples))
    came = [10.0 * n for n in range(count)]
    journeys = stream(replace(world, links=(link,)), seen, Always(plan), came)
    return mean(j.answered - j.came for j in journeys), accuracy(seen.told(journeys), seen.targets[:count])


def judged(late: Sequence[tuple[float, float]], gains: Sequence[float]) -> Outcome:
    """Judge by how much targets are exceeded, and what is gained where there is more bandwidth."""
    ours, theirs = (mean(each) for each in zip(*(late or [(0.0, 0.0)]), strict=True))
    gain = mean(gains or [0.0])
    return Outcome(
        name="keeps the target as bandwidth changes",
        statement="Over five bandwidths and six targets that can be kept, mean time exceeds the target on average by "
        "at most half as much as with the thresholds that are best at the usual bandwidth, and from that bandwidth on "
        "accuracy is on average no lower than theirs by more than half a point.",
        holds=theirs > 0 and ours <= theirs / 2 and gain >= -0.005,
        measured=f"{ours:.1%} over the target instead of {theirs:.1%}, "
        f"accuracy {gain:+.4f} from the usual bandwidth on",
    )


class Beside(NamedTuple):
    """What an answer takes at one bandwidth, in simulated milliseconds."""

    rate: float  # Mbit/s
    ours: float
    accuracy: float
    server: float  # alone, each picture being sent to it
    full: float  # accuracy of the whole network, on the same pictures


def beside(method: ExitPrediction, prepared: Prepared, target: float) -> list[Beside]:
    """Set the method at a target beside the server alone, one bandwidth that stays at a time."""
    found = []
    for share in RATES:
        link = Link(steady(share * method.bandwidth), method.round_trip)
        world = replace(method.world("test", 0), links=(link,))
        plan = method.scheduler(prepared.for_choosing, world, target).plan(0, SETTLED)
        ours, quality = sent(method, prepared, share, plan)
        server, full = sent(method, prepared, share, Plan((0,)))
        found.append(Beside(share * method.bandwidth / 1e6, 1000 * ours, quality, 1000 * server, full))
    return found


def beside_one_machine(found: Sequence[Beside], device: float, target: float) -> Outcome:
    """Judge by whether there is a bandwidth at which neither machine alone would do as well."""
    each = ", ".join(f"{one.ours:.0f} ({one.accuracy:.4f}) and {one.server:.0f} at {one.rate:g}" for one in found)
    return Outcome(
        name="sooner than one machine alone",
        statement="At some bandwidth, at the cheapest target that loses at most one point on validation data, an "
        "answer takes at least a tenth less simulated time than from the whole network on the device, and than from "
        "the whole network on the server, to which each picture is sent by the same codec; and accuracy there is at "
        "most two points lower on test data.",
        holds=any(one.ours <= 0.9 * min(device, one.server) and one.accuracy >= one.full - 0.02 for one in found),
        measured=f"simulated ms with exits (and accuracy) and of the server alone, where the device alone takes "
        f"{device:.0f} and both alone reach {found[-1].full:.4f} on the same pictures: {each} Mbit/s; at a target of "
        f"{target:g}",
    )
