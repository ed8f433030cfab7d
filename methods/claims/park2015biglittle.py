"""What big/LITTLE networks claim: energy saved at a small loss, most answers by LITTLE, and theta under control."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eelit.methods.claims.comparisons import SLACK
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.cascades import Prepared
from eelit.methods.papers.park2015biglittle import BigLittle, Flags, Numbers, Pair, adapted

NOISE = 1.0
"""Deviation of what is added to each pixel, which itself has a deviation of 1, when inputs change at run time."""
AUDIT, STEPS = 0.1, 40
"""How often a kept answer is audited, and steps of theta over the range of margins."""
HITS = 10
"""Differences that audits are to find in a window if just as many kept answers differ as may."""
LEAST = 0.005
"""Least allowed share of differing answers for which a window is made long enough."""
WINDOWS, MOVES = 12, 10
"""Windows in the stream of inputs at run time, and possible steps of theta in each."""


def claims(method: BigLittle, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The abstract's figures, and both of its methods of control."""
    return [energy(curve), mostly_little(curve), kept(curve), at_run_time(method, prepared, bench)]


def energy(curve: Curve) -> Outcome:
    """The figure of the harder of the paper's two data sets."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    loss, saved = curve.full_quality - point.quality, 1 - 1 / point.speed_up
    return Outcome(
        name="half of the energy saved for about a point",
        statement="The cheapest allowed loss that loses at most one point on validation images saves at least 53.7 % "
        "of the energy, as in the paper on ImageNet, and loses at most one point and a half on test images.",
        holds=saved >= 0.537 and loss <= 0.015,
        measured=f"allowed loss {point.knob:g}: {saved:.1%} saved, accuracy {-loss:+.4f}",
    )


def mostly_little(curve: Curve) -> Outcome:
    """Who answers at that setting."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    return Outcome(
        name="LITTLE answers most inputs",
        statement="At the cheapest allowed loss that loses at most one point on validation images, LITTLE answers more "
        "than half of the test images.",
        holds=point.exits[0] > 0.5,
        measured=f"allowed loss {point.knob:g}: {point.exits[0]:.1%}",
    )


def kept(curve: Curve) -> Outcome:
    """Whether what is allowed at design time is what is lost."""
    tried = [point for point in curve.test if 0 <= point.knob < 1]
    over = [curve.full_quality - point.quality - point.knob for point in tried]
    worst = max(range(len(tried)), key=over.__getitem__)
    return Outcome(
        name="the allowed loss is kept",
        statement="For each allowed loss from 0 to below 1 the accuracy on test images is at most so much below BIG's, "
        f"and {SLACK:g} more.",
        holds=over[worst] <= SLACK,
        measured=f"least kept at {tried[worst].knob:g}: accuracy {-over[worst] - tried[worst].knob:+.4f}",
    )


def at_run_time(method: BigLittle, prepared: Prepared, bench: Bench) -> Outcome:
    """Streams of clean and of noisy images: theta as it was set at design time, and theta that moves."""
    known = prepared.fitted
    theta, seen, test = known.theta(method.allowed), prepared.split("fitting"), prepared.split("test")
    allowed = float(((theta <= known.SM) & ~same_in(seen.outputs)).mean())
    little, big = test.outputs
    clean = method.pair(little, big, test.targets, 0.0, 0.0), same_in(test.outputs)
    noisy = seen_by(method, prepared, with_noise(test.examples, bench.seed), bench)
    step = float(known.SM[float("inf") > known.SM].max()) / STEPS
    streams = [streamed(pair.SM, same, theta, allowed, step, bench.seed) for pair, same in (clean, noisy)]
    (_, fair, *_), (fixed, moving, *runs) = streams
    why = "" if fixed >= 1.5 * allowed > 0 else "the noise does not make LITTLE's kept answers much worse"
    return Outcome(
        name="theta follows the inputs",
        statement="In the later half of a stream of test images with a theta that moves, LITTLE's kept answers differ "
        "from BIG's half to one and a half times as often as at design time, on clean images and under noise on all of "
        "them; at the theta of design time this noise makes at least one and a half times as many differ.",
        holds=not why and all(0.5 * allowed <= each <= 1.5 * allowed for each in (fair, moving)),
        measured=f"{allowed:.2%} differ at design time; {fair:.2%} on clean images; with noise {fixed:.2%} at the same "
        f"theta and {moving:.2%} with one that moves, for which BIG runs on {runs[0]:.1%} instead of {runs[1]:.1%}",
        not_comparable=why,
    )


def streamed(
    SM: Numbers, same: Flags, theta: float, allowed: float, step: float, seed: int
) -> tuple[float, float, float, float]:
    """Draw a stream from images with margins and equal answers ``[N]``; return what its later half shows.

    That is the share of inputs whose kept answer differs if theta stays and if it moves, and on which share BIG runs
    if it moves and if it stays. The window is as long as what is allowed requires.
    """
    window = math.ceil(HITS / (AUDIT * max(allowed, LEAST)))
    drawn = np.random.default_rng(seed).integers(len(SM), size=WINDOWS * window)
    SM, same, late = SM[drawn], same[drawn], slice(WINDOWS * window // 2, None)  # till then theta has time to move
    options: dict[str, Any] = {"window": window, "every": window // MOVES, "audit": AUDIT, "seed": seed}
    ran, stays = adapted(SM, same, theta, allowed, step=step, **options), theta <= SM
    shares = (stays & ~same, ran.kept & ~same, ran.big, ~stays)
    fixed, moving, runs, once = (float(each[late].mean()) for each in shares)
    return fixed, moving, runs, once


def with_noise(examples: Examples, seed: int) -> Examples:
    """Return the examples with normal noise on every pixel."""
    draw = torch.Generator().manual_seed(seed)
    return Examples([x + NOISE * torch.randn(x.shape, generator=draw) for x in examples.inputs], examples.targets)


def seen_by(method: BigLittle, prepared: Prepared, examples: Examples, bench: Bench) -> tuple[Pair, Flags]:
    """Return what LITTLE and BIG do with examples, and where they answer the same ``[N]``."""
    little, big = prepared.model.outputs(examples, bench, "run-time")
    pair = method.pair(little, big, examples.targets, 0.0, 0.0)
    return pair, same_in(torch.stack([little, big]))


def same_in(outputs: Tensor) -> Flags:
    """Return where both answer the same ``[N]``, by logits ``[2, N, C]``."""
    little, big = outputs.argmax(dim=-1)
    found: Flags = (little == big).numpy()
    return found
