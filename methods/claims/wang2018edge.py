"""What adaptive control of local steps claims: nearly the best fixed number, whatever the data and the links.

The bars of 5 and 10 % were set once first numbers, at other rates of the links, had been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.papers.wang2018edge import FIXED, AdaptiveFederated, Prepared, Run
from eelit.methods.recipes.federated import Traffic

NEAR = 0.05
"""Share by which the loss may lie above that of the best fixed number."""
DEARER = 5.0
"""How much slower the links are with which it is tried whether control heeds them."""


def claims(method: AdaptiveFederated, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside all fixed numbers within the same budgets, and beside itself on other data and over slower links."""
    budgets = method.knobs[-3:]
    ours = [method.known(prepared, budget).loss for budget in budgets]
    fixed = [[method.known(prepared, budget, tau).loss for tau in FIXED] for budget in budgets]
    accuracy = [method.points(prepared, "test", budgets[-1:], tau)[0].quality for tau in FIXED]
    other = "by label" if method.placement == "uniform" else "uniform"
    return [
        near_the_best(ours[-1], fixed[-1], curve.test[-1].quality, accuracy),
        within_all(ours, fixed),
        better_than_always(method.known(prepared, budgets[-1]), method.known(prepared, budgets[-1], 1)),
        heeds_data(method, mean_tau(method, prepared, bench, {}), mean_tau(method, None, bench, {"placement": other})),
        heeds_links(
            mean_tau(method, prepared, bench, {}),
            mean_tau(
                method, None, bench, {"bandwidth": method.bandwidth / DEARER, "round_trip": method.round_trip * DEARER}
            ),
        ),
    ]


def mean_tau(
    method: AdaptiveFederated, prepared: Prepared | None, bench: Bench, changed: dict[str, str | float]
) -> float:
    """Return the local steps between two averagings, on average over the longest budget, with settings changed."""
    method = method.replace(changed)
    run = method.known(prepared or method.prepare(bench), method.knobs[-1])
    return mean(run.taus) if run.taus else math.nan


def near_the_best(ours: float, fixed: Sequence[float], right: float, accuracy: Sequence[float]) -> Outcome:
    """The regret against the fixed number that is best in hindsight, an oracle's choice."""
    best = min(range(len(FIXED)), key=lambda i: fixed[i])
    return Outcome(
        name="near the best fixed number of steps",
        statement="Within the longest budget the loss is at most 5 % above that of the fixed number of local steps "
        "that is best in hindsight, of the paper's eleven, and accuracy on test data is at most half a point below.",
        holds=ours <= (1 + NEAR) * fixed[best] and right >= accuracy[best] - 0.005,
        measured=f"loss {ours:.4f}; {fixed[best]:.4f} at tau = {FIXED[best]}, the best, {max(fixed):.4f} at the worst; "
        f"accuracy {right:.4f} and {accuracy[best]:.4f}",
    )


def within_all(ours: Sequence[float], fixed: Sequence[Sequence[float]]) -> Outcome:
    """The same regret within several budgets, each with its own best fixed number."""
    regrets = [loss / min(rivals) - 1 for loss, rivals in zip(ours, fixed, strict=True)]
    return Outcome(
        name="near the best within shorter budgets",
        statement="Within each of the three longest budgets the loss is at most 10 % above that of the fixed number of "
        "local steps which is best there.",
        holds=max(regrets) <= 2 * NEAR,
        measured=", ".join(f"{regret:+.1%}" for regret in regrets) + ", from the shortest to the longest",
    )


def better_than_always(ours: Run, always: Run) -> Outcome:
    """Against averaging after every step: synchronous distributed gradient descent."""
    return Outcome(
        name="better than averaging after every step",
        statement="Within the longest budget the loss is at least 5 % below that of one local step between averagings.",
        holds=ours.loss <= (1 - NEAR) * always.loss,
        measured=f"loss {ours.loss:.4f} and {always.loss:.4f}; {crossed(ours.traffic)}, and {crossed(always.traffic)}",
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
