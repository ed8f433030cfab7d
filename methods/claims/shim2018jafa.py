"""What the paper claims: better than its baselines, both in what is predicted and in what the features cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.operating_points import at
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.acquisition import Prepared
from eelit.methods.papers.shim2018jafa import Agent, Buyer, Jafa

GAIN = 0.01
"""Least accuracy that counts as better."""
SHARES = tuple(i / 20 for i in range(3, 13))
"""Of all features, at which curves are compared: 15 to 60 per cent."""
LOOKED_AT = 500
"""Training rows with which the fixed order is found."""


def claims(method: Jafa, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Better than features in one order for all, and in random orders, for the same classifier; and sparing."""
    assert isinstance(prepared.model, Buyer)
    agent, features = prepared.model.agent, prepared.model.exits
    best = fixed_order(agent, prepared.data.train)
    rng = np.random.default_rng(bench.seed)
    found = [sparing(curve)]
    for name, order in (
        ("a fixed order", lambda n: best.expand(n, features)),
        ("random orders", lambda n: torch.as_tensor(rng.permuted(np.tile(np.arange(features), (n, 1)), axis=1))),
    ):
        held, test = (in_order(method, prepared, agent, split, order) for split in ("validation", "test"))
        found.append(better(name, curve, held, test))
    return found


@torch.inference_mode()
def fixed_order(agent: Agent, rows: Examples) -> Tensor:
    """Return all features ``[d]``, each the one that helps the classifier most beside those before it."""
    x, y = torch.stack([*rows.inputs[:LOOKED_AT]]), rows.targets[:LOOKED_AT]
    known, order = torch.zeros_like(x, dtype=torch.bool), list[int]()
    for _ in range(x.shape[1]):
        losses = {}
        for j in sorted({*range(x.shape[1])} - {*order}):
            known[:, j] = True
            losses[j] = float(torch.nn.functional.cross_entropy(agent.classifier(agent.encode(x, known)), y))
            known[:, j] = False
        order.append(min(losses, key=lambda j: losses[j]))
        known[:, order[-1]] = True
    return torch.tensor(order)


@torch.inference_mode()
def in_order(
    method: Jafa, prepared: Prepared, agent: Agent, split: Split, order: Callable[[int], Tensor]
) -> list[OperatingPoint]:
    """Return what the same classifier reaches with the first 1, 2 … features of an order ``[n, d]``."""
    seen = prepared.split(split)
    x = torch.stack([*seen.examples.inputs])
    which, known, found = order(len(x)), torch.zeros_like(x, dtype=torch.bool), []
    for t in range(x.shape[1]):
        known[torch.arange(len(x)), which[:, t]] = True
        quality = method.score(agent.classifier(agent.encode(x, known)), seen.targets)
        found.append(
            OperatingPoint(knob=t + 1, quality=quality, cost=t + 1, speed_up=x.shape[1] / (t + 1), exits=[1.0])
        )
    return found


def better(name: str, curve: Curve, held: list[OperatingPoint], test: list[OperatingPoint]) -> Outcome:
    """Compare at equal cost, settings of both chosen on validation data."""
    gains = []
    for share in SHARES:
        ours, theirs = at(curve.validation, curve.test, share), at(held, test, share)
        if ours and theirs:
            gains.append(ours.quality - theirs.quality)
    mean = float(np.mean(gains)) if gains else 0.0
    return Outcome(
        name=f"better than {name}",
        statement=f"Accuracy is on average {GAIN} above that of the same classifier with features in {name}, at "
        f"{len(SHARES)} costs from {SHARES[0]:.0%} to {SHARES[-1]:.0%} of all features.",
        holds=mean >= GAIN,
        measured=f"{mean:+.4f} on average, above at {sum(gain > 0 for gain in gains)} of {len(gains)}",
    )


def sparing(curve: Curve) -> Outcome:
    """Try the paper's own rule: it stops of itself, early, and loses little."""
    point = next(point for point in curve.test if point.knob == 0)
    share = point.cost / curve.full_cost
    return Outcome(
        name="half of the features suffice",
        statement=f"By its own values the agent buys half of the features at most, and accuracy is no more than {GAIN} "
        "below that with all features.",
        holds=share <= 0.5 and point.quality >= curve.full_quality - GAIN - 1e-9,
        measured=f"{share:.0%} of the features, accuracy {point.quality:.4f} instead of {curve.full_quality:.4f}",
    )
