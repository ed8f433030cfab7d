"""Sound in torch: spectra of short pieces and back, what a cleaned recording is worth, and what a recogniser hears."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

WINDOW, HOP = 256, 128
"""Samples of a window, and from one to the next: 32 and 16 ms at 8 kHz."""
BANDS = WINDOW // 2 + 1
WHISPER, WIDE, STEP, HEARD = 16_000, 400, 160, 80
"""Of what Whisper hears: samples a second, of a window, and from one to the next; and bands."""


def spectrum(waves: Tensor) -> Tensor:
    """Return the short-time Fourier transform, real and imaginary part ``[N, 2, F, T]``, of waves ``[N, samples]``."""
    found = torch.stft(waves, WINDOW, HOP, window=_window(), normalized=True, return_complex=True)
    return torch.view_as_real(found).permute(0, 3, 1, 2).contiguous()


def waveform(spectra: Tensor, samples: int) -> Tensor:
    """Return the waves ``[N, samples]`` of such spectra ``[N, 2, F, T]``, windows overlapped and added."""
    parts = torch.view_as_complex(spectra.permute(0, 2, 3, 1).contiguous())
    return torch.istft(parts, WINDOW, HOP, window=_window(), normalized=True, length=samples)


def si_sdr(estimates: Tensor, clean: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-distortion ratio in dB ``[N]`` of estimates of clean waves ``[N, samples]``.

    With a = <e, s> / <s, s> it is 10 log10(|a s|^2 / |e - a s|^2), means removed.
    """
    e, s = (x.double() - x.double().mean(dim=-1, keepdim=True) for x in (estimates, clean))
    a = (e * s).sum(dim=-1, keepdim=True) / (s * s).sum(dim=-1, keepdim=True).clamp_min(1e-12)
    kept, rest = ((x * x).sum(dim=-1).clamp_min(1e-12) for x in (a * s, e - a * s))
    return 10 * torch.log10(kept / rest)


def log_mel(waves: Tensor, bands: int, rate: int) -> Tensor:
    """Return log energies ``[N, bands, T]`` in bands equally wide in mel, of waves ``[N, samples]``."""
    power = spectrum(waves).square().sum(dim=1)
    return torch.log(_mel(bands, rate) @ power + 1e-4)


def heard_by_whisper(waves: Tensor, rate: int) -> Tensor:
    """Return what Whisper hears ``[N, 80, T]``, a column each 10 ms, of waves ``[N, samples]``.

    Recordings at 8 or 16 kHz give the same columns, but for the bands above what was recorded. Raises `ValueError` for
    any other rate.
    """
    if rate not in (WHISPER // 2, WHISPER):
        raise ValueError(f"Whisper hears recordings of {WHISPER // 2} or {WHISPER} samples a second, not {rate}")
    less = WHISPER // rate
    window = torch.hann_window(WIDE // less)
    found = torch.stft(waves, WIDE // less, STEP // less, window=window, return_complex=True)[..., :-1]
    power = (less * found.abs()).square()
    energies = (_slaney()[:, : power.shape[1]] @ power).clamp_min(1e-10).log10()
    loudest = energies.amax(dim=(1, 2), keepdim=True)
    return (energies.maximum(loudest - 8) + 4) / 4


@cache
def _slaney() -> Tensor:
    """Return triangles ``[80, 201]`` of weights on the mel scale of Slaney, each of area 1, up to 8 kHz."""

    def hertz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)

    top = 15 + 27 * math.log(WHISPER / 2 / 1000) / math.log(6.4)
    corners = torch.tensor([hertz(top * i / (HEARD + 1)) for i in range(HEARD + 2)], dtype=torch.float64)
    f = torch.arange(WIDE // 2 + 1, dtype=torch.float64) * WHISPER / WIDE
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    shape = torch.minimum((f - low) / (middle - low), (high - f) / (high - middle)).clamp_min(0)
    return (shape * 2 / (high - low)).float()


@cache
def _window() -> Tensor:
    return torch.hann_window(WINDOW)


@cache
def _mel(bands: int, rate: int) -> Tensor:
    """Return triangles ``[bands, F]`` of weights, whose corners are equally far apart in mel from 50 Hz on."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (50.0, rate / 2))
    corners = 700 * (10 ** (torch.linspace(low, high, bands + 2) / 2595) - 1)
    f = torch.linspace(0, rate / 2, BANDS)
    rise = (f - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    fall = (corners[2:, None] - f) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp_min(0)
