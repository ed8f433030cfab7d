"""What the paper claims: a network that stops by itself predicts better than one of fixed depth.

All are compared on the same test samples, by resampling these, since a ratio in dB is no mean over samples.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log10

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.claims.paired import BEYOND, ERRORS, GAINS, Difference, resampled
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.chen2020l2stop import LearningToStop, errors, oracle_ratio

GAIN = 0.2
"""Least dB that count as better."""
SHARE = 0.25
"""Least part of the way from the best fixed depth to the oracle that counts as learnt."""
LATER = 0.5
"""Least exits by which those of the least noise must stop later."""
Floats = NDArray[np.float64]
Times = NDArray[np.int64]
"""How often each of the samples ``[N]`` is taken."""


def claims(method: LearningToStop, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Better than the plain network, and than the same at any fixed depth; later where there is less noise."""
    plain = method.replace({"loss": "mean", "least": 0.0})
    rival = plain.prepare(bench)
    ours = next(point for point in curve.test if point.knob == 0.5)
    held, test = (plain.static(rival.split(split)) for split in ("validation", "test"))
    best, seen = max(range(len(held)), key=lambda i: held[i].quality), rival.split("test")
    lead = apart(stopped(method, prepared), lost(seen.answers[best], seen.targets))
    return [
        Outcome(
            name="better than the plain network",
            statement=f"Stopped where its gates say one half, -NMSE is {GAIN} dB above that of the same layers trained "
            f"without an oracle and run to the depth that is best on validation data, {GAINS}.",
            holds=lead.gains(GAIN),
            measured=f"{lead} dB, at {ours.cost / test[best].cost:.2f} × the cost",
        ),
        towards_the_oracle(method, prepared),
        told_by_noise(method, prepared),
    ]


def lost(codes: Tensor, x: Tensor) -> Floats:
    """Return the squared error ``[N]`` of each code ``[N, n]``."""
    found: Floats = errors(codes.double(), x.double()).numpy()
    return found


def stopped(method: LearningToStop, prepared: Prepared) -> Floats:
    """Return the squared error of each test sample ``[N]``, stopped where its gates say one half."""
    seen = prepared.split("test")
    return lost(seen.at(replay(method.rule(0.5, prepared), seen.outputs)), seen.targets)


def decibels(ours: Floats, theirs: Floats) -> Callable[[Times], float]:
    """Return by how many dB our -NMSE is above theirs, from squared errors ``[N]``."""
    return lambda times: 10 * log10(float(times @ theirs) / max(float(times @ ours), 1e-30))


def apart(ours: Floats, theirs: Floats) -> Difference:
    """Return by how many dB our -NMSE is above theirs, from squared errors ``[N]``, and how certain that is."""
    return resampled(decibels(ours, theirs), len(ours), digits=2)


def towards_the_oracle(method: LearningToStop, prepared: Prepared) -> Outcome:
    """Compare with the best fixed depth of the same network, and with the best exit for each sample."""
    known, seen = prepared.split("validation"), prepared.split("test")
    held = method.static(known)
    depth = max(range(len(held)), key=lambda i: held[i].quality)
    each = np.stack([lost(codes, seen.targets) for codes in seen.answers])
    gain = decibels(stopped(method, prepared), each[depth])
    room = decibels(each.min(axis=0), each[depth])
    beyond = resampled(lambda times: gain(times) - SHARE * room(times), each.shape[1], digits=2)
    once = np.ones(each.shape[1], dtype=np.int64)
    lead = oracle_ratio(known.answers, known.targets) - held[-1].quality
    reason = "" if lead >= GAIN else f"On validation data the oracle is only {lead:.2f} dB above the last exit."
    return Outcome(
        name="learns from the oracle",
        statement=f"Stopped where its gates say one half, -NMSE is {SHARE:.0%} of the way or more from the best fixed "
        f"depth of the same network to the best exit of each sample, {BEYOND}.",
        holds=not reason and beyond.gains(),
        measured=f"{gain(once):+.2f} dB of {room(once):+.2f}, which is {beyond} beyond that share",
        not_comparable=reason,
    )


def told_by_noise(method: LearningToStop, prepared: Prepared) -> Outcome:
    """Compare where measurements stop that have the most and the least noise.

    Where there is less of it the error goes on falling for longer, so more layers are worth their cost.
    """
    seen, a = prepared.split("test"), prepared.model.get_buffer("gate.a")
    y = torch.stack([*seen.examples.inputs])
    noise = (y - seen.targets @ a.T).square().sum(dim=1) / y.square().sum(dim=1)
    exits = torch.as_tensor(replay(method.rule(0.5, prepared), seen.outputs)).double()
    third, order = len(y) // 3, noise.argsort()
    least, most = exits[order[:third]], exits[order[-third:]]
    later = Difference(
        float(least.mean() - most.mean()), float((least.var() + most.var()) / third) ** 0.5, digits=2
    )  # of other samples
    return Outcome(
        name="depth follows noise",
        statement=f"The third of the measurements with the least noise stop {LATER:g} exits later on average than "
        f"those with the most, and by more than {ERRORS:g} standard errors of that difference.",
        holds=later.gains(LATER),
        measured=f"those with the least noise {later} exits later",
    )
