"""What SkipNet claims: much less computation at equal accuracy; skipping follows alpha and the image."""

from __future__ import annotations

import itertools
import math

import torch

from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.gates import Prepared, routed
from eelit.methods.papers.wang2018skipnet import SkipNet


def claims(method: SkipNet, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Much less computation at equal accuracy; skipping follows alpha; noisy images need more blocks."""
    alphas = [point.knob for point in curve.test if math.isfinite(point.knob)]
    outcomes = [saves(curve), follows(prepared, alphas)]
    ran = {alpha: prepared.seen("test", alpha).gates.sum(dim=0) for alpha in alphas}
    return outcomes + ([noise(prepared, max(alphas, key=lambda a: float(ran[a].std())))] if alphas else [])


def saves(curve: Curve) -> Outcome:
    """Choose the cheapest alpha that is nearly as good as all gates open on validation data; see test data."""
    held, full = curve.validation, curve.full_quality
    kept = [i for i, p in enumerate(held) if p.quality >= held[-1].quality - 0.005]
    best = curve.test[min(kept, key=lambda i: held[i].cost)]
    saved = 1 - best.cost / curve.full_cost
    return Outcome(
        name="same accuracy with 30% less",
        statement="The cheapest alpha within half a point on validation saves ≥ 30% MACs, as close on test.",
        holds=saved >= 0.3 and best.quality >= full - 0.005,
        measured=f"{saved:.0%} saved at alpha {best.knob:g}, {best.quality - full:+.4f}",
    )


def follows(prepared: Prepared, alphas: list[float]) -> Outcome:
    """Compare the blocks that run under each alpha, the largest first."""
    ran = {alpha: float(prepared.seen("test", alpha).gates.sum(dim=0).mean()) for alpha in alphas}
    share = [(ran[a] + 1) / (prepared.prices.count + 1) for a in alphas]
    return Outcome(
        name="alpha governs skipping",
        statement="A larger alpha never raises the share of blocks that run, the first block included, and between the "
        "ends it falls by a tenth.",
        holds=all(a <= b for a, b in itertools.pairwise(share)) and share[0] <= 0.9 * share[-1],
        measured=", ".join(f"{part:.0%} at {alpha:g}" for part, alpha in zip(share, alphas, strict=True)),
    )


def noise(prepared: Prepared, alpha: float) -> Outcome:
    """Try whether images with Gaussian noise (deviation 0.5) run more blocks than the same without."""
    clean, draw = prepared.examples("test"), torch.Generator().manual_seed(0)
    noisy = Examples([x + 0.5 * torch.randn(x.shape, generator=draw) for x in clean.inputs], clean.targets)
    more = float(routed(prepared.network(alpha), noisy).gates.sum(dim=0).mean())
    less = float(prepared.seen("test", alpha).gates.sum(dim=0).mean())
    return Outcome(
        name="noisy pictures need more blocks",
        statement="With noise, pictures run a tenth of a block more on average, at the alpha where they differ most.",
        holds=more >= less + 0.1,
        measured=f"{less:.3f} without, {more:.3f} with noise, of {prepared.prices.count}, at alpha {alpha:g}",
    )
