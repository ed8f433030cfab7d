"""What SENTEE and TOKEE claim: most of the cost saved, words before sentences, and a second stage worth having."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.tagging import Prepared, Seen
from eelit.methods.papers.li2021tokee import Tokee
from eelit.methods.policies.base import Policy
from eelit.methods.policies.window_uncertainty import SentenceUncertainty, WindowUncertainty


def claims(method: Tokee, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Most of the cost saved for little; for TOKEE also: better than SENTEE, and stage 2 makes up for copying."""
    close = [i for i, p in enumerate(curve.validation) if p.quality >= curve.validation[-1].quality - 0.01]
    point = curve.test[min(close, key=lambda i: curve.validation[i].cost)]
    saved, loss = 1 - 1 / point.speed_up, curve.full_quality - point.quality
    found = Outcome(
        name="two thirds saved for little",
        statement="The cheapest delta within a point on validation saves ≥ 66 % of the MACs, as close on test.",
        holds=saved >= 0.66 and loss <= 0.01,
        measured=f"{saved:.0%} saved, accuracy {-loss:+.4f}, at delta {point.knob:g}",
    )
    return [found] if method.whole else [found, *word_claims(method, prepared, bench, curve)]


def word_claims(method: Tokee, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Compare TOKEE with SENTEE, as it is trained and on the same weights, and with itself after stage 1.

    SENTEE has stage 1 alone, so that its weights are those of TOKEE before stage 2; where it is a rival, it is trained
    for as long as TOKEE.
    """
    sentee = method.replace({"level": "sentence"})
    before = sentee.prepare(bench)
    rival = sentee.replace({"epochs": method.epochs + method.sampling_epochs}).prepare(bench)
    policy = WindowUncertainty(0.25, method.window)
    lost = [lost_to_copying(each, "test", policy) for each in (before, prepared)]
    copied = Outcome(
        name="self-sampling makes up for copied states",
        statement="At delta 0.25 copying costs 0.1 points less accuracy after stage 2 than before it.",
        holds=lost[1] <= lost[0] - 0.001,
        measured=f"{lost[0]:+.4f} lost to copying before, {lost[1]:+.4f} after",
        not_comparable="" if lost[0] >= 0.001 else "Copying costs next to nothing before stage 2 already.",
    )
    found = []
    for name, how, trained in (("TOKEE beats SENTEE", "whose one stage takes as many epochs as both of TOKEE", rival),
                               ("words beat sentences", "on the same weights", prepared)):  # fmt: skip
        sentences = trained.at_once("test", [SentenceUncertainty(delta) for delta in method.knobs])
        gains = gains_at_equal_cost(curve.test[1:-1], sentences)
        statement = f"At the cost of each delta, TOKEE is on average 0.2 points better than SENTEE, {how}."
        measured = f"{np.mean(gains):+.4f} on average, from {min(gains):+.4f} to {max(gains):+.4f}"
        holds = float(np.mean(gains)) >= 0.002
        found.append(Outcome(name=name, statement=statement, holds=holds, measured=measured))
    return [*found, copied]


def lost_to_copying(prepared: Prepared, split: Split, policy: Policy) -> float:
    """Return how much better the same layers would tag the same words if no state had been copied."""
    seen = prepared.run(split, policy)
    free = prepared.every(split).gather(0, seen.exits[None])[0]
    return float(free.double().mean() - seen.right.double().mean())


def gains_at_equal_cost(points: Sequence[OperatingPoint], rivals: Sequence[Seen]) -> list[float]:
    """Return how much better points are than others on the same split at equal cost.

    Between the others, given from cheap to expensive, quality is interpolated.
    """
    costs = [run.cost / len(run.right) for run in rivals]
    quality = [float(run.right.double().mean()) for run in rivals]
    return [point.quality - float(np.interp(point.cost, costs, quality)) for point in points]
