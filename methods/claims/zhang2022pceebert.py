"""What PCEE-BERT claims: a finer choice of speeds than patience has, and better than patience or entropy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean

from eelit.methods.claims.comparisons import MIXED, gains_at_equal_cost, on_average
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.zhang2022pceebert import PceeBert
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence


def claims(method: PceeBert, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """A finer choice of speeds; with t and tau searched together, better than patience or entropy alone."""
    exits, test = prepared.model.exits, prepared.split("test")
    whole = [1 / method.trial(Patience(p), test).speed_up for p in range(exits)]
    ours, theirs = widest_steps([1 / point.speed_up for point in curve.test], whole)
    finer = Outcome(
        name="a finer choice of speeds",
        statement="Between costs that both reach and the full model, the widest step from one threshold to the next is "
        "at most half of the widest from one patience to the next.",
        holds=ours <= theirs / 2,
        measured=f"{ours:.1%} of the full cost, {theirs:.1%} by patience",
    )
    if method.patience != 2:  # the searches below try every patience, whatever the variant's
        return [finer]
    return [
        finer,
        better_alone("patience", method, prepared, [Patience(p) for p in range(1, exits - 1)]),
        better_alone("entropy", method, prepared, by_entropy(method, prepared)),
    ]


def widest_steps(*costs: Sequence[float]) -> list[float]:
    """Return the largest difference of neighbouring costs of each rule, from the least that all reach to 1."""
    least = max(map(min, costs))
    reached = (sorted([least, 1.0, *(cost for cost in each if cost >= least)]) for each in costs)
    return [max(b - a for a, b in pairwise(each)) for each in reached]


def by_entropy(method: PceeBert, prepared: Prepared) -> list[Entropy]:
    """Return the rule of one sure exit (in nats) at all thresholds of the method but the ends."""
    return [Entropy(tau * math.log(prepared.data.classes or 2)) for tau in method.knobs[1:-1]]


def better_alone(name: str, method: PceeBert, prepared: Prepared, rivals: list[Patience] | list[Entropy]) -> Outcome:
    """Compare t and tau, searched together, with the settings of one of the two rules that are joined here."""
    ours = [PatientConfidence(tau, t) for t in range(2, prepared.model.exits) for tau in method.knobs]
    gains = gains_at_equal_cost(method, prepared, ours, rivals)
    return Outcome(
        name=f"better than {name} alone",
        statement=f"On the same network test accuracy is on average half a point higher at equal cost than by {name} "
        f"alone. {MIXED}",
        holds=mean(gains or [0.0]) >= 0.005,
        measured=f"{on_average(gains)}; from the least " + ", ".join(f"{each:+.4f}" for each in gains),
    )
