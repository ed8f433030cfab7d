"""What SEE claims: plans that never swap frames are optimal, and worth half as much again as simpler ones.

SEE learns nothing while it serves: times and mean accuracies of exits are known beforehand. What is drawn over time is
what it pays for not knowing which exits answer which frame rightly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product
from math import exp
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.records import Curve, Learning, Lost, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.wang2019see import (
    DROPPED,
    Gain,
    Known,
    Planned,
    Rule,
    See,
    always,
    greedy,
    schedule,
    utility,
    whole,
)

INSTANCES, FRAMES = 30, 4
"""Small problems that are solved by trying everything, and the frames of each."""
INTERVALS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Mean intervals between frames for which the plan is set beside the benchmarks, from p_1 (0) to p_E (1)."""
SHOWN = 50
"""Moments at which a picture shows what was lost until then."""


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
        best = one_exit(way, prepared)
        found.append(planned(way, prepared, "test") - way.benchmark(prepared, "test", best).quality)
    return found


def one_exit(method: See, prepared: Prepared) -> Rule:
    """Return the rule by which all frames that can be in time take one exit, the best on validation frames."""
    rules = [always(e) for e in range(len(prepared.fitted.times))]
    held = [method.benchmark(prepared, "validation", rule).quality for rule in rules]
    return rules[held.index(max(held))]


def drawn(seed: int) -> Rule:
    """Return the rule by which each frame in turn takes an exit by chance, of those with which it is in time."""

    def rule(came: Sequence[int], times: Sequence[int], deadline: int) -> list[int]:
        random, free, found = np.random.default_rng([seed, 10]), 0, list[int]()
        for a in came:
            start = max(a, free)
            fit = [e for e, p in enumerate(times) if start + p - a <= deadline]
            found.append(int(random.choice(fit)) if fit else DROPPED)
            free = start + times[found[-1]] if fit else free
        return found

    return rule


def hindsight(came: Sequence[int], needed: Sequence[float], deadline: int) -> NDArray[np.bool_]:
    """Return which frames ``[N]`` the best of all plans answers rightly in time, if it is known what each needs.

    That is the time up to the first exit that is right; infinite if none is. Frames that are in time are so in their
    order, too, as those that came first are due first. So the earliest time suffices at which so many are answered.
    """
    free, taken = np.zeros(1), list[NDArray[np.bool_]]()  # by the number of frames answered
    for a, p in zip(came, needed, strict=True):
        done = np.maximum(free, a) + p
        left, joined = np.append(free, np.inf), np.append(np.inf, np.where(done <= a + deadline, done, np.inf))
        taken.append(joined < left)
        free = np.minimum(left, joined)
    number, answered = int(np.isfinite(free).sum()) - 1, np.zeros(len(taken), dtype=np.bool_)
    for frame in range(len(taken) - 1, -1, -1):
        answered[frame] = taken[frame][number]
        number -= int(answered[frame])
    return answered


def right_in_time(method: See, prepared: Prepared, scheduler: Planned) -> NDArray[np.bool_]:
    """Return which test frames ``[N]`` are answered rightly in time."""
    seen, served = prepared.split("test"), method.served(prepared, "test", scheduler)
    answers = seen.at(np.array([max(each.exit, 0) for each in served])).argmax(dim=-1)
    right: NDArray[np.bool_] = (answers == seen.targets).numpy()
    return right & method.counted(prepared, served)


def learning(method: See, prepared: Prepared, bench: Bench, curve: Curve) -> list[Learning]:
    """Return what the plan has lost as frames come, beside the benchmarks, one exit for all, and chance (w = 0)."""
    seen, times = prepared.split("test"), prepared.fitted.times
    frames = len(seen.examples)
    came, deadline = method.arrivals(times, frames)
    right = (seen.answers.argmax(dim=-1) == seen.targets).numpy()  # [E, N]
    needed = np.where(right, np.array(times)[:, None], np.inf).min(axis=0)
    best = hindsight(came, needed.tolist(), deadline)
    rules = {
        "full network or dropped": whole,
        "greedy": greedy,
        "one exit for all, the best on validation frames": one_exit(method, prepared),
        "exits by chance": drawn(bench.seed),
    }
    plans = {"SEE": method.scheduler(prepared, 0.0, frames)}
    plans |= {name: method.by(prepared, rule, frames) for name, rule in rules.items()}
    ends = np.arange(SHOWN + 1) * frames // SHOWN

    def lost(plan: Planned) -> list[float]:
        fewer = best.astype(float) - right_in_time(method, prepared, plan)
        found: list[float] = np.concatenate([[0.0], np.cumsum(fewer)])[ends].tolist()
        return found

    return [
        Learning(
            title="Right answers in time fewer than in the best plan in hindsight, which knows what each exit says of "
            f"each frame, at interval {method.interval:g}; SEE knows mean accuracies, and learns nothing",
            time="frames",
            unit="right answers in time, in all",
            lines=[
                Lost(rule=name, times=ends.astype(float).tolist(), values=lost(plan)) for name, plan in plans.items()
            ],
        )
    ]


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
