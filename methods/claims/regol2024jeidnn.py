"""What JEI-DNN claims: better than thresholds on exits trained apart from them, and probabilities to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from eelit.methods.claims.comparisons import (
    at_prices,
    better_than,
    gains_of_mixtures,
    governed,
    on_average,
    on_their_own,
)
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.engine.stored_outputs import StoredOutputs, confidences
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.regol2024jeidnn import JeiDnn
from eelit.methods.policies.base import Policy
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.temperature import calibration_error

THRESHOLD = 0.5
"""The paper's, at which the claims are tried."""
LAMBDAS = (5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.01)
"""Prices for each of which there is a training of gates and classifiers, the costliest first; the network is one."""


class Tried(NamedTuple):
    """Settings on validation and test data, the cheapest first, and the calibration error of what each answers."""

    points: Baseline
    errors: list[float]


def claims(method: JeiDnn, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Our points are trainings of several prices; the rivals' are thresholds."""
    if not method.detached:
        return []
    ours = by_price(method, bench)
    cancelled = method.replace({"detached": False})
    other, theirs = by_price(cancelled, bench), by_confidence(cancelled, cancelled.prepare(bench))
    apart = method.replace({"warm_epochs": method.warm_epochs + method.joint_epochs, "joint_epochs": 0.0})
    return [
        than_thresholds(ours, theirs, by_confidence(apart, apart.prepare(bench))),
        trusted(ours, theirs),
        better(
            "exits that learn as if there were no gates", ours.points, other.points,
            f"With a training for each of {len(LAMBDAS)} prices on either side",
        ),
        governed(ours.points.test),
    ]  # fmt: skip


def than_thresholds(ours: Tried, alike: Tried, apart: Tried) -> Outcome:
    """Compare with thresholds on exits trained alike; those that never were with gates had another optimiser."""
    found = better(
        "thresholds on confidence", ours.points, alike.points,
        f"With a training for each of {len(LAMBDAS)} prices, beside the same exits on the same network, trained in the "
        "same steps and by the same optimisers, AdamW and then SGD, but as if there were no gates",
    )  # fmt: skip
    told = on_average(gains_of_mixtures(ours.points, apart.points))
    return found.model_copy(
        update={
            "measured": f"{found.measured}; beside exits trained as long without gates, by AdamW alone: {told}",
        }
    )


def better(name: str, ours: Baseline, theirs: Baseline, where: str) -> Outcome:
    """Compare at equal cost, and tell how many prices lie where there is something to compare."""
    found = better_than(name, gains_of_mixtures(ours, theirs), where)
    told = f"{found.measured}; {len(comparable(ours, theirs))} of {len(ours.validation)} prices within the range"
    return found.model_copy(update={"measured": told})


def comparable(ours: Baseline, theirs: Baseline) -> list[int]:
    """Return which of our settings cost no less on validation data than the cheapest of theirs, no more than any."""
    costs = [rival.cost for rival in theirs.validation]
    return [i for i, point in enumerate(ours.validation) if min(costs) <= point.cost <= max(costs)]


def by_price(method: JeiDnn, bench: Bench) -> Tried:
    """Return the paper's rule with a training for each price."""
    return evaluate(method, at_prices(method, LAMBDAS, THRESHOLD, bench), LAMBDAS)


def by_confidence(method: JeiDnn, ready: Prepared) -> Tried:
    """Return thresholds on the largest probability but the ends, at which all rules are the same."""
    inner = confidences(ready.data.classes or 1)[1:-1]
    return evaluate(method, [(MaxConfidence(each), ready) for each in inner], inner)


def evaluate(method: JeiDnn, settings: Sequence[tuple[Policy, Prepared]], knobs: Sequence[float]) -> Tried:
    """Replay each policy on its network, and tell its calibration error on test data."""
    errors = [error_of(policy, ready.split("test")) for policy, ready in settings]
    return Tried(on_their_own(method, settings, knobs), errors)


def error_of(policy: Policy, seen: StoredOutputs) -> float:
    """Return the expected calibration error of what each sample is told at its exit."""
    return calibration_error(seen.at(replay(policy, seen.outputs))[None], seen.targets)


def trusted(ours: Tried, theirs: Tried) -> Outcome:
    """Compare calibration at each price with that of the costliest threshold that costs no more.

    Single settings are compared: two thresholds that take turns have no calibration error between theirs.
    """
    pairs = []
    for n in comparable(ours.points, theirs.points):
        most = ours.points.validation[n].cost
        costs = [(rival.cost, i) for i, rival in enumerate(theirs.points.validation) if rival.cost <= most]
        pairs.append((ours.errors[n], theirs.errors[max(costs)[1]]))
    gain = mean(b - a for a, b in pairs) if pairs else 0.0
    return Outcome(
        name="probabilities to be trusted",
        statement="At the prices whose costs thresholds on confidence reach, on the same exits trained as if there "
        "were no gates, the calibration error of the answers is on average half a point lower than with the costliest "
        "threshold that costs no more.",
        holds=gain >= 0.005,
        measured=f"{'; '.join(f'{a:.4f} and {b:.4f}' for a, b in pairs) or 'none'}: {len(pairs)} of "
        f"{len(ours.errors)} prices",
    )
