"""What latency-aware thresholds claim: the latency is kept, and spent better than by rules, in next to no time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import product
from statistics import mean

import numpy as np

from eelit.methods.claims.comparisons import MIXED, gains_of_mixtures, on_average, tried
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.tan2021latency import BOX, Floats, HeldOut, LatencyAware, below, hard, ippp, warm_start
from eelit.methods.policies.budgeted_thresholds import exit_shares, ratio_within, thresholds_for

TARGETS = tuple(target / 100 for target in range(22, 100, 2))
"""Latencies at which rules are compared, as shares of what reaching the last exit takes."""
GAIN = 0.002
"""How much more accuracy counts: half of what the paper gains on its image networks."""
LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the held-out images that leave at an exit, if asked there, among which grid search looks first."""
STEPS = (0.1, 0.05, 0.025)
"""Steps by which it then looks around the best of them, each time from the best before."""


def claims(method: LatencyAware, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """All rules are fitted to the same held-out images, for the same latencies."""
    held: HeldOut = prepared.fitted
    targets = [target for target in TARGETS if target > held.tau[0]]

    def points(found: Sequence[Floats]) -> Baseline:
        classes = prepared.data.classes or 1
        return tried(method, prepared, [below(tuple(t.tolist()), method.measure, classes) for t in found])

    start = time.process_time()
    solved = [solve(method, held, target) for target in targets]
    spent = (time.process_time() - start) / len(targets)
    ours = points(solved)
    warm = [warm_start(held, target, method.k, BOX[method.measure]) for target in targets]
    return [
        kept(prepared, curve),
        better(
            "the paper's heuristic", gains_of_mixtures(ours, points([heuristic(held, target) for target in targets]))
        ),
        better("MSDNet's own rule", gains_of_mixtures(ours, points([geometric(held, target) for target in targets]))),
        better("its warm start", gains_of_mixtures(ours, points(warm))),
        as_good_as_search(gains_of_mixtures(ours, points(grid_search(held, targets))), tries(len(held.tau) - 1)),
        quick(spent),
    ]


def solve(method: LatencyAware, held: HeldOut, target: float) -> Floats:
    """Return our thresholds, solved anew."""
    box = BOX[method.measure]
    return ippp(warm_start(held, target, method.k, box), held, target, method.solver, box)


# The rivals.


def heuristic(held: HeldOut, target: float) -> Floats:
    """Return MSDNet's rule as the paper has it: the smallest q = 0.01 … 1 whose shares ``(1 - q)^(b-1) q`` are cheap.

    A threshold is the uncertainty that all shares up to its exit reach, of all images, whoever has left before.
    """
    exits, images = held.u.shape
    for q in (percent / 100 for percent in range(1, 101)):
        shares = exit_shares(1 - q, exits)
        if shares @ held.tau <= target:
            break
    ranks = np.minimum(np.floor(images * np.cumsum(shares[:-1])).astype(int), images - 1)
    return np.sort(held.u, axis=1)[np.arange(exits - 1), ranks]


def geometric(held: HeldOut, target: float) -> Floats:
    """Return MSDNet's own rule: shares that cost just the target, of the images that have not left before."""
    found = thresholds_for(-held.u, exit_shares(ratio_within(target, held.tau), len(held.tau)))
    return np.array([math.nextafter(-each, math.inf) for each in found])  # who is just as sure leaves there


def grid_search(held: HeldOut, targets: Sequence[float]) -> list[Floats]:
    """Return for each target the most accurate thresholds within it that a grid finds which grows finer around them.

    A threshold is set by the share ``[B - 1]`` of images that leave at an exit. First all combinations of `LEVELS` are
    tried, then, for each of `STEPS`, all of one step less, as many and one step more at each exit.
    """
    ranked = np.sort(held.u[:-1], axis=1)
    coarse = np.array([*product(LEVELS, repeat=len(ranked))])
    seen = [hard(leaving(shares, ranked), held) for shares in coarse]
    return [finer(coarse[most_accurate(seen, target)], ranked, held, target) for target in targets]


def tries(early: int) -> int:
    """Return how many settings `grid_search` tries for a target, given the number of early exits."""
    return int(len(LEVELS) ** early + len(STEPS) * 3**early)


def finer(shares: Floats, ranked: Floats, held: HeldOut, target: float) -> Floats:
    """Return the thresholds ``[B - 1]`` that a search around shares finds, by ever smaller steps."""
    for step in STEPS:
        near = [np.clip(shares + moves, 0, 1) for moves in product((0, -step, step), repeat=len(shares))]
        shares = near[most_accurate([hard(leaving(each, ranked), held) for each in near], target)]
    return leaving(shares, ranked)


def leaving(shares: Floats, ranked: Floats) -> Floats:
    """Return thresholds below which such shares of the ranked doubts ``[B - 1, M]`` are; infinite for all of them."""
    ends = np.hstack([ranked, np.full((len(ranked), 1), math.inf)])
    places = (shares * ranked.shape[1] + 1e-9).astype(int)
    found: Floats = ends[np.arange(len(ranked)), places]
    return found


def most_accurate(seen: Sequence[tuple[float, float]], target: float) -> int:
    """Return the number of the most accurate setting within a mean time, given accuracy and time of each."""
    accuracies, times = np.array(seen).T
    return int(np.where(times <= target, accuracies, -1).argmax())


# The claims.


def kept(prepared: Prepared, curve: Curve) -> Outcome:
    """Thresholds were solved on held-out data; see what test data take."""
    last = float(prepared.split("test").costs[-1, 0])
    spent = [point.cost / (point.knob * last) for point in curve.test[1:-1]]
    return Outcome(
        name="the latency is kept",
        statement="On test data mean latency is at no target more than 5 % above it, and on average at least 95 % of "
        "it.",
        holds=max(spent) <= 1.05 and mean(spent) >= 0.95,
        measured=f"{min(spent):.1%} to {max(spent):.1%} of the target, {mean(spent):.1%} on average",
    )


def better(name: str, found: Sequence[float]) -> Outcome:
    """Compare with another rule for the same latencies, given the gains at equal cost."""
    return Outcome(
        name=f"better than {name}",
        statement="At equal mean latency, which is the cost, accuracy on test data is on average 0.2 points higher "
        f"than by {name} (the paper: 0.16 to 0.39 over its heuristic). Both have settings for the same targets, fitted "
        f"to the same held-out images. {MIXED}",
        holds=mean(found or [0.0]) >= GAIN,
        measured=on_average(found),
    )


def as_good_as_search(found: Sequence[float], settings: int) -> Outcome:
    """Compare with an exhaustive search."""
    return Outcome(
        name="as good as grid search",
        statement="At equal mean latency, which is the cost, accuracy on test data is on average at most 0.1 points "
        f"lower than by a search of {len(LEVELS)} thresholds at each exit, refined {len(STEPS)} times around the best "
        f"of them, each time by three thresholds at each exit and half of the step. {MIXED}",
        holds=mean(found or [-1.0]) >= -0.001,
        measured=f"{on_average(found)}; the search tries {settings} settings for each target",
    )


def quick(seconds: float) -> Outcome:
    """See how long the search for one latency takes."""
    return Outcome(
        name="in negligible time",
        statement="Thresholds for one latency are found within two seconds of one processor.",
        holds=seconds <= 2,
        measured=f"{seconds:.2g} seconds on average",
    )
