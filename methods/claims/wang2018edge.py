"""What adaptive control of local steps claims: nearly the best fixed number, whatever the data and the links.

Losses are compared in several federations, each with its own seed: which node has which images, and how rates wander.
The bars of 5 and 10 % were set once first numbers, at other rates of the links, had been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import NamedTuple

from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.papers.wang2018edge import FIXED, AdaptiveFederated, Prepared, Run
from eelit.methods.recipes.federated import Traffic

NEAR = 0.05
"""Share by which the loss may lie above that of the best fixed number."""
SLOWER = 5.0
"""How much slower the links are with which it is tried whether control heeds them."""
SEEDS = (0, 101, 202)
"""What is added to the seed of the run: one for each federation, the first is that of the curve."""


class Tried(NamedTuple):
    """One federation, within each of three budgets, the longest last."""

    ours: Sequence[float]  # losses
    fixed: Sequence[Sequence[float]]  # losses with each fixed number of steps
    right: float  # accuracy within the longest
    accuracy: Sequence[float]  # the same with each fixed number

    @property
    def best(self) -> int:
        """Which fixed number has the least loss within the longest budget."""
        return min(range(len(FIXED)), key=lambda i: self.fixed[-1][i])

    @property
    def regrets(self) -> list[float]:
        """By what share the loss lies above that of the best fixed number, within each budget."""
        return [loss / min(rivals) - 1 for loss, rivals in zip(self.ours, self.fixed, strict=True)]


def claims(method: AdaptiveFederated, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside all fixed numbers within the same budgets, and beside itself on other data and over slower links."""
    others = [method.prepare(replace(bench, seed=bench.seed + seed)) for seed in SEEDS[1:]]
    found, budget = [tried(method, each) for each in (prepared, *others)], method.knobs[-1]
    other = "by label" if method.placement == "uniform" else "uniform"
    return [
        near_the_best(found),
        within_all(found),
        better_than_always(found, method.known(prepared, budget), method.known(prepared, budget, 1)),
        heeds_data(method, mean_tau(method, prepared, bench, {}), mean_tau(method, None, bench, {"placement": other})),
        heeds_links(
            mean_tau(method, prepared, bench, {}),
            mean_tau(
                method, None, bench, {"bandwidth": method.bandwidth / SLOWER, "round_trip": method.round_trip * SLOWER}
            ),
        ),
    ]


def tried(method: AdaptiveFederated, prepared: Prepared) -> Tried:
    """Train under control and with each fixed number, within each budget."""
    budgets = method.knobs[-3:]
    ours = [method.known(prepared, budget).loss for budget in budgets]
    fixed = [[method.known(prepared, budget, tau).loss for tau in FIXED] for budget in budgets]
    right, *accuracy = (method.points(prepared, "test", budgets[-1:], tau)[0].quality for tau in (None, *FIXED))
    return Tried(ours, fixed, right, accuracy)


def mean_tau(
    method: AdaptiveFederated, prepared: Prepared | None, bench: Bench, changed: dict[str, str | float]
) -> float:
    """Return the local steps between two averagings, on average over the longest budget, with settings changed."""
    method = method.replace(changed)
    run = method.known(prepared or method.prepare(bench), method.knobs[-1])
    return mean(run.taus) if run.taus else math.nan


def near_the_best(found: Sequence[Tried]) -> Outcome:
    """The regret against the fixed number that is best in hindsight, an oracle's choice."""
    regrets = [each.regrets[-1] for each in found]
    losses = [each.accuracy[each.best] - each.right for each in found]
    worst = [max(each.fixed[-1]) / min(each.fixed[-1]) - 1 for each in found]
    return Outcome(
        name="near the best fixed number of steps",
        statement="Within the longest budget the loss is on average over three federations at most 5 % above that of "
        "the fixed number of local steps that is best in hindsight, of the paper's eleven, and accuracy on test data "
        "is on average at most half a point below.",
        holds=mean(regrets) <= NEAR and mean(losses) <= 0.005,
        measured=f"loss {shares(regrets)} beside tau = {', '.join(str(FIXED[each.best]) for each in found)}, the best; "
        f"the worst {shares(worst)}; accuracy {-mean(losses):+.4f} on average",
    )


def shares(values: Sequence[float]) -> str:
    """Return shares in words, one for each federation."""
    return ", ".join(f"{value:+.1%}" for value in values)


def within_all(found: Sequence[Tried]) -> Outcome:
    """The same regret within several budgets, each with its own best fixed number."""
    regrets = [mean(each) for each in zip(*(one.regrets for one in found), strict=True)]
    return Outcome(
        name="near the best within shorter budgets",
        statement="Within each of the three longest budgets the loss is on average over three federations at most 10 % "
        "above that of the fixed number of local steps which is best there.",
        holds=max(regrets) <= 2 * NEAR,
        measured=f"{shares(regrets)}, from the shortest to the longest",
    )


def better_than_always(found: Sequence[Tried], ours: Run, always: Run) -> Outcome:
    """Against averaging after every step, synchronous distributed gradient descent; bytes are those of the first."""
    gains = [1 - each.ours[-1] / each.fixed[-1][FIXED.index(1)] for each in found]
    return Outcome(
        name="better than averaging after every step",
        statement="Within the longest budget the loss is on average over three federations at least 5 % below that of "
        "one local step between averagings.",
        holds=mean(gains) >= NEAR,
        measured=f"{', '.join(f'{gain:.1%}' for gain in gains)} below; {crossed(ours.traffic)}, and "
        f"{crossed(always.traffic)}",
    )


def crossed(traffic: Traffic) -> str:
    """Return in words the bytes of a whole training."""
    return f"{sum(traffic.down) / 1000:.1f} kB to the nodes and {sum(traffic.up) / 1000:.1f} kB back"


def heeds_data(method: AdaptiveFederated, here: float, there: float) -> Outcome:
    """Local steps on data placed at random, and on skewed data."""
    alike, skewed = (here, there) if method.placement == "uniform" else (there, here)
    return Outcome(
        name="fewer steps where data differ",
        statement="Over the longest budget there are at least 1.5 times as many local steps between averagings where "
        "images are placed at random as where they are skewed.",
        holds=alike >= 1.5 * skewed,
        measured=f"{alike:.1f} on average at random, {skewed:.1f} skewed",
    )


def heeds_links(here: float, slow: float) -> Outcome:
    """Local steps over links as they are, and over slower ones."""
    return Outcome(
        name="more steps over slower links",
        statement="With links a fifth as fast there are at least 1.25 times as many local steps between averagings.",
        holds=slow >= 1.25 * here,
        measured=f"{slow:.1f} on average over slow links, {here:.1f} over those of the curve",
    )
