"""What the paper claims: a network that stops by itself predicts better than one of fixed depth."""

from __future__ import annotations

import torch

from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.chen2020l2stop import LearningToStop, oracle_ratio

GAIN = 0.2
"""Least dB that count as better."""
SHARE = 0.25
"""Least part of the way from the best fixed depth to the oracle that counts as learnt."""


def claims(method: LearningToStop, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Better than the plain network, and than the same at any fixed depth; sooner where there is more to gain."""
    plain = method.replace({"loss": "mean", "least": 0.0})
    rival = plain.prepare(bench)
    ours = next(point for point in curve.test if point.knob == 0.5)
    held, test = (plain.static(rival.split(split)) for split in ("validation", "test"))
    best = max(range(len(held)), key=lambda i: held[i].quality)
    return [
        Outcome(
            name="better than the plain network",
            statement=f"Stopped where its gates say one half, -NMSE is {GAIN} dB above that of the same layers trained "
            "without an oracle and run to the depth that is best on validation data.",
            holds=ours.quality >= test[best].quality + GAIN,
            measured=f"{ours.quality - test[best].quality:+.2f} dB, at {ours.cost / test[best].cost:.2f} × the cost",
        ),
        towards_the_oracle(method, prepared, curve),
        told_by_noise(method, prepared),
    ]


def towards_the_oracle(method: LearningToStop, prepared: Prepared, curve: Curve) -> Outcome:
    """Compare with the best fixed depth of the same network, and with the best exit for each sample."""
    held, seen = method.static(prepared.split("validation")), prepared.split("test")
    depth = max(range(len(held)), key=lambda i: held[i].quality)
    fixed, best = method.static(seen)[depth].quality, oracle_ratio(seen.answers, seen.targets)
    ours = next(point for point in curve.test if point.knob == 0.5).quality
    known = prepared.split("validation")
    lead = oracle_ratio(known.answers, known.targets) - held[-1].quality
    reason = "" if lead >= GAIN else f"On validation data the oracle is only {lead:.2f} dB above the last exit."
    return Outcome(
        name="learns from the oracle",
        statement=f"Stopped where its gates say one half, -NMSE is {SHARE:.0%} of the way or more from the best fixed "
        "depth of the same network to the best exit of each sample.",
        holds=not reason and ours - fixed >= SHARE * (best - fixed) > 0,
        measured=f"{ours:.2f} dB; fixed {fixed:.2f}, oracle {best:.2f}",
        not_comparable=reason,
    )


def told_by_noise(method: LearningToStop, prepared: Prepared) -> Outcome:
    """Compare where measurements stop that have the most and the least noise."""
    seen, a = prepared.split("test"), prepared.model.get_buffer("gate.a")
    y = torch.stack([*seen.examples.inputs])
    noise = (y - seen.targets @ a.T).square().sum(dim=1) / y.square().sum(dim=1)
    exits = torch.as_tensor(replay(method.policy(0.5, prepared), seen.outputs)).double()
    third = len(y) // 3
    order = noise.argsort()
    apart = float(exits[order[:third]].mean() - exits[order[-third:]].mean())
    return Outcome(
        name="depth follows noise",
        statement="The third of the measurements with the least noise and that with the most stop half an exit apart "
        "on average, or more.",
        holds=abs(apart) >= 0.5,
        measured=f"those with the least noise {apart:+.2f} exits later",
    )
