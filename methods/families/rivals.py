"""What several papers claim about an older one: its exit rule compared at equal cost, its training exit by exit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.method import Bench
from eelit.methods.policies.base import Policy
from eelit.methods.records import Baseline, Outcome

Rival = TypeVar("Rival", bound=TextMethod)


def on_the_task_of(method: TextMethod, rival: Rival) -> Rival:
    """Return the rival on the method's encoder and sentences, else as its own row has it: one training serves both."""
    return rival.replace({name: getattr(method, name) for name in ("encoder", "corpus", "train_size")})


def points_of(rival: ExitMethod, prepared: Prepared, bench: Bench) -> Baseline:
    """Return all settings of another method on its own network, but the ends, which stop everywhere or nowhere."""
    held, test = (rival.sweep(prepared, bench, split, rival.knobs[1:-1]) for split in ("validation", "test"))
    return Baseline(name=rival.key, validation=held, test=test)


def gains_at_equal_cost(
    method: ExitMethod, prepared: Prepared, ours: Iterable[Policy], rivals: Iterable[Policy] | Baseline
) -> list[float]:
    """Return, for each rival, by how much the test quality of our best setting that costs no more exceeds the rival's.

    Rivals are policies on the same network, or points measured on one of their own. Costs are compared, and our best
    setting chosen, on validation data. Rivals cheaper than all ours are left out.
    """
    held, test = prepared.split("validation"), prepared.split("test")
    tried = [(method.trial(policy, held), policy) for policy in ours]
    if not isinstance(rivals, Baseline):
        policies = list(rivals)
        points = [[method.trial(policy, seen) for policy in policies] for seen in (held, test)]
        rivals = Baseline(name="", validation=points[0], test=points[1])
    gains = []
    for known, reached in zip(rivals.validation, rivals.test, strict=True):
        within = [(point.quality, -point.cost, i) for i, (point, _) in enumerate(tried) if point.cost <= known.cost]
        if within:
            best = tried[max(within)[2]][1]
            gains.append(method.trial(best, test).quality - reached.quality)
    return gains


def better_than(name: str, gains: Sequence[float], where: str) -> Outcome:
    """Return the outcome that these gains at equal cost are worth speaking of: half a point on average."""
    gain = mean(gains or [0.0])
    return Outcome(
        name=f"better than {name}",
        statement=f"{where}, at no more than the cost of each setting of {name} and with our setting chosen on "
        "validation data, accuracy on test data is on average half a point higher.",
        holds=gain >= 0.005,
        measured=f"{gain:+.4f} on average over {len(gains)} settings",
    )


def gains_by_exit(method: ExitMethod, prepared: Prepared, rival: ExitMethod, bench: Bench) -> list[float]:
    """Return by how much the test quality of each exit exceeds the same exit's of another method, which is trained."""
    theirs = rival.static(rival.prepare(bench).split("test"))
    ours = method.static(prepared.split("test"))
    return [a.quality - b.quality for a, b in zip(ours, theirs, strict=True)]


def oracle(outputs: Tensor, targets: Tensor) -> NDArray[np.int64]:
    """Return the first exit ``[N]`` (from 0) that is right on logits ``[E, N, C]``; the last where none is."""
    right = outputs.argmax(dim=-1) == targets
    right[-1] = True
    return right.int().argmax(dim=0).numpy()


def disagreement(outputs: Tensor) -> float:
    """Share of samples on which neighbouring exits answer differently, mean over pairs, for logits ``[E, N, C]``."""
    said = outputs.argmax(dim=-1)
    return float((said[1:] != said[:-1]).double().mean())
