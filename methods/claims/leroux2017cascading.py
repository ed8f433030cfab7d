"""What the cascading network claims: a small device answers sooner, little is sent, and a broken link costs little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.tiers import Prepared
from eelit.methods.papers.leroux2017cascading import Cascading
from eelit.methods.world.machines import Link
from eelit.methods.world.stream import Journey, stream
from eelit.methods.world.traces import steady


def claims(method: Cascading, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them at the cheapest threshold that loses little."""
    tau = cheapest_within(curve.validation, curve.test, 0.01).knob
    journeys = method.simulated(prepared, "test", tau)
    at_tau = next(point.quality for point in curve.test if point.knob == tau)
    device = next(base for base in curve.baselines if base.name == "all on the device").test[0].cost
    took = sum(journey.milliseconds for journey in journeys) / len(journeys)
    pixels = prepared.split("test").examples.inputs[0].numel()
    return [
        sooner(took, device, curve.full_quality - at_tau, tau),
        *sparing(journeys, pixels),
        cut_off(method, prepared, tau, at_tau),
    ]


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


def sparing(journeys: Sequence[Journey], pixels: int) -> list[Outcome]:
    """What is sent, against all states, and against all pictures at a byte for each pixel."""
    sent = sum(bool(journey.sent) for journey in journeys) / len(journeys)
    size = sum(sum(journey.sent) for journey in journeys) / len(journeys)
    return [
        Outcome(
            name="most pictures stay on the device",
            statement="At that threshold at most half of the pictures are passed on.",
            holds=sent <= 0.5,
            measured=f"{sent:.1%} of the pictures",
        ),
        Outcome(
            name="less traffic than sending pictures",
            statement="At that threshold at most half as many bytes are sent as if each picture were, a byte for each "
            "pixel.",
            holds=size <= pixels / 2,
            measured=f"{size:.0f} bytes a picture, which has {pixels} pixels",
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
