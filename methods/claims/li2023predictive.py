"""What Predictive Exit claims: forecasts that are right save heads and computation; energy, which is only modelled."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import cast

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.evaluate import followed, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import Mixture, cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.engine.routing import Course
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.li2023predictive import LEVELS, PredictiveExit, keeps_exit, modelled_energy
from eelit.methods.policies.forecast import Forecast

SAVED = 0.02
"""Share of the computation that forecasts must save; the paper says 0.128, with up to 32 exits."""


def claims(method: PredictiveExit, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Compare forecasts with testing every exit, on the same network: of that rule itself nothing is claimed."""
    if method.rounds == 1:
        return []
    passive = method.replace({"rounds": 1})
    held, test = (passive.sweep(prepared, bench, split, method.knobs) for split in ("validation", "test"))
    beta, theirs = (cheapest_within(*points, 0.01).knob for points in ((curve.validation, curve.test), (held, test)))
    seen, policy = prepared.split("test"), cast(Forecast, method.rule(beta, prepared))
    ours, rival = (followed(each, seen.outputs) for each in (policy, passive.rule(theirs, prepared)))
    half = half_saved(curve.validation)
    return [
        fewer_heads(ours, rival),
        cheaper(curve, held, test, passed_by(seen)),
        right_forecasts(seen, cast(Forecast, method.rule(half, prepared)), half),
        placement(seen, policy, beta),
        energy(seen, ours, rival),
    ]


def heads_asked(course: Course) -> float:
    """Return the mean number of heads before the last that are run for a sample."""
    return float(course.visited[:-1].sum(dim=0).double().mean())


def fewer_heads(ours: Course, rival: Course) -> Outcome:
    """Each side at its own cheapest beta that loses at most one point on validation data."""
    most = 2 / 3 * heads_asked(rival)
    least = 1 + min(float(side.visited[1:].any(dim=0).double().mean()) for side in (ours, rival))
    return Outcome(
        name="fewer heads",
        statement="With the cheapest beta that loses at most one point on validation data, forecasts run at most two "
        "thirds of the heads that testing every exit runs with its own such beta.",
        holds=heads_asked(ours) <= most,
        measured=f"{heads_asked(ours):.2f} and {heads_asked(rival):.2f} heads for each test image",
        not_comparable=f"Two thirds are {most:.2f} heads. Nothing can be forecast before the first head has run, and "
        f"images that go on behind it run a second one, so {least:.2f} heads are run at least."
        if least > most
        else "",
    )


def passed_by(seen: StoredOutputs) -> float:
    """Return the largest share of what testing every exit costs that heads make up which a forecast can pass by.

    These are the heads between the first, from which the forecast is made, and the one where an image leaves; for an
    image that reaches the network's end, between the first and the last before that end, which no forecast passes by.
    """
    every = seen.costs[:, 0]
    _, heads = layers_and_heads(seen)
    last = len(heads) - 1
    return max(float(heads[1 : min(exit_, last)].sum() / every[exit_]) for exit_ in range(1, len(every)))


def cheaper(curve: Curve, held: Sequence[OperatingPoint], test: Sequence[OperatingPoint], passed: float) -> Outcome:
    """For the accuracy of each beta of testing every exit, take either rule's cheapest mixture that reaches it.

    ``passed`` is what can be saved at most, see `passed_by`.
    """
    saved, gained, missed = [], [], 0
    for goal in [point.quality for point in held][1:-1]:
        ours, theirs = cheapest_mixture(curve.validation, goal), cheapest_mixture(held, goal)
        reached = max(point.quality for point in curve.validation) >= goal - 1e-9
        costs, accuracies = (
            [mixed.of([getattr(point, name) for point in side]) for mixed, side in ((ours, curve.test), (theirs, test))]
            for name in ("cost", "quality")
        )
        saving = 1 - costs[0] / costs[1]
        saved.append(saving if reached else min(0.0, saving))
        gained.append(accuracies[0] - accuracies[1])
        missed += not reached
    reason = (
        f"The heads that a forecast can pass by are at most {passed:.1%} of what testing every exit costs."
        if passed < SAVED
        else ""
    )
    return Outcome(
        name="cheaper than testing every exit",
        statement="For the accuracy that each beta of testing every exit has on validation data, forecasts take 2 % "
        "fewer MACs on test data, on average, than testing every exit, and lose at most 0.2 points (the paper: 12.8 % "
        "fewer, with up to 32 exits). Either side takes the mixture of two of its betas that is cheapest on validation "
        "data with that accuracy: some images, drawn at random, are treated with the one, the rest with the other. "
        "Where no forecasts are that accurate, the best are taken, and nothing counts as saved.",
        holds=not reason and mean(saved) >= SAVED and mean(gained) >= -0.002,
        measured=f"{mean(saved):+.1%} of the MACs saved, accuracy {mean(gained):+.4f}, over {len(saved)} accuracies, "
        f"{missed} of which no forecasts have",
        not_comparable=reason,
    )


def cheapest_mixture(validation: Sequence[OperatingPoint], goal: float) -> Mixture:
    """Return the mixture of two knobs that is cheapest on validation data with this quality; else the best knob."""
    goal = min(goal, max(point.quality for point in validation))
    found = []
    for i, low in enumerate(validation):
        for j, high in enumerate(validation):
            if high.quality < goal - 1e-9:
                continue
            apart = high.quality - low.quality
            weight = min(1.0, max(0.0, (goal - low.quality) / apart)) if apart > 0 else 1.0
            mixed = Mixture(i, j, weight)
            cost, quality = (mixed.of([getattr(point, name) for point in validation]) for name in ("cost", "quality"))
            found.append(((cost, -quality), mixed))
    return min(found, key=lambda each: each[0])[1]


def half_saved(validation: Sequence[OperatingPoint]) -> float:
    """Return the beta whose cost on validation data is nearest to half of the plain network's."""
    return min(validation, key=lambda point: abs(1 / point.speed_up - 0.5)).knob


def right_forecasts(seen: StoredOutputs, policy: Forecast, beta: float) -> Outcome:
    """Compare the first forecast with where testing every exit would stop, for those who do not stop at the first."""
    (first,), stop = policy.step(policy.start(), seen.outputs[0])
    going = ~stop.numpy()
    furthest = len(policy.threshold) - 1  # no forecast names the last exit
    needed = np.minimum(replay(Forecast(policy.threshold, rounds=1), seen.outputs), furthest)[going]
    error = first.numpy()[going] - needed
    count = max(1, len(needed))
    always = float(np.bincount(needed, minlength=1).max() / count)
    right, one_more = (float((error == found).sum() / count) for found in (0, 1))
    told = ", ".join(f"{found:+d}: {(error == found).sum() / count:.1%}" for found in np.unique(error).tolist())
    return Outcome(
        name="forecasts are right",
        statement="At the beta whose cost on validation data is nearest to half of the plain network's, for most test "
        "images that go on behind the first exit the first forecast names the exit at which testing every exit stops, "
        "or the next one; and it names the right one for a share that is 5 points larger than if always the commonest "
        "were named.",
        holds=right >= always + 0.05 and right + one_more > 0.5,
        measured=f"{right:.1%} right, {always:.1%} by always naming one; exits forecast minus needed: {told}; "
        f"{len(needed)} images, at beta = {beta:g}",
    )


def layers_and_heads(seen: StoredOutputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the MACs of the layers up to each exit before the last, and of each of these exits' heads, ``[E - 1]``."""
    every, alone = seen.costs[:, 0], seen.static_costs[:, 0]
    heads = np.diff(every) - np.diff(alone)
    return alone[:-1] - heads, heads


def placement(seen: StoredOutputs, policy: Forecast, beta: float) -> Outcome:
    """Ask the placement test of the released code about each exit, tested alone."""
    up_to, heads = layers_and_heads(seen)
    layers = np.diff([0.0, *up_to, seen.static_costs[-1, 0]])
    kept = []
    for i, theta in enumerate(policy.threshold):
        going_on = float((seen.outputs[i].abs().amax(dim=-1) < theta).float().mean())
        if keeps_exit(going_on, layer=layers[i], following=layers[i + 1], head=heads[i]):
            kept.append(str(i + 1))
    return Outcome(
        name="placement",
        statement="The placement test (of the released code, where it is switched off; TH = 0.5) keeps some exit.",
        holds=bool(kept),
        measured=f"it keeps {'exits ' + ', '.join(kept) if kept else 'none'} of {len(heads)} at beta = {beta:g}",
        not_comparable="between layers that cost about alike, as here, the test keeps no exit, however many samples "
        "leave there; and the paper's abstract claims nothing of it",
    )


def energy(seen: StoredOutputs, ours: Course, rival: Course) -> Outcome:
    """Model the energy of both rules: who tests every exit never knows how much is still to do."""
    up_to, _ = layers_and_heads(seen)
    highest = max(frequency for frequency, _ in LEVELS)
    deadline = float(seen.static_costs[-1, 0]) / highest
    patterns, counts = np.unique(ours.visited.numpy(), axis=1, return_counts=True)
    total = late = 0.0
    for asked, count in zip(patterns.T, counts.tolist(), strict=True):
        ends = np.flatnonzero(asked)
        legs = seen.static_costs[ends, 0] - np.concatenate([[0.0], up_to[ends[:-1]]])
        used, seconds = modelled_energy(legs.tolist(), deadline)
        total, late = total + count * used, late + count * (seconds > deadline)
    share = total / float(seen.costs[rival.exits.numpy(), 0].sum())
    late /= len(ours.exits)
    return Outcome(
        name="modelled energy",
        statement="In the stated model, with as much time as the plain network takes at the highest level, forecasts "
        "take at most 80 % of the energy of testing every exit at the highest level.",
        holds=share <= 0.8,
        measured=f"modelled: {share:.1%} of the energy; {late:.1%} of the images end late",
        not_comparable="energy is computed from a model of a processor with assumed voltages; nothing was measured",
    )
