"""What class-specific exits claim: target classes recognised much sooner, and nothing lost over all classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from statistics import mean, stdev

import numpy as np
from torch import nn

from eelit.methods.backbones.internal_classifier import InternalClassifier, Shape
from eelit.methods.claims.comparisons import no_room, random_searches
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.search import Designs, Judged, firsts
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families.designs import Prepared
from eelit.methods.papers.bonato2021classspecific import ClassSpecific
from eelit.methods.policies.max_confidence import MaxConfidence

TIME = 0.01
"""By which share of the full cost T of two searches must differ to count."""


@dataclass(frozen=True)
class AllClasses(ClassSpecific):
    """Exits that answer for all classes on the same frozen network; else trained, set and chosen as ours."""

    @property
    def each(self) -> int:
        """An exit has one threshold."""
        return 1

    @property
    def never(self) -> tuple[float, ...]:
        """A threshold that nothing is above."""
        return (1.0,)

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """An internal classifier."""
        return InternalClassifier(shape, classes)

    def stop(self, thresholds: Sequence[tuple[float, ...]]) -> MaxConfidence:
        """The largest probability must exceed the exit's threshold."""
        above = tuple(math.nextafter(theta, math.inf) for (theta,) in thresholds)
        return MaxConfidence(above or 1.1)

    def rows(self, prepared: Prepared) -> list[Designs]:
        """Return for each slack the thresholds ``[E - 1, 1]``."""
        seen = prepared.split("fitting")
        return [levels_for_all(seen, self.levels, eps) for eps in self.slacks]


def levels_for_all(seen: StoredOutputs, levels: Sequence[float], eps: float) -> Designs:
    """Return the numbers ``[E - 1, 1]`` of the least levels that break at most ``eps N`` more answers than they repair.

    As `levels_within`, for exits that answer for all classes.
    """
    p, said = seen.answers[:-1].double().softmax(dim=-1).max(dim=-1)
    right = seen.answers[-1].argmax(dim=-1) == seen.targets
    worth = right.long() - (said == seen.targets).long()  # 1 where an answer is broken, -1 where one is repaired
    found = np.full((len(p), 1), len(levels) - 1, dtype=np.int64)
    for i in reversed(range(len(levels))):
        harm = ((p > levels[i]) * worth).sum(dim=1).numpy()
        found[harm <= eps * len(right) + 1e-9] = i
    return found


def claims(method: ClassSpecific, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The time saved for the targets; the design beside exits for all classes; and the greedy search beside others."""
    return [sooner(method, prepared), sooner_than_all(method, prepared, bench), *chosen_well(method, prepared)]


def sooner(method: ClassSpecific, prepared: Prepared) -> Outcome:
    """What slack 0 brings to the target classes, what it costs the others, and what is lost."""
    saving, loss, more = figures(method, prepared, 0.0)
    return Outcome(
        name="targets in two thirds of the time, nothing lost",
        statement="With accuracy slack 0 images of the target classes cost at most two thirds of the full model on "
        "test images (the paper: 2.09 to 8.79 times less time on CIFAR-10), accuracy over all classes falls by at most "
        "half a point, and images of the other classes cost at most one percent more.",
        holds=saving >= 1.5 and loss <= 0.005 and more <= 0.01,
        measured=f"targets {saving:.2f} times less, accuracy over all classes {-loss:+.4f}, other classes {more:+.1%}",
    )


def figures(method: ClassSpecific, prepared: Prepared, slack: float) -> tuple[float, float, float]:
    """Return, on test images, how much less targets cost, the accuracy lost, and how much more other classes cost."""
    design = method.chosen(slack, prepared.for_choosing)
    seen, rule = method.seen(design, prepared, "test"), method.everywhere(design)
    spent, targets = seen.paid(rule) / seen.full_costs.mean(), method.weighed(seen).numpy()
    right = seen.at(replay(rule, seen.outputs)).argmax(dim=-1) == seen.targets
    full = seen.answers[-1].argmax(dim=-1) == seen.targets
    lost = float(full.double().mean() - right.double().mean())
    return 1 / float(spent[targets].mean()), lost, float(spent[~targets].mean()) - 1


def sooner_than_all(method: ClassSpecific, prepared: Prepared, bench: Bench) -> Outcome:
    """Compare with exits for all classes on the same frozen network, trained as long, set and chosen likewise."""
    rival = AllClasses(**{field.name: getattr(method, field.name) for field in fields(method)})
    (ours, lost, _), (theirs, given, _) = figures(method, prepared, 0.0), figures(rival, rival.prepare(bench), 0.0)
    return Outcome(
        name="targets sooner than by exits for all classes",
        statement="With nothing lost on the images of the search, images of the target classes cost at least a tenth "
        "less on test images than with exits for all classes, which are trained as long on the same frozen network, "
        "have a threshold each, set by the same rule, and are chosen by the same greedy search.",
        holds=1 / ours <= 0.9 / theirs,
        measured=f"{1 / ours:.3f} of the full cost, accuracy over all classes {-lost:+.4f}; with exits for all classes "
        f"{1 / theirs:.3f}, {-given:+.4f}",
    )


def chosen_well(method: ClassSpecific, prepared: Prepared) -> list[Outcome]:
    """Compare T of what the greedy search takes for each slack with the least T of all designs, and of random ones."""
    ready = prepared.for_choosing
    every = all_designs(method, ready)
    found, best, draws = (
        least_times(method, ready.fitted),
        least_times(method, every),
        [least_times(method, draw) for draw in random_searches(method, ready)],
    )
    return [
        least_of_all(method, found, best, len(every.designs)),
        sooner_than_random(found, best, draws, len(ready.fitted.designs)),
    ]


def all_designs(method: ClassSpecific, ready: Prepared) -> Judged:
    """Return all sets of exits, the empty one first, with the thresholds of each slack, judged where the search did.

    Where the thresholds of two slacks are the same, so are their designs: each is there once.
    """
    early = ready.model.exits - 1
    sets = np.array([*product((0, 1), repeat=early)], dtype=np.int64)
    rows = [np.concatenate([sets, np.tile(row.ravel(), (len(sets), 1))], axis=1) for row in method.rows(ready)]
    designs = method.space(ready.model.exits).written(np.concatenate(rows))
    designs = designs[firsts(designs)]
    return Judged(designs, method.judged(designs, ready, "fitting"))


def least_times(method: ClassSpecific, found: Judged) -> list[float]:
    """Return for each slack the least T of the judged designs that lose no more; the first must have no exits."""
    return [float(found.scores[method.taken(eps, found), 1]) for eps in method.slacks]


def least_of_all(method: ClassSpecific, found: Sequence[float], best: Sequence[float], count: int) -> Outcome:
    """Compare the greedy search with trying all designs."""
    far = [ours - theirs for ours, theirs in zip(found, best, strict=True)]
    told = ", ".join(f"{T:.3f} at {eps:g}" for T, eps in zip(found, method.slacks, strict=True))
    return Outcome(
        name="close to the least time of all sets of exits",
        statement="For each accuracy slack, target images cost with the exits that the greedy search takes at most one "
        "percent of the full cost more, on the images of the search, than with the best of all sets of exits that "
        "lose no more accuracy, every one of which was judged with the thresholds of every slack.",
        holds=max(far) <= TIME,
        measured=f"at most {max(far):.4f} of the full cost more than the best of {count} designs; T {told}",
    )


def sooner_than_random(
    found: Sequence[float], best: Sequence[float], draws: Sequence[Sequence[float]], count: int
) -> Outcome:
    """Compare the greedy search with random ones, which judge as many designs; ``best`` is the least T of all."""
    theirs = [mean(each) for each in draws]
    gain, room = mean(theirs) - mean(found), mean(theirs) - mean(best)
    reason = no_room(room, TIME, "of the full cost cheaper for targets, on average over the slacks,")
    return Outcome(
        name="better than a random search",
        statement="Both searches take an exit's thresholds from the answers to the images of the search, by one rule, "
        "for one of the same slacks: what differs is which sets of exits they judge, of which there are as many. On "
        "average over the accuracy slacks, target images cost with the best design that loses no more at least one "
        "percent of the full cost less, on the images of the search, than with that of a random search. Of random "
        f"searches there are {len(draws)}, and their mean is taken.",
        holds=not reason and gain >= TIME,
        measured=f"{gain:+.4f} of the full cost less on average (standard deviation of the random searches "
        f"{stdev(theirs):.4f}); {count} designs judged by each; the best of all designs {room:+.4f}",
        not_comparable=reason,
    )
