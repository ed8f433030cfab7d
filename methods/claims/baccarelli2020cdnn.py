"""What CDNN-over-Fog claims: cheap ways to train, set thresholds and place exits, and little energy in the end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from eelit.methods.claims.comparisons import gains, swept
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Effort, Outcome
from eelit.methods.families.tiers import Prepared
from eelit.methods.papers.baccarelli2020cdnn import CdnnOverFog, known, placed, threshold

ASSUMED = "energy is computed by a power law with assumed watts at assumed rates; nothing was measured"
ALPHAS = (0.2, 0.1, 0.06, 0.04, 0.02)
"""Local errors for which thresholds are set."""
FEW = 50
"""Accepted samples below which an error says little."""


def claims(method: CdnnOverFog, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them on this training; what the trainings are worth is compared once, beside the first of them."""
    found = [kept_errors(prepared), nearly_best(method, bench), less_energy(curve, 1000 * method.idling)]
    if method.training == "end-to-end":
        found += [beside(method, other, curve, bench) for other in ("layer-wise", "classifier-wise")]
    return found


def kept_errors(prepared: Prepared) -> Outcome:
    """The share of errors among what each exit accepts of test data, against what was tolerated."""
    seen, over = known(prepared.split("test")), []
    for alpha in ALPHAS:
        betas = [threshold(c, right, alpha) for c, right in zip(*prepared.fitted, strict=True)]
        for beta, c, right in zip(betas, *seen, strict=True):
            accepted = c > beta
            if accepted.sum() >= FEW:
                over.append(float((~right[accepted]).mean()) - alpha)
    return held(over)


def held(over: Sequence[float]) -> Outcome:
    """Judge by how much errors exceed what was tolerated."""
    return Outcome(
        name="thresholds keep the local error",
        statement=f"Of test samples that an exit accepts at the threshold that it has set for itself, at least {FEW}, "
        "the share that is wrong exceeds alpha by at most two points, for five alphas from 2 to 20 % and every exit.",
        holds=bool(over) and max(over) <= 0.02,
        measured=f"{max(over):+.4f} at most, {mean(over):+.4f} on average, of {len(over)} exits and alphas"
        if over
        else "no exit accepts so many",
    )


def nearly_best(method: CdnnOverFog, bench: Bench) -> Outcome:
    """The greedy pass against all subsets of exits, on the samples that both see."""
    model, data = method.trained(bench)
    seen = Prepared(model, data, bench, method).for_choosing.split("fitting")
    confidence, right = known(seen)
    beta = [threshold(c, r, method.alpha) for c, r in zip(confidence, right, strict=True)]
    accepts = confidence > np.array(beta)[:, None]
    c, q = seen.stages.mean(axis=1).tolist(), seen.heads.mean(axis=1)[:-1].tolist()
    every = {kept: spent(accepts, c, q, kept) for kept in product((False, True), repeat=len(q))}
    return close(every[placed(accepts, c, q)], min(every.values()), len(every))


def spent(accepts: NDArray[np.bool_], c: Sequence[float], q: Sequence[float], kept: Sequence[bool]) -> float:
    """Return the multiply-accumulates of a sample on average if some of the early exits stay."""
    there, found = np.ones(accepts.shape[1], dtype=bool), 0.0
    for who, layer, head, stays in zip(accepts, c, q, kept, strict=False):
        found += float(there.sum()) * (layer + head * stays)
        if stays:
            there &= ~who
    return (found + float(there.sum()) * c[-1]) / len(there)


def close(greedy: float, best: float, subsets: int) -> Outcome:
    """Judge the greedy pass."""
    return Outcome(
        name="one pass places exits nearly as well as a search",
        statement="With the exits of the greedy pass a sample takes on average at most 2 % more multiply-accumulates "
        "than with the best of all subsets of exits, on the held-out samples by which both are chosen.",
        holds=greedy <= 1.02 * best,
        measured=f"{greedy / best - 1:+.2%}, of {subsets} subsets",
    )


def less_energy(curve: Curve, idle: float) -> Outcome:
    """The cheapest alpha that loses little, against the network without exits under the same limits.

    Of every figure ``idle`` millijoules are idle power, which no mapping changes, so what is left is told, too.
    """
    point = cheapest_within(curve.validation, curve.test, 0.01)
    loss = curve.full_quality - point.quality
    ends = [f"; {each.name}: {each.test[-1].cost:.3g} mJ" for each in curve.baselines if each.name.startswith("all on")]
    return Outcome(
        name="less energy than without exits",
        statement="At the cheapest alpha that loses at most one point on validation data, the modelled energy is at "
        "most two thirds of that of the network without exits, mapped as well as it can be under the same limits if "
        "each tier has a layer, and accuracy on test data is at most two points lower.",
        holds=point.cost <= curve.full_cost / 1.5 and loss <= 0.02,
        measured=f"{point.cost:.3g} instead of {curve.full_cost:.3g} mJ by the model, {point.cost - idle:.3g} instead "
        f"of {curve.full_cost - idle:.3g} without the {idle:.3g} mJ of idle power in each figure, accuracy "
        f"{-loss:+.4f}, at alpha = {point.knob:g}{''.join(ends)}",
        not_comparable=ASSUMED,
    )


def beside(method: CdnnOverFog, other: str, curve: Curve, bench: Bench) -> Outcome:
    """End-to-end training beside another one, each with its own thresholds, places and mapping; and what both took."""
    rival, others = method.replace({"training": other}), bench.trainings
    bench.trainings = {}  # so that those of the rival are there alone, perhaps from the cache
    ready = rival.prepare(bench)
    took = sum(bench.trainings.values(), Effort(seconds=0.0, steps=0))
    bench.trainings = others | bench.trainings
    ours = Baseline(name="end-to-end", validation=curve.validation, test=curve.test)
    found = gains(ours, swept(rival, ready, bench, rival.knobs))
    return better(other, found, efforts(curve.training, took, other))


def better(other: str, found: Sequence[float], took: str) -> Outcome:
    """Judge gains over another training.

    Settings are compared one by one: an alpha places exits and sets the rates of all nodes for whatever comes, so to
    treat some samples with another alpha takes a second deployment.
    """
    gain = mean(found or [0.0])
    return Outcome(
        name=f"better than {other} training",
        statement=f"On a network trained end to end, at no more than the modelled energy of each alpha after {other} "
        "training and with the alphas of either chosen on validation data, accuracy on test data is on average half a "
        "point higher. Two alphas are not mixed, as each is a deployment with exits and rates of its own.",
        holds=gain >= 0.005,
        measured=f"{gain:+.4f} on average over the energies of {len(found)} settings; {took}",
    )


def efforts(ours: Effort | None, theirs: Effort, other: str) -> str:
    """Return in words what the two trainings took."""
    told = [
        f"{name} took {effort.steps} steps and {effort.seconds:.1f} s of the processor"
        for name, effort in (("end-to-end", ours), (other, theirs))
        if effort
    ]
    return ", ".join(told)
