"""What JEI-DNN claims: better than thresholds on exits trained apart from them, and probabilities to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from eelit.methods.claims.comparisons import at_prices, better_than, gains, governed, on_their_own
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.engine.stored_outputs import CONFIDENCES, StoredOutputs
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.regol2024jeidnn import JeiDnn
from eelit.methods.policies.base import Policy
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.temperature import calibration_error

THRESHOLD = 0.5
"""The paper's, at which the claims are tried."""
LAMBDAS = (2.0, 1.0, 0.5, 0.2)
"""Prices for each of which there is a training, the costliest first."""


class Tried(NamedTuple):
    """Settings on validation and test data, the cheapest first, and the calibration error of what each answers."""

    points: Baseline
    errors: list[float]


def claims(method: JeiDnn, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Our points are trainings of several prices; the rivals' are thresholds."""
    if not method.detached:
        return []
    ours = by_price(method, bench)
    apart = method.replace({"warm_epochs": method.warm_epochs + method.joint_epochs, "joint_epochs": 0.0})
    theirs = by_confidence(apart, apart.prepare(bench))
    cancelled = method.replace({"detached": False})
    other = by_price(cancelled, bench)
    return [
        better_than(
            "thresholds on confidence", gains(ours.points, theirs.points),
            "Against the same exits on the same network, trained as long without gates",
        ),
        trusted(ours, theirs),
        better_than("exits that learn as if there were no gates", gains(ours.points, other.points), "At every price"),
        governed(ours.points.test),
    ]  # fmt: skip


def by_price(method: JeiDnn, bench: Bench) -> Tried:
    """Return the paper's rule with a training for each price."""
    return evaluate(method, at_prices(method, LAMBDAS, THRESHOLD, bench), LAMBDAS)


def by_confidence(method: JeiDnn, ready: Prepared) -> Tried:
    """Return thresholds on the largest probability but the ends, at which all rules are the same."""
    inner = CONFIDENCES[1:-1]
    return evaluate(method, [(MaxConfidence(each), ready) for each in inner], inner)


def evaluate(method: JeiDnn, settings: Sequence[tuple[Policy, Prepared]], knobs: Sequence[float]) -> Tried:
    """Replay each policy on its network, and tell its calibration error on test data."""
    errors = [error_of(policy, ready.split("test")) for policy, ready in settings]
    return Tried(on_their_own(method, settings, knobs), errors)


def error_of(policy: Policy, seen: StoredOutputs) -> float:
    """Return the expected calibration error of what each sample is told at its exit."""
    return calibration_error(seen.at(replay(policy, seen.outputs))[None], seen.targets)


def trusted(ours: Tried, theirs: Tried) -> Outcome:
    """Compare calibration at each price with that of the costliest threshold that costs no more."""
    pairs = []
    for point, error in zip(ours.points.validation, ours.errors, strict=True):
        costs = [(rival.cost, i) for i, rival in enumerate(theirs.points.validation) if rival.cost <= point.cost]
        if costs:
            pairs.append((error, theirs.errors[max(costs)[1]]))
    gain = mean(b - a for a, b in pairs) if pairs else 0.0
    return Outcome(
        name="probabilities to be trusted",
        statement="At each price, the calibration error of the answers is on average half a point lower than with the "
        "costliest threshold on confidence that costs no more.",
        holds=gain >= 0.005,
        measured="; ".join(f"{a:.4f} and {b:.4f}" for a, b in pairs) or "no threshold is as cheap",
    )
