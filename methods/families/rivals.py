"""What several papers claim about an older one: its exit rule compared at equal cost, its training exit by exit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.method import Bench
from eelit.methods.policies.base import Policy


def gains_at_equal_cost(
    method: ExitMethod, prepared: Prepared, ours: Iterable[Policy], rivals: Iterable[Policy]
) -> list[float]:
    """Return, for each rival, by how much the test quality of our best setting that costs no more exceeds the rival's.

    Costs are compared, and our best setting chosen, on validation data. Rivals cheaper than all ours are left out.
    """
    held, test = prepared.split("validation"), prepared.split("test")
    tried = [(method.trial(policy, held), policy) for policy in ours]
    gains = []
    for rival in rivals:
        budget = method.trial(rival, held).cost
        within = [(point.quality, -point.cost, i) for i, (point, _) in enumerate(tried) if point.cost <= budget]
        if within:
            best = tried[max(within)[2]][1]
            gains.append(method.trial(best, test).quality - method.trial(rival, test).quality)
    return gains


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
