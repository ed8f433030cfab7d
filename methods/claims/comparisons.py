"""What several papers claim about an older one: its exit rule compared at equal cost, its training exit by exit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import mean, stdev
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.claims.paired import GAINS, KEEPS, Difference, of_samples, over_samples
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench, Method
from eelit.methods.engine.metrics import ndcg
from eelit.methods.engine.operating_points import cheapest_within, mixture
from eelit.methods.engine.records import Baseline, Curve, OperatingPoint, Outcome
from eelit.methods.engine.search import Judged
from eelit.methods.families import ranking, sentinels
from eelit.methods.families.designs import DesignMethod
from eelit.methods.families.designs import Prepared as Searchable
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.families.stepwise import StepwiseMethod, StepwisePrepared
from eelit.methods.families.text import TextMethod
from eelit.methods.papers.xin2020deebert import DeeBert
from eelit.methods.policies.base import Policy

WORTH = 0.01
"""Least NDCG@10 of the whole ensemble minus that of the films' damped mean rating: else little is to be lost."""
LEAD = 0.0025
"""How much more accurate, on average over all budgets, a search must be than a random one."""
DRAWS = 8
"""How many random searches a search is compared with."""

COSTS = 21
"""At how many costs two rules are compared."""
MIXED = (
    "Costs are spread evenly over the range that both reach. At each, either side takes the mixture of two of its "
    "settings that is best on validation data: some samples, drawn at random, are treated with the one, the rest with "
    "the other."
)
"""How settings are compared, for the statement of an outcome."""
SLACK = 0.01
"""How far the accuracy on test data may fall below what is allowed, if the rule was set to keep to it on held-out data.

It is the standard error of the difference of two accuracies on 1,000 held-out images, where one of the two models alone
is right on a tenth of them: sqrt(0.1 / 1000). The same bar is for all cascades.
"""

Rival = TypeVar("Rival", bound=TextMethod)


def on_the_task_of(method: TextMethod, rival: Rival) -> Rival:
    """Return the rival on the method's encoder and sentences, else as its own row has it: one training serves both."""
    return rival.replace({name: getattr(method, name) for name in ("encoder", "corpus", "train_size", "length")})


def trained_alike(method: TextMethod, rival: Rival) -> Rival:
    """Return the rival on the method's encoder and sentences, trained for as long, in such batches, at its rates."""
    options = {name: getattr(method, name) for name in ("epochs", "batch", "rate")}
    if isinstance(rival, DeeBert):
        return on_the_task_of(method, rival).replace(
            {**options, "ramp_epochs": method.epochs, "ramp_rate": method.head_rate}
        )
    return on_the_task_of(method, rival).replace({**options, "head_rate": method.head_rate})


def two_stage(method: TextMethod) -> DeeBert:
    """Return DeeBERT trained as `trained_alike` says: its off-ramps see as many steps as the exits of the method."""
    return trained_alike(method, DeeBert())


def steps(method: TextMethod, data: Data) -> int:
    """Return the steps that a method's training takes in all: batches are of one length, so there are some more."""
    return max(1, round(method.epochs * sum(1 for _ in data.train.batches(method.batch))))


def swept(method: Method, prepared: Any, bench: Bench, knobs: Sequence[float]) -> Baseline:
    """Return a method's settings measured on validation and test data."""
    held, test = (method.sweep(prepared, bench, split, knobs) for split in ("validation", "test"))
    return Baseline(name=method.key, validation=held, test=test)


def points_of(rival: ExitMethod, prepared: Prepared, bench: Bench) -> Baseline:
    """Return all settings of another method on its own network, but the ends, which stop everywhere or nowhere."""
    return swept(rival, prepared, bench, rival.knobs[1:-1])


def points_of_curve(curve: Curve) -> Baseline:
    """Return what was measured of the method itself."""
    return Baseline(name=curve.variant, validation=curve.validation, test=curve.test)


def gains_at_equal_cost(
    method: ExitMethod, prepared: Prepared, ours: Iterable[Policy], rivals: Iterable[Policy] | Baseline
) -> list[float]:
    """Return `gains_of_mixtures` of policies over others, on the same network or measured on one of their own."""
    theirs = rivals if isinstance(rivals, Baseline) else tried(method, prepared, rivals)
    return gains_of_mixtures(tried(method, prepared, ours), theirs)


def gains_of_mixtures(ours: Baseline, theirs: Baseline) -> list[float]:
    """Return by how much we are better than they at each of `COSTS` costs, spread evenly over what both can cost.

    This range goes from the larger of the two least costs to the smaller of the two greatest; nothing is returned if
    there is none. At each cost either side takes the mixture of two of its settings that is best within it (see
    `operating_points`). So neither loses by the gaps of a coarse knob, and where a knob is fine does not count more.
    Costs are compared, and mixtures chosen, on validation data; what is returned is seen on test data. Hence a rule
    gains nothing over itself, and what one side gains the other loses. Costs are taken as they are, in one unit: the
    two full models may differ.
    """
    ranges = [[point.cost for point in side.validation] for side in (ours, theirs)]
    if not all(ranges):
        return []
    least, most = max(map(min, ranges)), min(map(max, ranges))
    if least > most:
        return []
    sides = [(_in_shares(side.validation, most), [point.quality for point in side.test]) for side in (ours, theirs)]
    found = []
    for share in sorted({*np.linspace(least / most, 1.0, COSTS).tolist()}):
        a, b = (mixed.of(quality) for held, quality in sides if (mixed := mixture(held, share)))
        found.append(a - b)
    return found


def _in_shares(points: Sequence[OperatingPoint], cost: float) -> list[OperatingPoint]:
    """Return the points as if a full model of this cost stood behind them: `mixture` reads what is left of it."""
    return [point.model_copy(update={"speed_up": cost / point.cost}) for point in points]


def gains(ours: Baseline, theirs: Baseline) -> list[float]:
    """Return, for the cost of each of their settings, by how much our best setting within it beats their best.

    It is for settings of which no two can be mixed, as they are not chosen sample by sample; else see
    `gains_of_mixtures`. Costs are compared, and either side's best setting is chosen, on validation data: a rule gains
    nothing over itself. What is returned is seen on test data. Costs below all ours are left out.
    """
    pairs = ((chosen(ours, rival.cost), chosen(theirs, rival.cost)) for rival in theirs.validation)
    return [a.quality - b.quality for a, b in pairs if a and b]


def tried(method: StepwiseMethod, prepared: StepwisePrepared, policies: Iterable[Policy]) -> Baseline:
    """Return policies replayed on validation and test data."""
    every = list(policies)
    held, test = ([method.trial(policy, prepared.split(split)) for policy in every] for split in ("validation", "test"))
    return Baseline(name=method.key, validation=held, test=test)


def at_prices(
    method: ExitMethod, prices: Sequence[float], threshold: float, bench: Bench
) -> list[tuple[Policy, Prepared]]:
    """Return the rule at one threshold with a training for each of the prices, which the setting ``lam`` holds."""
    priced = [method.replace({"lam": lam}) for lam in prices]
    ready = [each.prepare(bench) for each in priced]
    return [(each.rule(threshold, own), own) for each, own in zip(priced, ready, strict=True)]


def on_their_own(method: ExitMethod, settings: Sequence[tuple[Policy, Prepared]], knobs: Sequence[float]) -> Baseline:
    """Return policies replayed on validation and test data, each on its own network."""
    held, test = (
        [method.trial(policy, ready.split(split), knob) for (policy, ready), knob in zip(settings, knobs, strict=True)]
        for split in ("validation", "test")
    )
    return Baseline(name=method.key, validation=held, test=test)


def governed(test: Sequence[OperatingPoint]) -> Outcome:
    """Compare what trainings of falling prices cost on test data."""
    chance = 0.01 * test[0].cost * test[0].speed_up
    return Outcome(
        name="the price governs the cost",
        statement="A lower lambda never leads to computation that is less by more than a hundredth of the network's "
        "(chance in training), and between the ends it falls by a tenth.",
        holds=all(a.cost <= b.cost + chance for a, b in pairwise(test)) and test[0].cost <= 0.9 * test[-1].cost,
        measured=", ".join(f"{1 / p.speed_up:.0%} at lambda {p.knob:g}" for p in test),
    )


def faster_with_the_text(curve: Curve, least: float) -> Outcome:
    """Return whether the cheapest setting that hardly changes what the full model writes is so many times faster."""
    point = cheapest_within(curve.validation, curve.test, 0.01, of=1.0)
    kept = over_samples(of_samples(point), 1.0)
    return Outcome(
        name="faster with nearly the same text",
        statement="The cheapest setting that loses at most 0.01 ROUGE-L on validation texts reads "
        f"{least:g} times fewer weights on test texts, half of the paper's best gain, and loses at most 0.02 there, "
        f"{KEEPS}.",
        holds=point.speed_up >= least and kept.keeps(0.02),
        measured=f"{point.speed_up:.2f}× fewer, ROUGE-L {point.quality:.3f} ({kept}), at {curve.knob} {point.knob:g}",
        not_comparable=nothing_to_keep(curve),
    )


BITS = 0.1
"""Bits per token by which a decoder must predict better than its cheap part, if its texts are to be worth keeping."""


def better_than_its_cheap_part(curve: Curve) -> Outcome:
    """Return whether the full model predicts the true texts better than its cheap part alone does."""
    assert curve.beside is not None
    beside, lead = curve.beside, Difference(curve.beside.lead, curve.beside.error, 3)
    each = ", ".join(f"{value:.3f} ({point.knob:g})" for value, point in zip(beside.values, curve.test, strict=True))
    return Outcome(
        name="the whole predicts better than the cheap part alone",
        statement=f"The true test texts take at least {BITS:g} bits per token fewer with the full model, {GAINS}; else "
        "there is nothing to keep.",
        holds=lead.gains(BITS),
        measured=f"{beside.full:.3f} bits per token, the cheap part {beside.cheap:.3f} (fewer by {lead}); by "
        f"{curve.knob}: {each}",
    )


def nothing_to_keep(curve: Curve) -> str:
    """Return why keeping the full model's text shows nothing, or nothing: it must be worth keeping."""
    if curve.beside is None or better_than_its_cheap_part(curve).holds:
        return ""
    return (
        f"The full model predicts true texts only {curve.beside.lead:+.3f} bits per token better than its cheap part."
    )


def chosen(points: Baseline, budget: float) -> OperatingPoint | None:
    """Return the test point of the setting that is best on validation data within a cost; None if none is."""
    held = [(point.quality, -point.cost, i) for i, point in enumerate(points.validation) if point.cost <= budget]
    return points.test[max(held)[2]] if held else None


def better_than(name: str, found: Sequence[float], where: str) -> Outcome:
    """Return the outcome that these `gains_of_mixtures` are worth speaking of: half a point on average."""
    return Outcome(
        name=f"better than {name}",
        statement=f"{where}, accuracy on test data is on average half a point higher at equal cost than with {name}. "
        f"{MIXED}",
        holds=mean(found or [0.0]) >= 0.005,
        measured=on_average(found),
    )


def on_average(found: Sequence[float]) -> str:
    """Say what `gains_of_mixtures` are on average."""
    if not found:
        return "no cost that both reach"
    return f"{mean(found):+.4f} on average over {len(found)} costs"


def without_ends(found: Baseline) -> Baseline:
    """Return a rule's settings but the first and the last, at which all rules are the same."""
    return found.model_copy(update={"validation": found.validation[1:-1], "test": found.test[1:-1]})


def gains_by_exit(method: ExitMethod, prepared: Prepared, rival: ExitMethod, bench: Bench) -> list[float]:
    """Return by how much the test quality of each exit exceeds the same exit's of another method, which is trained."""
    theirs = rival.static(rival.prepare(bench).split("test"))
    ours = method.static(prepared.split("test"))
    return [a.quality - b.quality for a, b in zip(ours, theirs, strict=True)]


def accuracies(method: ExitMethod, prepared: Prepared) -> list[float]:
    """Return the accuracy on test data of each exit, if all samples leave there."""
    return [point.quality for point in method.static(prepared.split("test"))]


def oracle(outputs: Tensor, targets: Tensor) -> NDArray[np.int64]:
    """Return the first exit ``[N]`` (from 0) that is right on logits ``[E, N, C]``; the last where none is."""
    right = outputs.argmax(dim=-1) == targets
    right[-1] = True
    return right.int().argmax(dim=0).numpy()


def disagreement(outputs: Tensor) -> float:
    """Share of samples on which neighbouring exits answer differently, mean over pairs, for logits ``[E, N, C]``."""
    said = outputs.argmax(dim=-1)
    return float((said[1:] != said[:-1]).double().mean())


def beside_random_search(method: DesignMethod, prepared: Searchable, best: Judged) -> Outcome:
    """Compare what a search found with what as many designs drawn at random are worth, on other images too.

    Given is the front of all designs, ``best``: where a random search nearly reaches it, none can be better by much.
    """
    ready = prepared.for_choosing
    ours, draws = ready.fitted, random_searches(method, ready)
    theirs, tested = [draw.hypervolume for draw in draws], mean(worth(method, prepared, draw) for draw in draws)
    found, held = ours.hypervolume - mean(theirs), worth(method, prepared, ours) - tested
    reason = no_room(best.hypervolume - mean(theirs), LEAD, "more accurate, on average over all budgets,")
    return Outcome(
        name="better than a random search",
        statement="With as many designs judged, the best design within a budget is, over all budgets up to the full "
        "model's cost, on average a quarter of a point more accurate than a random search's on the validation images "
        f"of the search, and no less accurate on test images. Of random searches there are {DRAWS}, and their mean is "
        "taken.",
        holds=not reason and found >= LEAD and held >= 0,
        measured=f"{found:+.4f} on the images of the search (standard deviation of the random searches "
        f"{stdev(theirs):.4f}), {held:+.4f} on test images; {len(ours.designs)} designs judged by each; the best of "
        f"all {method.different(prepared.model.exits):,.0f} designs {best.hypervolume - mean(theirs):+.4f}",
        not_comparable=reason,
    )


def random_searches(method: DesignMethod, ready: Searchable) -> list[Judged]:
    """Return `DRAWS` random searches of a method, none of which draws what its own search begins with."""
    first = ready.bench.seed * DRAWS + 1
    benches = [replace(ready.bench, seed=seed) for seed in range(first, first + DRAWS)]
    return [method.rival(replace(ready, bench=bench)) for bench in benches]


def no_room(room: float, least: float, what: str) -> str:
    """Return why no search can be better than a random one by the least amount asked for, or nothing."""
    if room >= least:
        return ""
    return f"Of all designs the best is only {room:.4f} {what} than a random search: no search can gain {least:g}."


def worth(method: DesignMethod, prepared: Searchable, found: Judged) -> float:
    """Return the mean accuracy on test images of the designs on a front, each over the budgets for which it is taken.

    These are, as in the hypervolume, those from its own cost to the next one's on the images of the search.
    """
    front = [i for i in found.front if found.scores[i, 1] < 1]
    shares = [*found.scores[front, 1].tolist(), 1.0]
    errors = method.judged(found.designs[front], prepared, "test")[:, 0].tolist()
    return math.fsum((1 - error) * (b - a) for error, (a, b) in zip(errors, pairwise(shares), strict=True))


def keeps_budget(prepared: Prepared, curve: Curve) -> Outcome:
    """Thresholds were solved on held-out data; see what test data cost."""
    dearest = float(prepared.split("test").costs[-1, 0])
    off = [p.cost / (p.knob * dearest) - 1 for p in curve.test if p.knob * dearest > curve.test[0].cost]
    return Outcome(
        name="the budget is kept",
        statement="On test data the mean cost exceeds no budget by more than 5 %.",
        holds=max(off) <= 0.05,
        measured=f"{min(off):+.1%} to {max(off):+.1%} of the budget",
    )


def why_not_comparable(prepared: ranking.Prepared | sentinels.Prepared, curve: Curve) -> str:
    """Return why nothing can be said of saving trees, or nothing: the whole ensemble must be worth saving on."""
    queries = prepared.split("test").queries
    gain = curve.full_quality - ndcg(queries.plain, queries.grades, queries.sizes)
    return (
        ""
        if gain > WORTH
        else f"The whole ensemble ranks only {gain:+.4f} NDCG@10 better than a film's damped mean rating does."
    )
