"""What RBQE claims: slight damage is mended early, severe damage late, and nobody need say which it is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import at, cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.xing2020rbqe import Rbqe, in_8_bits, psnr

LOSS = 0.05
"""What may be lost of the last exit's PSNR on validation pieces where a threshold is chosen, in dB."""
WINDOW = 8
"""Side of the windows in which structural similarity is measured, in pixels."""


def claims(method: Rbqe, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try all of them at one threshold, the cheapest that loses little on validation pieces."""
    point = cheapest_within(curve.validation, curve.test, LOSS)
    seen = prepared.split("test")
    exits = replay(method.rule(point.knob, prepared), seen.outputs)
    levels = prepared.data.part("test levels").targets[: len(exits)].numpy()
    return [
        mended(method, seen, levels),
        cheaper(curve, seen, exits, point.knob),
        sooner(method, exits, levels, point.knob),
        as_good_as_told(method, curve, seen, levels),
        better_than_depth(method, prepared, curve),
    ]


def ssim(pictures: Tensor, clean: Tensor) -> Tensor:
    """Return the mean structural similarity ``[N]`` of pictures ``[N, H, W]`` from 0 to 1, in 8 bits.

    In all windows of 8×8 pixels, each pixel weighing alike (wang2004image: a Gaussian window of 11×11).
    """
    a, b = in_8_bits(pictures)[:, None], clean.double()[:, None]
    mean_a, mean_b, aa, bb, ab = (F.avg_pool2d(each, WINDOW, 1) for each in (a, b, a * a, b * b, a * b))
    likeness = (2 * mean_a * mean_b + 1e-4) * (2 * (ab - mean_a * mean_b) + 9e-4)
    norm = (mean_a**2 + mean_b**2 + 1e-4) * (aa - mean_a**2 + bb - mean_b**2 + 9e-4)
    return (likeness / norm).mean(dim=(1, 2, 3))


def mended(method: Rbqe, seen: StoredOutputs, levels: NDArray[np.int64]) -> Outcome:
    """Tell what every exit adds to the pictures as they came; the last must add more than the first."""
    came = torch.stack([x[0] for x in seen.examples.inputs])
    worst = torch.as_tensor(levels == int(np.argmin(method.qualities)))
    each = [psnr(out, seen.targets) - psnr(came, seen.targets) for out in seen.answers]
    gains = [float(gain.mean()) for gain in each]
    alike = float((ssim(seen.answers[-1], seen.targets) - ssim(came, seen.targets)).mean())
    told, lowest = (", ".join(f"{x:+.3f}" for x in some) for some in (gains, [float(g[worst].mean()) for g in each]))
    return Outcome(
        name="deeper decoders mend more",
        statement="The last exit adds 0.3 dB to compressed pictures, and 0.1 dB more than the first one adds.",
        holds=gains[-1] >= 0.3 and gains[-1] >= gains[0] + 0.1,
        measured=f"exits 1, 2 … add {told} dB, at the lowest quality {lowest} dB; SSIM {alike:+.4f} at the last",
    )


def cheaper(curve: Curve, seen: StoredOutputs, exits: NDArray[np.int64], knob: float) -> Outcome:
    """Compare what the chosen threshold costs and gives with the last exit."""
    point = next(point for point in curve.test if point.knob == knob)
    alike = float((ssim(seen.at(exits), seen.targets) - ssim(seen.answers[-1], seen.targets)).mean())
    loss, saved = curve.full_quality - point.quality, 1 - 1 / point.speed_up
    return Outcome(
        name="a fifth saved at equal quality",
        statement="The cheapest threshold that loses at most 0.05 dB on validation pieces saves a fifth of the "
        "computation and loses at most 0.1 dB and 0.005 of SSIM on test pieces.",
        holds=saved >= 0.2 and loss <= 0.1 and alike >= -0.005,
        measured=f"{saved:.1%} of the MACs saved, PSNR {-loss:+.3f} dB, SSIM {alike:+.4f}, at T = {knob:g}",
        not_comparable=nothing_to_lose(curve, 0.1),
    )


def sooner(method: Rbqe, exits: NDArray[np.int64], levels: NDArray[np.int64], knob: float) -> Outcome:
    """Tell where pictures of each quality leave, on average."""
    means = {q: float(exits[levels == i].mean()) + 1 for i, q in enumerate(method.qualities) if (levels == i).any()}
    ordered = [means[q] for q in sorted(means, reverse=True)]
    return Outcome(
        name="slight damage leaves sooner",
        statement="At that threshold the mean exit does not fall from one quality to the next lower one, and is half "
        "an exit later at the lowest than at the highest.",
        holds=ordered == sorted(ordered) and ordered[-1] - ordered[0] >= 0.5,
        measured=", ".join(f"quality {q}: exit {mean:.2f}" for q, mean in sorted(means.items(), reverse=True))
        + f", at T = {knob:g}",
    )


def as_good_as_told(method: Rbqe, curve: Curve, seen: StoredOutputs, levels: NDArray[np.int64]) -> Outcome:
    """Compare the score with being told the quality: then the best leaves at the first exit, the worst at the last."""
    order, last = np.argsort([-q for q in method.qualities]), len(seen.costs) - 1
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.rint(np.linspace(0, last, len(order))).astype(np.int64)
    exits = place[levels]
    quality = method.score(seen.at(exits), seen.targets)
    share = float(seen.static_costs[exits, np.arange(len(exits))].mean() / seen.full_costs.mean())
    ours = at(curve.validation, curve.test, share)
    gain = float("-inf") if ours is None else ours.quality - quality
    return Outcome(
        name="as good as being told the quality",
        statement="At the cost of exits that are fixed for each known quality, the score gives pictures at most 0.05 "
        "dB worse.",
        holds=gain >= -0.05,
        measured=f"{gain:+.3f} dB at {share:.1%} of the full cost; told: {quality:.3f} dB",
    )


def better_than_depth(method: Rbqe, prepared: Prepared, curve: Curve) -> Outcome:
    """Compare the score with stopping whoever it is at an exit drawn by lot, at equal cost, between the ends."""
    held, test = (method.static(prepared.split(name)) for name in ("validation", "test"))
    low, gains = 1 / held[0].speed_up, []
    for share in np.linspace(low, 1, 7)[1:-1].tolist():
        ours, theirs = at(curve.validation, curve.test, share), at(held, test, share)
        if ours and theirs:
            gains.append(ours.quality - theirs.quality)
    gain = sum(gains) / max(1, len(gains))
    return Outcome(
        name="better than a fixed depth",
        statement="At equal cost, both chosen on validation pieces, pictures are on average 0.02 dB better than those "
        "of fixed exits and mixtures of them.",
        holds=gain >= 0.02,
        measured=f"{gain:+.3f} dB on average over {len(gains)} costs",
    )
