"""What the title of ES-FedAvg promises, tried: depth for whom can afford it, personal heads, and less that is sent."""

from __future__ import annotations

from dataclasses import replace

from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.papers.li2023esfedavg import Clients, EsFedAvg

GAIN = 0.01
"""What a part of the method must bring on the clients' test images."""


def claims(method: EsFedAvg, prepared: Clients, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the same federation without one part at a time, on the same clients and trained as long.

    A client that learns alone has no use for sparse weights either, so that it keeps all.
    """
    shallow, alone, common, dense, unpruned = (
        method.replace(changed).prepare(bench)
        for changed in (
            {"budgets": (1,)}, {"shared": "nothing", "kept": 1.0}, {"shared": "all"}, {"density": 1.0}, {"kept": 1.0},
        )
    )  # fmt: skip
    deep = [k for k, one in enumerate(prepared.each) if one.model.exits == method.exits]
    ours = accuracy(method, prepared, bench)
    point = cheapest_within(curve.validation, curve.test, 0.01)
    return [
        better(
            "deep clients are better for their depth",
            "On the clients that can afford all blocks, the last exit is at least one point more accurate than in the "
            "same federation of the one-block network that all can afford.",
            accuracy(method, prepared, bench, deep),
            accuracy(method, shallow, bench, deep),
        ),
        better(
            "better than learning alone",
            "Over all clients, last exits are at least one point more accurate than those of clients that train as "
            "long by themselves, and keep all weights.",
            ours,
            accuracy(method, alone, bench),
        ),
        better(
            "better with heads of their own",
            "Over all clients, last exits are at least one point more accurate than where heads are averaged too.",
            ours,
            accuracy(method, common, bench),
        ),
        sparse(ours, accuracy(method, dense, bench), crossed(prepared), crossed(dense)),
        pruned(ours, accuracy(method, unpruned, bench), method.kept),
        Outcome(
            name="exits spare computation",
            statement="The cheapest threshold that loses at most one point on validation images costs at least a fifth "
            "less than the clients' plain networks, and loses at most two points on test images.",
            holds=point.speed_up >= 1.25 and point.quality >= curve.full_quality - 0.02,
            measured=f"{point.speed_up:.2f}× at threshold {point.knob:g}, accuracy "
            f"{point.quality - curve.full_quality:+.4f}",
        ),
    ]


def accuracy(method: EsFedAvg, prepared: Clients, bench: Bench, some: list[int] | None = None) -> float:
    """Return the accuracy of last exits on the test images of all clients, or of some."""
    chosen = prepared.each if some is None else [prepared.each[k] for k in some]
    return method.full_model(replace(prepared, each=chosen), bench)[0]


def better(name: str, statement: str, ours: float, theirs: float) -> Outcome:
    """Return the outcome that we are better by so much."""
    return Outcome(name=name, statement=statement, holds=ours >= theirs + GAIN, measured=f"{ours:.4f} and {theirs:.4f}")


def crossed(prepared: Clients) -> tuple[int, int]:
    """Return the bytes of all messages of the training, to the clients and back."""
    assert prepared.federation is not None
    down, up = prepared.federation.traffic.tolist()
    return down, up


def sparse(ours: float, dense: float, sent: tuple[int, int], whole: tuple[int, int]) -> Outcome:
    """What is saved by sending a share of the weights, and what that costs; what is pruned in the end is the same."""
    (down, up), (all_down, all_up) = sent, whole
    return Outcome(
        name="little is lost by sending few weights",
        statement="Over all rounds, at most three quarters of the bytes cross, both ways together, that would if "
        "clients sent all weights, and last exits are at most one point less accurate.",
        holds=down + up <= 0.75 * (all_down + all_up) and ours >= dense - GAIN,
        measured=f"{up / 1000:.1f} of {all_up / 1000:.1f} kB to the server, {down / 1000:.1f} of {all_down / 1000:.1f} "
        f"kB from it, {(down + up) / (all_down + all_up):.1%} together; accuracy {ours:.4f} and {dense:.4f}",
    )


def pruned(ours: float, unpruned: float, kept: float) -> Outcome:
    """What it costs that clients keep a share of the weights in the end; what is sent before is the same."""
    return Outcome(
        name="little is lost by keeping few weights",
        statement="Last exits are at most one point less accurate than where clients keep all weights of their blocks.",
        holds=ours >= unpruned - GAIN,
        measured=f"{kept:.0%} of the weights kept, accuracy {ours:.4f} and {unpruned:.4f}",
    )
