"""What SplitEE claims: half of the cost saved at little loss, by a bandit whose regret per round falls.

The same samples are streamed in several orders, the bandit starting anew each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.split import Prepared, Seen, Stored
from eelit.methods.papers.bajpai2023splitee import Side, SplitEe, SplitRule

SIDES: tuple[Side, ...] = ("none", "observed", "released")
ORDERS = 10
"""Orders of the stream; the paper: 20."""
OFFLOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Costs o of sending a sample at which saving is tried; the released scripts: these and those half way between."""


def claims(method: SplitEe, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The abstract's claim over the paper's offloading costs, and what its regret plots show."""
    stream = prepared.streams["test"]
    learning = [p for p in curve.validation if 0 < p.knob <= 1] or curve.validation
    good = [p for p in learning if p.quality >= prepared.streams["validation"].full_quality - 0.02]
    alpha = min(good or learning, key=lambda p: p.cost).knob
    rule = method.rule(alpha, prepared.model.exits)
    tried = {o: trials(stream, replace(rule, o=o), ORDERS) for o in OFFLOADS}
    saved = {o: 1 - t.cost / curve.full_cost for o, t in tried.items()}
    lost = {o: curve.full_quality - t.quality for o, t in tried.items()}
    told = [f"o {o:g}: {saved[o]:.0%}, {-lost[o]:+.4f}, {t.offloaded:.0%} offloaded" for o, t in tried.items()]
    cheap = Outcome(
        name="half the cost",
        statement="At every o from 0.1 to 0.6 in steps of 0.1 (the released scripts: of 0.05), over half of the cost "
        "of running all layers is saved and less than two points of accuracy are lost. The alpha is the one that is "
        f"cheapest on validation data of the source at o = {method.o:g} and loses no more there.",
        holds=all(saved[o] > 0.5 and lost[o] < 0.02 for o in tried),
        measured=f"saved, accuracy at alpha {alpha:g}: " + "; ".join(told),
    )
    runs = {side: trials(stream, replace(rule, side=side), ORDERS) for side in SIDES}
    return [cheap, regret_falls(runs[method.side]), *([] if method.side == "none" else [side_helps(runs)])]


@dataclass(frozen=True)
class Trials:
    """The same samples streamed in several orders, the bandit starting anew each time; ``R`` runs of ``N`` samples."""

    quality: float  # mean over the runs
    cost: float  # mean per sample, in lambda
    offloaded: float  # share of samples
    regret: NDArray[np.float64]  # [N], cumulative, mean over the runs
    settled: float  # share of the runs in whose second half the best fixed arm was cut most often


def trials(stream: Seen, rule: SplitRule, repeats: int) -> Trials:
    """Stream in ``repeats`` orders."""
    n, last = len(stream.examples), len(stream.outputs) - 1
    best = rule.layers[int(np.nanargmax(mean_rewards(rule, stream.confidences)))]
    quality, costs, offloaded, regrets, settled = [], [], [], [], []
    for seed in range(repeats):
        order = stream.shuffled(seed)
        told = rule.drive(Stored(order.confidences), n)
        quality.append(order.quality(told.exits(last)))
        costs.append(rule.costs(told.cuts, told.offloaded).mean())
        offloaded.append(told.offloaded.mean())
        regrets.append(regret(rule, order.confidences, told.cuts))
        settled.append(np.bincount(told.cuts[n // 2 :]).argmax() == best)
    return Trials(
        quality=float(np.mean(quality)),
        cost=float(np.mean(costs)),
        offloaded=float(np.mean(offloaded)),
        regret=np.mean(regrets, axis=0),
        settled=float(np.mean(settled)),
    )


def hindsight(rule: SplitRule, confidences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rewards ``[A, N]`` that every arm would have earned on every sample: for judging, not for learning."""
    L, n = confidences.shape
    rewards = [[rule.r(i + 1, confidences[i, t], confidences[-1, t], L) for t in range(n)] for i in rule.layers]
    return np.array(rewards, dtype=np.float64)


def regret(rule: SplitRule, confidences: NDArray[np.float64], cuts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cumulative regret ``[N]``: the best fixed arm's mean reward less that of the arms chosen, summed over rounds.

    A reward that cannot be told is left out of its arm's mean, as the bandit leaves it out of Q. Where an arm is chosen
    of which no reward can be told, the regret is NaN from there on.
    """
    means = mean_rewards(rule, confidences)
    return np.cumsum(np.fmax.reduce(means) - means[np.searchsorted(rule.layers, cuts)])


def mean_rewards(rule: SplitRule, confidences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean ``[A]`` of the `hindsight` rewards of every arm that can be told; NaN if none can."""
    rewards = hindsight(rule, confidences)
    known = np.isfinite(rewards)
    count = known.sum(axis=1)
    return np.where(count, np.where(known, rewards, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def regret_falls(own: Trials) -> Outcome:
    """Whether the bandit learns."""
    quarter, whole = len(own.regret) // 4, len(own.regret)
    early, late = own.regret[quarter - 1] / quarter, own.regret[-1] / whole
    return Outcome(
        name="regret per round falls",
        statement="Cumulative regret per round is after the whole stream at most three quarters of what it is after a "
        "quarter of it, where it would stay the same if nothing were learned.",
        holds=bool(late <= 0.75 * early and early > 0),
        measured=f"{early:.4f} after {quarter}, {late:.4f} after {whole} rounds; the best fixed arm was the favourite "
        f"of the second half in {own.settled:.0%} of the orders",
    )


def side_helps(runs: Mapping[Side, Trials]) -> Outcome:
    """Whether watching the exits on the way is worth it."""
    end = {side: run.regret[-1] for side, run in runs.items()}
    return Outcome(
        name="side observations help",
        statement="SplitEE-S has a tenth less cumulative regret than SplitEE.",
        holds=bool(end["observed"] <= 0.9 * end["none"] and end["none"] > 0),
        measured=f"{end['observed']:.1f} against {end['none']:.1f}; {end['released']:.1f} with the outcomes that the "
        "released code uses but a device cannot know",
    )
