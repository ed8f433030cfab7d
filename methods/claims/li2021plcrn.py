"""What PL-CRN++ with early exit claims: a threshold sets the speed, quality is sustained, noisy speech takes longer.

ESTOI is that of the package ``pystoi``. Where ``pesq`` is installed too, which needs a C compiler and so belongs
to no extra, narrow-band PESQ is told beside it; nothing depends on that. Differences are taken recording by recording.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.claims.paired import (
    BEYOND,
    GAINS,
    KEEPS,
    Difference,
    gains_of_mixtures,
    mean_gain,
    of_samples,
    over_samples,
    resampled,
)
from eelit.methods.data.recordings import RATE
from eelit.methods.engine.audio import si_sdr, waveform
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.li2021plcrn import PlCrn


def claims(method: PlCrn, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them on one curve."""
    static = next(base for base in curve.baselines if base.name == "static exit")
    return [
        cleaner(as_they_came(prepared), static),
        governed(curve),
        sustained(curve),
        understood(method, prepared, curve),
        noisier_takes_longer(method, prepared, curve),
        beside_fixed_rounds(curve, static),
    ]


def as_they_came(prepared: Prepared) -> NDArray[np.float64]:
    """Return the SI-SDR in dB ``[N]`` of the noisy test recordings."""
    seen = prepared.split("test")
    noisy = waveform(torch.stack(list(seen.examples.inputs)), seen.targets.shape[-1])
    return si_sdr(noisy, seen.targets).double().numpy()


def cleaner(noisy: NDArray[np.float64], static: Baseline) -> Outcome:
    """What enhancement is worth at all, and that later rounds add to it."""
    each = [of_samples(point) for point in static.test]
    over_noisy, over_first = (over_samples(each[-1], other, 2) for other in (noisy, each[0]))
    steps = [over_samples(after, before, 2) for before, after in pairwise(each)]
    return Outcome(
        name="each round makes it cleaner",
        statement="The full model raises SI-SDR by at least 3 dB over the noisy recordings, and is at least half a dB "
        f"better than the first exit, both {BEYOND}; no exit is more than 0.1 dB worse than the one "
        f"before, {KEEPS}.",
        holds=over_noisy.gains(3) and over_first.gains(0.5) and all(step.keeps(0.1) for step in steps),
        measured=f"{over_noisy} dB over the noisy recordings, {over_first} dB over the first exit; exits: "
        f"{', '.join(f'{values.mean():.2f}' for values in each)} dB, from each to the next "
        f"{', '.join(map(str, steps))} dB",
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
    kept, share = over_samples(of_samples(point), of_samples(curve.test[-1]), 2), 1 / point.speed_up
    return Outcome(
        name="quality is sustained",
        statement="The cheapest threshold that loses at most 0.2 dB on validation data saves a fifth of the "
        f"computation on test data and loses at most 0.3 dB there, {KEEPS}.",
        holds=share <= 0.8 and kept.keeps(0.3),
        measured=f"{share:.0%} of the full cost, SI-SDR {kept} dB, at tau = {point.knob:g}",
        not_comparable=nothing_to_lose(curve, 0.3),
    )


def understood(method: PlCrn, prepared: Prepared, curve: Curve) -> Outcome:
    """Intelligibility, which nobody trained for, of the noisy recordings, at that threshold, and of the full model."""
    tau = cheapest_within(curve.validation, curve.test, 0.2).knob
    seen = prepared.split("test")
    exits = replay(method.rule(tau, prepared), seen.outputs)
    spectra = [torch.stack(list(seen.examples.inputs)), seen.at(exits), seen.answers[-1]]
    waves = [waveform(each, seen.targets.shape[-1]) for each in spectra]
    each = torch.stack([torch.as_tensor(estoi(wave, seen.targets)) for wave in waves])
    known = ~each.isnan().any(dim=0)
    noisy, early, full = each[:, known if known.any() else ~known].numpy()
    heard = [pesq(wave, seen.targets) for wave in waves]
    cleared, kept = over_samples(full, noisy, 3), over_samples(early, full, 3)
    told = "" if None in heard else "; PESQ " + ", ".join(f"{value:.2f}" for value in heard)
    return Outcome(
        name="more intelligible as well",
        statement="On test data the full model raises ESTOI by at least 0.05 over the noisy recordings, and at the "
        f"cheapest threshold that loses at most 0.2 dB on validation data it is at most 0.01 lower than that, {KEEPS}.",
        holds=cleared.keeps(-0.05) and kept.keeps(0.01),
        measured=f"{noisy.mean():.3f} noisy, {early.mean():.3f} at tau = {tau:g} ({kept} beside the full model), "
        f"{full.mean():.3f} in full ({cleared}){told}",
    )


def estoi(waves: Tensor, clean: Tensor) -> NDArray[np.float64]:
    """Return the extended short-time objective intelligibility ``[N]``, at most 1, of waves ``[N, samples]``.

    It needs 0.4 s of sound in a piece, silence aside. That of a piece with less is not a number.
    """
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        found = []
        for wave, original in zip(waves.numpy(), clean.numpy(), strict=True):
            try:
                found.append(float(stoi(original, wave, RATE, extended=True)))
            except RuntimeWarning:
                found.append(float("nan"))
    return np.array(found)


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
    order = np.argsort(as_they_came(prepared))
    noisier = np.zeros(len(order), dtype=np.bool_)
    noisier[order[: len(order) // 2]] = True
    more = deeper(exits, noisier)
    return Outcome(
        name="noisy speech takes more rounds",
        statement="At the threshold nearest to the middle of the costs the noisier half of the test recordings takes "
        f"at least a quarter of a round more on average than the cleaner half, {GAINS}.",
        holds=more.gains(0.25),
        measured=f"{more} rounds, at tau = {tau:g}",
    )


def deeper(exits: NDArray[np.int64], which: NDArray[np.bool_]) -> Difference:
    """Return how many rounds more, on the mean over either, those in question ``[N]`` take than the others."""

    def apart(times: NDArray[np.int64]) -> float:
        return float(np.average(exits[which], weights=times[which]) - np.average(exits[~which], weights=times[~which]))

    return resampled(apart, len(exits), 2)


def middle(curve: Curve) -> float:
    """Return the threshold whose cost on validation data is nearest to the middle between the ends."""
    costs = [point.cost for point in curve.validation]
    target = (costs[0] + costs[-1]) / 2
    return min(curve.validation, key=lambda point: abs(point.cost - target)).knob


def beside_fixed_rounds(curve: Curve, static: Baseline) -> Outcome:
    """The rule against as many rounds for everyone, or a mixture of two numbers of rounds, at equal cost."""
    shares = [(1 / a.speed_up + 1 / b.speed_up) / 2 for a, b in pairwise(static.validation)]
    ours = Baseline(name="", validation=curve.validation, test=curve.test)
    found = gains_of_mixtures(ours, static, shares)
    gain = replace(mean_gain(found), digits=2)
    return Outcome(
        name="better than a fixed number of rounds",
        statement="Between neighbouring numbers of rounds, at equal cost on validation data, SI-SDR on test data is on "
        "average at least 0.1 dB higher than when that cost is spent on recordings drawn at random, "
        f"{GAINS}.",
        holds=gain.gains(0.1),
        measured=f"{gain} dB on average over {len(found)} costs",
    )
