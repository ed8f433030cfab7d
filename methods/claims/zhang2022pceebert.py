"""What PCEE-BERT claims: a finer choice of speeds than patience has, and better than patience or entropy alone."""

from __future__ import annotations

import math
from statistics import mean

from eelit.methods.claims.comparisons import gains_at_equal_cost
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.zhang2022pceebert import PceeBert
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence


def claims(method: PceeBert, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """A finer choice of speeds; with t and tau searched together, better than patience or entropy alone."""
    speeds, exits = len({round(point.speed_up, 2) for point in curve.test}), prepared.model.exits
    finer = Outcome(
        name="a finer choice of speeds",
        statement="The threshold reaches at least twice as many different speeds as patience, which has one per layer.",
        holds=speeds >= 2 * exits,
        measured=f"{speeds} different speed-ups, to the second decimal, against {exits}",
    )
    if method.patience != 2:  # the searches below try every patience, whatever the variant's
        return [finer]
    return [
        finer,
        better_alone("patience", method, prepared, [Patience(p) for p in range(1, exits - 1)]),
        better_alone("entropy", method, prepared, by_entropy(method, prepared)),
    ]


def by_entropy(method: PceeBert, prepared: Prepared) -> list[Entropy]:
    """Return the rule of one sure exit (in nats) at all thresholds of the method but the ends."""
    return [Entropy(tau * math.log(prepared.data.classes or 2)) for tau in method.knobs[1:-1]]


def better_alone(name: str, method: PceeBert, prepared: Prepared, rivals: list[Patience] | list[Entropy]) -> Outcome:
    """Compare t and tau, searched together, with the settings of one of the two rules that are joined here."""
    ours = [PatientConfidence(tau, t) for t in range(2, prepared.model.exits) for tau in method.knobs]
    gains = gains_at_equal_cost(method, prepared, ours, rivals)
    gain = mean(gains or [0.0])
    return Outcome(
        name=f"better than {name} alone",
        statement=f"On the same network, at no more than the cost of each setting of {name} and with settings of "
        "either chosen on validation data, test accuracy is on average half a point higher.",
        holds=gain >= 0.005,
        measured=f"{gain:+.4f}; by cost " + ", ".join(f"{each:+.4f}" for each in gains),
    )
