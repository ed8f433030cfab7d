"""What incremental channels claim: much computation saved at a point of accuracy, and one network stored for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import cast

from torch import nn

from eelit.methods.engine.members import Network
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.stepwise import StepwisePrepared
from eelit.methods.papers.tann2016runtime import ReusedChannels, RuntimeConfigurable

Either = RuntimeConfigurable | ReusedChannels
LOSS = 0.01
"""Accuracy that may be lost; the paper: less than so much."""


def claims(method: Either, prepared: StepwisePrepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside networks of the same widths, each trained by itself for as much work as growing to its width takes."""
    ours = method.static(prepared.split("test"))
    rivals = [separate(method, share) for share in method.configurations]
    longer = passes([cost(rival, prepared) for rival in rivals], method.epochs)
    theirs = [each(rival.replace({"epochs": n}), bench) for rival, n in zip(rivals, longer, strict=True)]
    return [saving(method, prepared, curve), as_good(ours, theirs), storage(method, prepared, bench)]


def passes(costs: Sequence[float], epochs: float) -> list[float]:
    """Return the passes at each cost that multiply as often as ``epochs`` at it and at each one before do together."""
    return [round(epochs * sum(costs[: s + 1]) / costs[s], 1) for s in range(len(costs))]


def separate(method: Either, share: float) -> RuntimeConfigurable:
    """Return a network with a share of the channels, which is its only configuration."""
    settings = {field.name: getattr(method, field.name) for field in fields(RuntimeConfigurable)}
    return RuntimeConfigurable(**{**settings, "configurations": (share,)})


def cost(rival: RuntimeConfigurable, prepared: StepwisePrepared) -> float:
    """Return the multiply-accumulates of a network of one width for an image."""
    (member,) = rival.build(prepared.data, 0).members
    return float(cast(Network, member).costs(prepared.data.train.inputs[0][None])[0])


def each(rival: RuntimeConfigurable, bench: Bench) -> OperatingPoint:
    """Return what a network of one width reaches that is trained by itself."""
    return rival.static(rival.prepare(bench).split("test"))[0]


def saving(method: Either, prepared: StepwisePrepared, curve: Curve) -> Outcome:
    """The cheapest width, or score margin, that loses little."""
    held, test = (method.static(prepared.split(split)) for split in ("validation", "test"))
    point = cheapest_within([*curve.validation, *held], [*curve.test, *test], LOSS, of=held[-1].quality)
    loss, saved = curve.full_quality - point.quality, 1 - 1 / point.speed_up
    return Outcome(
        name="half of the computation saved at a point",
        statement="The cheapest width or score margin that loses at most one point on validation data saves half of "
        "the multiply-accumulates of the whole network, and loses at most a point and a half on test data. That is "
        "weaker than the paper's best case, 95 % of the energy, which the narrowest width alone comes near.",
        holds=saved >= 0.5 and loss <= LOSS + 0.005,
        measured=f"{saved:.1%} saved, accuracy {-loss:+.4f}",
    )


def as_good(ours: list[OperatingPoint], theirs: list[OperatingPoint]) -> Outcome:
    """Each configuration by itself against the network of its width."""
    gains = [a.quality - b.quality for a, b in zip(ours, theirs, strict=True)]
    return Outcome(
        name="as good as separate networks",
        statement="Each configuration is at most one point less accurate than a network of its width that is trained "
        "by itself for at least as many multiply-accumulates as growing to its width takes.",
        holds=min(gains) >= -LOSS,
        measured="by configuration " + ", ".join(f"{gain:+.4f}" for gain in gains),
    )


def storage(method: Either, prepared: StepwisePrepared, bench: Bench) -> Outcome:
    """Weights of the one network as it is run against those of separate ones."""
    one = numbers(prepared.model)
    every = [numbers(separate(method, share).build(prepared.data, bench.seed)) for share in method.configurations]
    saved = 1 - one / sum(every)
    return Outcome(
        name="40 % of the storage saved",
        statement="All configurations together store 40 % fewer weights than separate networks of their widths (the "
        "paper: about 50 %, beside earlier work). This follows from the widths, whatever is trained.",
        holds=saved >= 0.4,
        measured=f"{one:,} weights instead of {sum(every):,}: {saved:.1%} saved",
    )


def numbers(network: nn.Module) -> int:
    """Return how many weights a network stores."""
    return sum(p.numel() for p in network.parameters())
