"""What SEE claims: plans that never swap frames are optimal, and worth half as much again as simpler ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product
from math import exp
from statistics import mean

import numpy as np

from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.wang2019see import DROPPED, Gain, Known, See, always, greedy, schedule, utility, whole

INSTANCES, FRAMES = 30, 4
"""Small problems that are solved by trying everything, and the frames of each."""
INTERVALS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Mean intervals between frames for which the plan is set beside the benchmarks, from p_1 (0) to p_E (1)."""


def claims(method: See, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try both at several intervals, with utilities that know the deadline alone (w = 0)."""
    return [
        optimal(prepared.fitted, prepared.bench.seed),
        *better(gains(method, prepared, "validation"), gains(method, prepared, "test")),
        better_than_one_exit(over_one_exit(method, prepared)),
    ]


def gains(method: See, prepared: Prepared, split: Split) -> list[float]:
    """Return how many more frames are answered rightly in time than by the better benchmark, at each interval."""
    found = []
    for interval in INTERVALS:
        way = method.replace({"interval": interval})
        theirs = max(way.benchmark(prepared, split, rule).quality for rule in (whole, greedy))
        found.append(planned(way, prepared, split) / max(theirs, 1e-3) - 1)
    return found


def planned(method: See, prepared: Prepared, split: Split) -> float:
    """Return the share of frames that the plan answers rightly in time."""
    frames = len(prepared.split(split).examples)
    served = method.served(prepared, split, method.scheduler(prepared, 0.0, frames))
    return method.point(prepared, split, served, 0.0).quality


def over_one_exit(method: See, prepared: Prepared) -> list[float]:
    """Return by how much the plan is more accurate in time than the best single exit, at each interval.

    All frames that can be in time take that exit; it is the best on validation frames.
    """
    found = []
    for interval in INTERVALS:
        way = method.replace({"interval": interval})
        rules = [always(e) for e in range(len(prepared.fitted.times))]
        held = [way.benchmark(prepared, "validation", rule).quality for rule in rules]
        best = rules[held.index(max(held))]
        found.append(planned(way, prepared, "test") - way.benchmark(prepared, "test", best).quality)
    return found


def better(held: Sequence[float], test: Sequence[float]) -> list[Outcome]:
    """Compare with the better of the two benchmarks."""
    best = max(range(len(held)), key=lambda i: held[i])
    told = ", ".join(f"{gain:+.1%} at {interval:g}" for gain, interval in zip(test, INTERVALS, strict=True))
    return [
        Outcome(
            name="half as much again",
            statement="At the interval at which the gain is largest on validation data, at least 50.9 % more test "
            "frames are answered rightly in simulated time than by the better of two benchmarks.",
            holds=test[best] >= 0.509,
            measured=f"{test[best]:+.1%} at interval {INTERVALS[best]:g}; {told}",
        ),
        Outcome(
            name="more right answers in time",
            statement="On average over the intervals at which frames come faster than the whole network runs, at least "
            "10 % more test frames are answered rightly in simulated time than by the better of two benchmarks, and at "
            "none 2 % fewer.",
            holds=mean(test) >= 0.1 and min(test) >= -0.02,
            measured=f"{mean(test):+.1%}; {told}",
        ),
    ]


def better_than_one_exit(gains: Sequence[float]) -> Outcome:
    """Compare with a rule that is no search either, but is set for the load."""
    told = ", ".join(f"{gain:+.4f} at {interval:g}" for gain, interval in zip(gains, INTERVALS, strict=True))
    return Outcome(
        name="better than one exit for all",
        statement="On average over the same intervals, accuracy in simulated time on test frames is at least a point "
        "higher than where all frames that can be in time take one exit, the best on validation frames, and at none "
        "more than a point lower.",
        holds=mean(gains) >= 0.01 and min(gains) >= -0.01,
        measured=f"{mean(gains):+.4f} on average; {told}",
    )


def optimal(known: Known, seed: int) -> Outcome:
    """Solve small problems by trying every order and every exit."""
    few = sorted({0, len(known.times) // 2, len(known.times) - 1})
    times, accuracy = [known.times[e] for e in few], [known.accuracy[e] for e in few]
    random, equal, swapped = np.random.default_rng([seed, 9]), 0, 0
    for _ in range(INSTANCES):
        came = np.sort(random.integers(0, 2 * times[-1], FRAMES)).tolist()
        deadline = int(random.integers(times[0], 3 * times[-1]))
        gain = utility(accuracy, deadline, 0.2 * float(random.random()))
        equal += abs(schedule(came, times, gain)[1] - exhaustive(came, times, gain)[0]) < 1e-9
        best, in_order = exhaustive(came, times, fading(accuracy, times[0]))
        swapped += in_order < best - 1e-9
    return Outcome(
        name="optimal on small problems",
        statement=f"In all of {INSTANCES} random problems of {FRAMES} frames and three exits the plan is worth as much "
        "as the best of all plans in any order of frames, for accuracy less a price that grows linearly with delay, up "
        "to a deadline. (For other utilities it need not be: how often is told for one that fades exponentially.)",
        holds=equal == INSTANCES,
        measured=f"{equal} of {INSTANCES}; with accuracy times exp(-delay / p_1), a plan that swaps frames is worth "
        f"more than all that do not in {swapped}",
    )


def fading(accuracy: Sequence[float], unit: int) -> Gain:
    """Return a utility that falls with delay, and fastest at first: no price that is convex."""
    return lambda e, delay: accuracy[e] * exp(-delay / unit)


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
