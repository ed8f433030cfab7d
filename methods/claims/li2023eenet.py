"""What EENet claims: less energy than a plain network and than early exits without forecasts; deadlines are kept.

Energy is that of the method's chip, whose voltages are assumed, so outcomes about energy say nothing of the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from eelit.methods.claims.comparisons import gains
from eelit.methods.engine.evaluate import followed
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.li2023eenet import Done, EENet, legs_of

ASSUMED = "energy is computed from a model of a processor with assumed voltages; nothing was measured"
POINT = 0.01
LOADS = (0.3, 0.6, 0.9, 1.2)
"""Images that come in the time of the plain network, for which the loop is tried."""


def claims(method: EENet, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the plain network, early exits that forecast nothing, fixed depths, and the same without the loop."""
    if not method.governs or not method.K_p:
        return []
    rivals = {baseline.name: baseline for baseline in curve.baselines}
    beta = cheapest_within(curve.validation, curve.test, POINT).knob
    return [
        less_than_plain(curve),
        less_than_early_exits(curve, rivals["max-confidence"]),
        better_than_fixed(curve, rivals["static exit"]),
        deadlines(method, prepared, beta),
    ]


def less_than_plain(curve: Curve) -> Outcome:
    """Against the network without exits, at the highest level."""
    point = cheapest_within(curve.validation, curve.test, POINT)
    saved, loss = 1 - 1 / point.speed_up, curve.full_quality - point.quality
    return Outcome(
        name="less energy than the plain network",
        statement="The cheapest beta that loses at most one point on validation data takes half of the energy of the "
        "plain network at the highest level (the paper: up to 63.8 % less), and loses at most two points on test data.",
        holds=saved >= 0.5 and loss <= 0.02,
        measured=f"{saved:.1%} saved, accuracy {-loss:+.4f}, at beta = {point.knob:g}",
        not_comparable=ASSUMED,
    )


def less_than_early_exits(curve: Curve, rival: Baseline) -> Outcome:
    """Against early exits that nobody forecasts, each side at its own cheapest setting."""
    ours = cheapest_within(curve.validation, curve.test, POINT)
    full = max(point.quality for point in curve.validation)
    theirs = cheapest_within(rival.validation, rival.test, POINT, of=full)
    saved, loss = 1 - ours.cost / theirs.cost, theirs.quality - ours.quality
    return Outcome(
        name="less energy than early exits without forecasts",
        statement="Of settings that lose at most one point on validation data, the cheapest takes a fifth less energy "
        "than the cheapest of stopping at the largest probability at the highest level (the paper: 21.5 %), and is at "
        "most a point less accurate on test data.",
        holds=saved >= 0.2 and loss <= 0.01,
        measured=f"{saved:.1%} saved, accuracy {-loss:+.4f}",
        not_comparable=ASSUMED,
    )


def better_than_fixed(curve: Curve, rival: Baseline) -> Outcome:
    """Against fixed depths on the same chip, of which all work is known: what exits that vary are worth there."""
    found = gains(Baseline(name="ours", validation=curve.validation, test=curve.test), rival)
    gain = mean(found or [-1.0])
    return Outcome(
        name="better than a fixed depth on the same chip",
        statement="At no more than the energy of each fixed depth, whose level is set by all of its work, accuracy on "
        "test data is on average half a point higher.",
        holds=gain >= 0.005,
        measured=f"{gain:+.4f} on average over the energies of {len(found)} depths",
        not_comparable=ASSUMED,
    )


def late(done: Sequence[Done]) -> float:
    """Return the share of inferences that were late."""
    return mean(each.late for each in done)


def deadlines(method: EENet, prepared: Prepared, beta: float) -> Outcome:
    """See what the loop does where more or fewer images come, with and without it; nothing else differs."""
    seen, policy = prepared.split("test"), method.rule(beta, prepared)
    legs, whole, seed = legs_of(seen, followed(policy, seen.outputs)), method.whole(seen), prepared.bench.seed
    shares = []
    for load in LOADS:
        ways = method.replace({"arriving": load}), method.replace({"arriving": load, "K_p": 0.0, "K_i": 0.0})
        shares.append(tuple(late(way.run(legs, whole, "test", seed)) for way in ways))
    ours, without = (mean(each) for each in zip(*shares, strict=True))
    return Outcome(
        name="the loop keeps deadlines",
        statement=f"With {', '.join(f'{load:g}' for load in LOADS)} images in the time that the plain network takes, "
        "the loop over inferences lowers the mean share of late answers by a tenth of itself, or keeps it below 1 %.",
        holds=ours <= max(0.9 * without, 0.01),
        measured="; ".join(
            f"load {load:g}: {a:.1%} late, {b:.1%} without" for load, (a, b) in zip(LOADS, shares, strict=True)
        ),
    )
