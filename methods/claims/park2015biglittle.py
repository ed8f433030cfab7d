"""What big/LITTLE networks claim: energy saved at a small loss, most answers by LITTLE, and theta under control."""

from __future__ import annotations

import torch

from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.cascades import Prepared
from eelit.methods.papers.park2015biglittle import BigLittle, Flags, Pair, adapted

SLACK = 0.01
"""How far the loss on test images may exceed what is allowed: what some thousand held-out images leave to chance."""
NOISE = 1.0
"""Deviation of what is added to each pixel, which itself has a deviation of 1, when inputs change at run time."""
WINDOW, AUDIT, STEPS = 50, 0.1, 40
"""Inputs between two steps of theta, how often a kept answer is audited, and steps over the range of margins."""


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
    """Noise on all inputs: theta as it was set on clean ones, and theta that moves."""
    known = prepared.fitted
    theta = known.theta(method.allowed)
    clean = prepared.split("fitting")
    pair, same = seen_by(method, prepared, clean.examples, bench)
    allowed = float(((theta <= pair.SM) & ~same).mean())
    noisy = with_noise(prepared.split("test").examples, bench.seed)
    pair, same = seen_by(method, prepared, noisy, bench)
    late = slice(len(same) // 2, None)  # theta has had time to move
    fixed = float(((theta <= pair.SM) & ~same)[late].mean())
    step = float(known.SM[float("inf") > known.SM].max()) / STEPS
    ran = adapted(pair.SM, same, theta, allowed, step=step, window=WINDOW, audit=AUDIT, seed=bench.seed)
    moving = float((ran.kept & ~same)[late].mean())
    runs = ran.big[late].mean(), (theta > pair.SM)[late].mean()
    return Outcome(
        name="theta follows the inputs",
        statement="Where noise on all test images has LITTLE's kept answers differ from BIG's at least half as often "
        "again as on clean ones, a theta that moves takes away half of what is too much, in the later half of them.",
        holds=fixed >= 1.5 * allowed and moving - allowed <= 0.5 * (fixed - allowed),
        measured=f"{allowed:.2%} differ on clean images; with noise {fixed:.2%} at the same theta and {moving:.2%} "
        f"with one that moves, for which BIG runs on {runs[0]:.1%} instead of {runs[1]:.1%}",
        not_comparable="" if fixed >= 1.5 * allowed else "the noise does not make LITTLE's kept answers much worse",
    )


def with_noise(examples: Examples, seed: int) -> Examples:
    """Return the examples with normal noise on every pixel."""
    draw = torch.Generator().manual_seed(seed)
    return Examples([x + NOISE * torch.randn(x.shape, generator=draw) for x in examples.inputs], examples.targets)


def seen_by(method: BigLittle, prepared: Prepared, examples: Examples, bench: Bench) -> tuple[Pair, Flags]:
    """Return what LITTLE and BIG do with examples, and where they answer the same ``[N]``."""
    little, big = prepared.model.outputs(examples, bench, "run-time")
    pair = method.pair(little, big, examples.targets, 0.0, 0.0)
    return pair, (little.argmax(dim=-1) == big.argmax(dim=-1)).numpy()
