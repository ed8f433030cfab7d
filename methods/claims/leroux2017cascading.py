"""What the cascading network claims: a small device answers sooner, little is sent, and a broken link costs little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.tiers import Plan, Prepared
from eelit.methods.papers.leroux2017cascading import Cascading
from eelit.methods.world.machines import Link
from eelit.methods.world.stream import Always, Journey, stream
from eelit.methods.world.traces import steady

TIMES = (1 / 160, 1 / 100, 1 / 80, 1 / 64, 1 / 40, 1 / 16, 1 / 4, 1.0, 4.0)
"""Bandwidths of the links that are tried, by the usual ones: closer together where both ends take about as long."""


def claims(method: Cascading, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them at the cheapest threshold that loses little."""
    tau = cheapest_within(curve.validation, curve.test, 0.01).knob
    journeys = method.simulated(prepared, "test", tau)
    at_tau = next(point.quality for point in curve.test if point.knob == tau)
    device = next(base for base in curve.baselines if base.name == "all on the device").test[0].cost
    pictures = method.simulated(prepared, "test", None, only=all_sent(method))
    return [
        sooner(took(journeys), device, curve.full_quality - at_tau, tau),
        between(method, prepared, tau, device),
        *sparing(journeys, pictures),
        cut_off(method, prepared, tau, at_tau),
    ]


def took(journeys: Sequence[Journey]) -> float:
    """Return the mean simulated milliseconds."""
    return mean(journey.milliseconds for journey in journeys)


def crossing(journeys: Sequence[Journey]) -> float:
    """Return the mean bytes that the device sends for a picture."""
    return mean(sum(journey.sent) for journey in journeys)


def all_sent(method: Cascading) -> Always:
    """Return the scheduler that has each picture itself sent to the last machine, which runs the whole network."""
    return Always(Plan((0,) * len(method.cuts)))


def sooner(took: float, device: float, loss: float, tau: float) -> Outcome:
    """The answer's time against that of the whole network on the device."""
    return Outcome(
        name="sooner than the device alone",
        statement="At the cheapest threshold that loses at most one point on validation data, the answer is there in "
        "at most two thirds of the simulated time that the whole network takes on the device, and accuracy on test "
        "data is at most two points lower.",
        holds=took <= device / 1.5 and loss <= 0.02,
        measured=f"{took:.0f} instead of {device:.0f} simulated ms, accuracy {-loss:+.4f}, at tau = {tau:g}",
    )


def between(method: Cascading, prepared: Prepared, tau: float, device: float) -> Outcome:
    """Where the cascade is sooner than the whole network at either end, as links become faster."""
    spent = []
    for times in TIMES:
        own = method.replace({"bandwidths": tuple(usual * times for usual in method.bandwidths)})
        cloud = own.simulated(prepared, "test", None, only=all_sent(own))
        spent.append((took(own.simulated(prepared, "test", tau)), took(cloud)))
    rates = [method.bandwidths[0] * times / 1e6 for times in TIMES]
    rows = [(rate, *each) for rate, each in zip(rates, spent, strict=True)]
    before = [rate for rate, ours, theirs in rows if ours < theirs]  # the cloud
    beyond = [rate for rate, ours, _ in rows if ours < device]
    return Outcome(
        name="sooner than device and cloud alone",
        statement="At some of the bandwidths tried, with the threshold unchanged, the cascade answers in at least a "
        "tenth less simulated time than the whole network on the device, and than the whole network in the cloud, to "
        "which each picture is sent by the same codec.",
        holds=any(ours <= 0.9 * min(device, theirs) for _, ours, theirs in rows),
        measured=f"sooner than the cloud {ends(before)}, than the device {ends(beyond)}; simulated ms of the cascade "
        f"and of the cloud, where the device alone takes {device:.0f}: "
        f"{', '.join(f'{ours:.0f} and {theirs:.0f} at {rate:g}' for rate, ours, theirs in rows)} Mbit/s",
    )


def ends(rates: Sequence[float]) -> str:
    """Tell from which bandwidth to which, in Mbit/s."""
    return f"from {min(rates):g} to {max(rates):g} Mbit/s" if rates else "at none"


def sparing(journeys: Sequence[Journey], pictures: Sequence[Journey]) -> list[Outcome]:
    """What is sent, against all states, and against all pictures."""
    sent = mean(bool(journey.sent) for journey in journeys)
    size, whole = crossing(journeys), crossing(pictures)
    return [
        Outcome(
            name="most pictures stay on the device",
            statement="At that threshold at most half of the pictures are passed on.",
            holds=sent <= 0.5,
            measured=f"{sent:.1%} of the pictures",
        ),
        Outcome(
            name="less traffic than sending pictures",
            statement="At that threshold at most half as many bytes are sent as if each picture were sent, by the same "
            "codec.",
            holds=size <= whole / 2,
            measured=f"{size:.0f} bytes a picture on average, {size / sent if sent else 0:.0f} where one is passed on; "
            f"a picture itself takes {whole:.0f}",
        ),
    ]


def cut_off(method: Cascading, prepared: Prepared, tau: float, connected: float) -> Outcome:
    """Nothing comes through, and the device answers by itself at once."""
    seen = prepared.split("test")
    world = method.world("test", prepared.bench.seed)
    silent = tuple(Link(steady(0.0), link.round_trip) for link in world.links)
    broken = replace(world, links=silent, patience=0.0)
    scheduler = method.scheduler(prepared.for_choosing, world, tau)
    journeys = stream(broken, seen, scheduler, method.came(len(seen.examples)))
    alone = method.score(seen.told(journeys), seen.targets)
    return Outcome(
        name="useful without a connection",
        statement="When no link carries anything, each picture is answered by the device, and accuracy on test data "
        "is at most five points lower than with the cloud at the same threshold.",
        holds=connected - alone <= 0.05 and all(journey.exit >= 0 for journey in journeys),
        measured=f"accuracy {alone:.4f} instead of {connected:.4f}, at tau = {tau:g}",
    )
