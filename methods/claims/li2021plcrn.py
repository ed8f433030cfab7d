"""What PL-CRN++ with early exit claims: a threshold sets the speed, quality is sustained, noisy speech takes longer.

ESTOI is that of the package ``pystoi``. Where ``pesq`` is installed too, which needs a C compiler and so belongs
to no extra, narrow-band PESQ is told beside it; nothing depends on that.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from eelit.methods.data.recordings import RATE
from eelit.methods.engine.audio import si_sdr, waveform
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import at, cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.li2021plcrn import PlCrn


def claims(method: PlCrn, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them on one curve."""
    chance = curve.chance.quality if curve.chance else 0.0
    static = next(base for base in curve.baselines if base.name == "static exit")
    return [
        cleaner(curve.full_quality - chance, [point.quality for point in static.test]),
        governed(curve),
        sustained(curve),
        understood(method, prepared, curve),
        noisier_takes_longer(method, prepared, curve),
        beside_fixed_rounds(curve, static),
    ]


def cleaner(gain: float, each: Sequence[float]) -> Outcome:
    """What enhancement is worth at all, and that later rounds add to it."""
    return Outcome(
        name="each round makes it cleaner",
        statement="The full model raises SI-SDR by at least 3 dB over the noisy recordings, and is at least half a dB "
        "better than the first exit; no exit is more than 0.1 dB worse than the one before.",
        holds=gain >= 3 and each[-1] - each[0] >= 0.5 and all(b >= a - 0.1 for a, b in pairwise(each)),
        measured=f"{gain:+.2f} dB over the noisy recordings; exits: {', '.join(f'{q:.2f}' for q in each)} dB",
    )


def governed(curve: Curve) -> Outcome:
    """One threshold sets the speed."""
    shares = [1 / point.speed_up for point in curve.test]
    widest = max(b - a for a, b in pairwise(shares))
    return Outcome(
        name="the threshold governs the speed",
        statement="From the first to the last threshold cost rises in steps, none of which is wider than a quarter of "
        "the full model's cost.",
        holds=all(b >= a for a, b in pairwise(shares)) and widest <= 0.25,
        measured=f"from {shares[0]:.0%} to {shares[-1]:.0%} of the full cost, the widest step {widest:.0%}",
    )


def sustained(curve: Curve) -> Outcome:
    """The cheapest threshold at which nearly nothing is lost."""
    point = cheapest_within(curve.validation, curve.test, 0.2)
    loss, share = curve.full_quality - point.quality, 1 / point.speed_up
    return Outcome(
        name="quality is sustained",
        statement="The cheapest threshold that loses at most 0.2 dB on validation data saves a fifth of the "
        "computation on test data and loses at most 0.3 dB there.",
        holds=share <= 0.8 and loss <= 0.3,
        measured=f"{share:.0%} of the full cost, SI-SDR {-loss:+.2f} dB, at tau = {point.knob:g}",
    )


def understood(method: PlCrn, prepared: Prepared, curve: Curve) -> Outcome:
    """Intelligibility, which nobody trained for, of the noisy recordings, at that threshold, and of the full model."""
    tau = cheapest_within(curve.validation, curve.test, 0.2).knob
    seen = prepared.split("test")
    exits = replay(method.rule(tau, prepared), seen.outputs)
    spectra = [torch.stack(list(seen.examples.inputs)), seen.at(exits), seen.answers[-1]]
    waves = [waveform(each, seen.targets.shape[-1]) for each in spectra]
    noisy, early, full = (estoi(wave, seen.targets) for wave in waves)
    heard = [pesq(wave, seen.targets) for wave in waves]
    told = "" if None in heard else "; PESQ " + ", ".join(f"{value:.2f}" for value in heard)
    return Outcome(
        name="more intelligible as well",
        statement="On test data the full model raises ESTOI by at least 0.05 over the noisy recordings, and at the "
        "cheapest threshold that loses at most 0.2 dB on validation data it is at most 0.01 lower than that.",
        holds=full - noisy >= 0.05 and full - early <= 0.01,
        measured=f"{noisy:.3f} noisy, {early:.3f} at tau = {tau:g}, {full:.3f} in full{told}",
    )


def estoi(waves: Tensor, clean: Tensor) -> float:
    """Return the mean extended short-time objective intelligibility, at most 1, of waves ``[N, samples]``.

    It needs 0.4 s of sound in a piece, silence aside. Pieces with less are left out; of none it is not a number.
    """
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        found = []
        for wave, original in zip(waves.numpy(), clean.numpy(), strict=True):
            try:
                found.append(float(stoi(original, wave, RATE, extended=True)))
            except RuntimeWarning:
                continue
    return mean(found) if found else float("nan")


def pesq(waves: Tensor, clean: Tensor) -> float | None:
    """Return the mean narrow-band PESQ of waves ``[N, samples]``; None if that package is not installed.

    Pieces in which it finds no speech are left out.
    """
    try:
        from pesq import PesqError
        from pesq import pesq as measured
    except ModuleNotFoundError:
        return None
    pairs = zip(clean.numpy(), waves.numpy(), strict=True)
    found = [float(measured(RATE, *pair, "nb", on_error=PesqError.RETURN_VALUES)) for pair in pairs]
    return mean([value for value in found if value > 0] or [float("nan")])


def noisier_takes_longer(method: PlCrn, prepared: Prepared, curve: Curve) -> Outcome:
    """The exits of the noisier half of the recordings, beside those of the cleaner half."""
    tau = middle(curve)
    seen = prepared.split("test")
    exits = replay(method.rule(tau, prepared), seen.outputs)
    noisy = waveform(torch.stack(list(seen.examples.inputs)), seen.targets.shape[-1])
    order = np.argsort(si_sdr(noisy, seen.targets).numpy())
    half = len(order) // 2
    more = float(exits[order[:half]].mean() - exits[order[half:]].mean())
    return Outcome(
        name="noisy speech takes more rounds",
        statement="At the threshold nearest to the middle of the costs the noisier half of the test recordings takes "
        "at least a quarter of a round more on average than the cleaner half.",
        holds=more >= 0.25,
        measured=f"{more:+.2f} rounds, at tau = {tau:g}",
    )


def middle(curve: Curve) -> float:
    """Return the threshold whose cost on validation data is nearest to the middle between the ends."""
    costs = [point.cost for point in curve.validation]
    target = (costs[0] + costs[-1]) / 2
    return min(curve.validation, key=lambda point: abs(point.cost - target)).knob


def beside_fixed_rounds(curve: Curve, static: Baseline) -> Outcome:
    """The rule against as many rounds for everyone, or a mixture of two numbers of rounds, at equal cost."""
    shares = [(1 / a.speed_up + 1 / b.speed_up) / 2 for a, b in pairwise(static.validation)]
    pairs = [(at(curve.validation, curve.test, s), at(static.validation, static.test, s)) for s in shares]
    gains = [ours.quality - theirs.quality for ours, theirs in pairs if ours and theirs]
    gain = mean(gains or [0.0])
    return Outcome(
        name="better than a fixed number of rounds",
        statement="Between neighbouring numbers of rounds, at equal cost on validation data, SI-SDR on test data is on "
        "average at least 0.1 dB higher than when that cost is spent on recordings drawn at random.",
        holds=gain >= 0.1,
        measured=f"{gain:+.2f} dB on average over {len(gains)} costs",
    )
