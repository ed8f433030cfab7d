"""What the hybrid network claims: most is answered on an edge of few bits, for much less energy at little loss."""

from __future__ import annotations

from statistics import mean

from eelit.methods.claims.comparisons import MIXED, gains_of_mixtures, on_average, without_ends
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, OperatingPoint, Outcome
from eelit.methods.families.tiers import Prepared
from eelit.methods.papers.long2020cdhnn import WHOLE, HybridNetwork

ASSUMED = "energy is computed as if it were proportional to bits, which is assumed; nothing was measured"
LONG = 150
"""Epochs of the released code."""


def claims(method: HybridNetwork, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them beside the same network with full precision everywhere, and with few bits everywhere."""
    whole = method.replace({"bits": WHOLE})
    ready = whole.prepare(bench)
    held, test = (whole.sweep(ready, bench, split, whole.knobs) for split in ("validation", "test"))
    quality, cost = whole.full_model(ready, bench)
    best = held[-1].quality  # of the last exit, as nobody leaves before
    point = cheapest_within(curve.validation, curve.test, 0.01, of=best)
    few = method.replace({"edge": method.blocks * len(method.widths)})
    low = few.full_model(few.prepare(bench), bench)[0]
    theirs = Baseline(name="full precision", validation=held, test=test)
    ours = Baseline(name="few bits", validation=curve.validation, test=curve.test)
    found = [
        cheaper(point, quality, cost, method.bits),
        local(point),
        beside_whole(gains_of_mixtures(ours, without_ends(theirs))),
        repaired(curve.full_quality, low),
    ]
    return [too_early(outcome, method.epochs) for outcome in found]


def too_early(outcome: Outcome, epochs: float) -> Outcome:
    """Return an outcome with the reason why accuracies after much less training than the paper's say little, if so."""
    if epochs >= LONG:
        return outcome
    reason = (
        f"accuracies are compared after {epochs:g} epochs, and the released code trains for {LONG}; weights of one bit "
        "or a few need long training"
    )
    return outcome.model_copy(update={"not_comparable": "; ".join(filter(None, (outcome.not_comparable, reason)))})


def cheaper(point: OperatingPoint, quality: float, cost: float, bits: int) -> Outcome:
    """The cheapest T that loses little, against the network of full precision without exits."""
    paper = {1: "5.5×", 4: "4.8×"}.get(bits, "no figure")
    return Outcome(
        name="less energy than full precision",
        statement="At the cheapest T that loses at most one point on validation data to the same network with full "
        "precision everywhere, which is trained alike and has no exits, computing takes at most a third of its energy "
        f"by the model (the paper: {paper}), and accuracy on test data is at most two points lower.",
        holds=point.cost <= cost / 3 and quality - point.quality <= 0.02,
        measured=f"{cost / point.cost:.2f}× less, accuracy {point.quality - quality:+.4f}, at T = {point.knob:g}",
        not_comparable=ASSUMED,
    )


def local(point: OperatingPoint) -> Outcome:
    """What stays on the edge."""
    share = sum(point.exits[:-1])
    return Outcome(
        name="most are answered at the edge",
        statement="At that T at least half of the pictures leave on the edge (the paper: 65 % with one bit on "
        "CIFAR-10, 52 % with four on CIFAR-100).",
        holds=share >= 0.5,
        measured=f"{share:.1%}",
    )


def beside_whole(found: list[float]) -> Outcome:
    """Few bits on the edge against full precision there, with the same exits, for as much energy."""
    return Outcome(
        name="better than full-precision exits",
        statement="At equal modelled energy accuracy on test data is on average half a point higher than with full "
        f"precision everywhere and the same exits. Energy is the cost. {MIXED}",
        holds=mean(found or [0.0]) >= 0.005,
        measured=on_average(found),
        not_comparable=ASSUMED,
    )


def repaired(hybrid: float, low: float) -> Outcome:
    """The last exit behind a cloud of full precision, and behind one of few bits."""
    return Outcome(
        name="full precision in the cloud pays",
        statement="The last exit is at least one point more accurate than that of the same network with few bits in "
        "all its blocks, trained alike.",
        holds=hybrid - low >= 0.01,
        measured=f"{hybrid:.4f} and {low:.4f}",
    )
