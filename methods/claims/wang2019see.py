"""What SEE claims: plans that never swap frames are optimal, and worth half as much again as simpler ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product
from statistics import mean

import numpy as np

from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.wang2019see import DROPPED, Gain, Known, See, greedy, schedule, utility, whole

INSTANCES, FRAMES = 30, 4
"""Small problems that are solved by trying everything, and the frames of each."""


def claims(method: See, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try both at the intervals between the ends."""
    held, test = (
        [method.benchmark(prepared, split, rule) for rule in (whole, greedy)] for split in ("validation", "test")
    )
    return [
        optimal(prepared.fitted, prepared.bench.seed),
        *better(gains(curve.validation, held), gains(curve.test, test), [point.knob for point in curve.test]),
    ]


def gains(ours: Sequence[OperatingPoint], theirs: Sequence[Sequence[OperatingPoint]]) -> list[float]:
    """Return how many more frames are answered rightly in time than by the better benchmark, at each interval."""
    return [
        point.quality / max(*(other.quality for other in others), 1e-3) - 1
        for point, *others in zip(ours, *theirs, strict=True)
    ]


def better(held: Sequence[float], test: Sequence[float], knobs: Sequence[float]) -> list[Outcome]:
    """Compare with the better of the two benchmarks, the ends of the knob left out."""
    inner = [i for i, knob in enumerate(knobs) if 0 < knob < 1]
    best = max(inner, key=lambda i: held[i])
    told = ", ".join(f"{test[i]:+.1%} at {knobs[i]:g}" for i in inner)
    return [
        Outcome(
            name="half as much again",
            statement="At the interval at which the gain is largest on validation data, at least 50.9 % more test "
            "frames are answered rightly in simulated time than by the better of two benchmarks.",
            holds=test[best] >= 0.509,
            measured=f"{test[best]:+.1%} at interval {knobs[best]:g}; {told}",
        ),
        Outcome(
            name="more right answers in time",
            statement="On average over the intervals at which frames come faster than the whole network runs, at least "
            "10 % more test frames are answered rightly in simulated time than by the better of two benchmarks, and at "
            "none 2 % fewer.",
            holds=mean(test[i] for i in inner) >= 0.1 and min(test[i] for i in inner) >= -0.02,
            measured=f"{mean(test[i] for i in inner):+.1%}; {told}",
        ),
    ]


def optimal(known: Known, seed: int) -> Outcome:
    """Solve small problems by trying every order and every exit."""
    few = sorted({0, len(known.times) // 2, len(known.times) - 1})
    times, accuracy = [known.times[e] for e in few], [known.accuracy[e] for e in few]
    random, equal, swapped = np.random.default_rng([seed, 9]), 0, 0
    for _ in range(INSTANCES):
        came = np.sort(random.integers(0, 2 * times[-1], FRAMES)).tolist()
        deadline = int(random.integers(times[0], 3 * times[-1]))
        gain = utility(accuracy, deadline, 0.2 * float(random.random()))
        best, in_order = exhaustive(came, times, gain)
        planned = schedule(came, times, gain)[1]
        equal += abs(planned - best) < 1e-9
        swapped += in_order < best - 1e-9
    return Outcome(
        name="optimal on small problems",
        statement=f"In all of {INSTANCES} random problems of {FRAMES} frames and three exits the plan is worth as much "
        "as the best of all plans in any order of frames.",
        holds=equal == INSTANCES,
        measured=f"{equal} of {INSTANCES}; in {swapped} a plan that swaps frames is better than all that do not",
    )


def exhaustive(came: Sequence[int], times: Sequence[int], gain: Gain) -> tuple[float, float]:
    """Return what the best plan is worth, and the best of those in order: all orders, all exits, all frames dropped."""
    best = in_order = 0.0
    for exits in product(range(DROPPED, len(times)), repeat=len(came)):
        taken = [k for k, e in enumerate(exits) if e != DROPPED]
        for order in permutations(taken):
            value = sum(worth(came, times, gain, exits, order))
            best = max(best, value)
            if list(order) == taken:
                in_order = max(in_order, value)
    return best, in_order


def worth(
    came: Sequence[int], times: Sequence[int], gain: Gain, exits: Sequence[int], order: Sequence[int]
) -> Iterator[float]:
    """Yield what each frame is worth that is served in this order, as soon as possible."""
    free = 0
    for k in order:
        free = max(free, came[k]) + times[exits[k]]
        yield gain(exits[k], free - came[k])
