"""Early Exit or Not: Resource-Efficient Blind Quality Enhancement for Compressed Images (RBQE).

Idea
    One network enhances compressed images of unknown quality and spends only as much computation as each needs. Nested
    decoders of increasing depth each give a finished image; a hand-made measure of codec artefacts, blocks and blur,
    assesses it without the original, and inference stops when the image is good enough. No network judges its own
    output, and the measure is not trained.

Model
    Nodes x_{i,j} of scale i (0: full resolution) and column j, C channels each; input x, one channel:
    x_{0,0} = two convolutions of x;  x_{i+1,0} = Down(ECA(x_{i,0})), two convolutions and one of stride 2;
    x_{i,j} = Up(concat(ECA(x_{i,0}), …, ECA(x_{i,j-1})), ConvT_{2×2}(ECA(x_{i+1,j-1}))), two separable convolutions.
    Convolutions are 3×3; ReLU follows each, and a separable one. ECA(x) = x · sigmoid(conv1d_3(mean of x over places)).
    Exit k = 1 … K gives out_k = x + SepConv(ECA(x_{0,k})); it needs x_{k,0} and x_{k-1,1} … x_{0,k}, nothing deeper. In
    the last of these rows, k = K, ECA is left out, as in the released network.

Training
    Everything together; the known quality d determines the weights of the exits for an image:
    L = sum_k w_{d,k} MSE(out_k, clean).  Here row d of w is first multiplied by mean(m) / m_d, with m_d the mean
    squared error of the training pieces of quality d before enhancement.

Exit rule
    Stop at the first of k = 1 … K-1 with Q(out_k) >= T; else out_K is returned without a test. T = 0 stops at the first
    exit, T > 2^0.1 never. Q is computed on out_k in 8 bits, in patches P of B×B that lie across the borders of the
    codec's blocks (B = 8 for JPEG). With T_B the orthonormal discrete Chebyshev matrix and c = 1e-5:
    M = T_B (P' - mean P') T_B^t of P' = P / sqrt(B² mean P²); sum M² - M_00² > 0.004 is textured, else smooth;
    textured: q_blur = 1 - mean((2 M M' + c) / (M² + M'² + c)), M' of P blurred by a 3×3 Gaussian, sigma = 5;
    smooth: e = sum|M| - |M_00| + c, Q_v and Q_h the shares in e of |M|'s last row and column, at most T_0 = 0.05 each,
    q_block = ln(1 - (Q_v + Q_h) / 2) / ln(1 - T_0).
    Q = (mean q_block)^0.9 (mean q_blur)^0.1; a mean over no patch is 1.

Skipped
    Deeper scales, and the nodes of all later exits.

Deviations
    1. 24 photographs and textures, twelve for training and six each for validation and tests, in grey pieces of 32×32
       and 64×64, instead of RAISE at 512×512: those of scikit-image and scikit-learn, and 13 wallpapers, reduced until
       little is left of their own compression. JPEG only; the paper has HEVC (B = 4) too.
    2. Three exits instead of five and 12 channels instead of 32; 6,000 pieces and 3 epochs. What two cores can train.
       On validation pieces the last exit leads the first by 0.13 dB (standard error over 322 places: 0.015): by 0.29 dB
       at quality 20 and 0.26 at 10, but it is 0.10 dB behind at 50, where the first exit weighs most.
    3. The paper's weights w could not be read, nor could rate and batch. The authors' summary says that early exits
       weigh more for mild damage and late ones for severe damage. The main variant has the weights of their later
       training code, of which three columns of five are left: the first, the middle and the last. In the variant
       ``equal weights`` all exits weigh alike: on validation pieces its last exit is 0.01 dB worse and its first 0.08
       dB better, so that the lead is 0.044 dB (0.002). The later rate, 1e-4, is for a million steps; ours is fifty
       times as large. It rises, then falls linearly to 0; gradients are clipped at norm 1. Rows of w are balanced, as
       errors at the lowest quality are three times those at the highest: without that, on validation pieces, the last
       exit of the main variant gains 0.817 dB instead of 0.899, and leads the first by 0.027 dB (0.018).
    4. Weights start normal with variance 2 / (inputs of a unit), the last convolution of each exit at 0, so that every
       exit starts with out_k = x; the first sees 8 (x - mean x), and residuals are divided by 8. With torch's usual
       start nothing was learned in a short training.
    5. The measure follows the released MATLAB, not the authors' later Python, which divides Q_v and Q_h by another sum.
       Here q_blur is computed in smooth patches too and not used: it costs almost nothing, and this makes costs equal.
       An all-black patch is smooth with q_block 0; MATLAB divides by zero there.
    6. The multiplications of the score count as cost of the exit; the paper counts only those of the network.
    7. T is chosen on validation pieces; the paper has 0.79 for JPEG, chosen from a curve on its test images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.data import photographs
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import Mean, Score
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Chance
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.base import said
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.fit import Batch, fit

TEXTURED, CLIP, STABLE = 0.004, 0.05, 1e-5
"""Energy above which a patch is textured; T_0; c."""
BLOCKING, BLUR, SIGMA = 0.9, 0.1, 5.0
"""Exponents of both means; deviation of the Gaussian, in pixels."""
LATER = ((2, 1, 1, 0.5, 0.5), (1, 2, 1, 0.5, 0.5), (0.5, 1, 2, 1, 0.5), (0.5, 0.5, 1, 2, 1), (0.5, 0.5, 1, 1, 2))
"""w_{d,k} of the authors' later code: a row for each quality from 50 down to 10, a number for each exit."""
SCALE = 8.0
"""By how much pictures, less their mean, are magnified for the first convolution, and residuals reduced."""


class Attention(nn.Module):
    """ECA: each channel is weighed by what it and its two neighbours are on average."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same."""
        weight = self.conv(x.mean(dim=(2, 3))[:, None])[:, 0].sigmoid()
        return x * weight[:, :, None, None]


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """A 3×3 convolution of each channel by itself, then a 1×1 convolution."""
    return nn.Sequential(nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs), nn.Conv2d(inputs, outputs, 1))


def convolutions(inputs: int, outputs: int, *, halved: bool) -> nn.Sequential:
    """Two 3×3 convolutions, and a third of stride 2 if the map is to be halved; ReLU after each."""
    layers: list[nn.Module] = []
    for i in range(3 if halved else 2):
        layers += [nn.Conv2d(outputs if i else inputs, outputs, 3, 2 if i == 2 else 1, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


class Node(nn.Module):
    """``x_{i,j}`` from the j nodes before it in its row and the one below."""

    def __init__(self, channels: int, before: int, *, attended_below: bool) -> None:
        super().__init__()
        self.attend = nn.ModuleList([Attention() for _ in range(before)])
        self.attend_below = Attention() if attended_below else nn.Identity()
        self.up = nn.Sequential(nn.ConvTranspose2d(channels, channels, 2, stride=2), nn.ReLU())
        self.join = nn.Sequential(
            separable((before + 1) * channels, channels), nn.ReLU(), separable(channels, channels), nn.ReLU()
        )

    def forward(self, row: list[Tensor], below: Tensor) -> Tensor:
        """Map the row's ``[N, C, H, W]`` and ``[N, C, H/2, W/2]`` to ``[N, C, H, W]``."""
        seen = [attend(x) for attend, x in zip(self.attend, row, strict=True)]
        return self.join(torch.cat([*seen, self.up(self.attend_below(below))], dim=1))


class Column(nn.Module):
    """Stage k: one scale more, and the nodes from there up to ``x_{0,k}``. The state is x and the rows so far."""

    def __init__(self, channels: int, k: int, *, last: bool) -> None:
        super().__init__()
        self.first = convolutions(1, channels, halved=False) if k == 1 else None
        self.attend, self.down = Attention(), convolutions(channels, channels, halved=True)
        # From the second node on, what lies below is new in this row, and so it is in all nodes of the last row.
        self.nodes = nn.ModuleList([Node(channels, j, attended_below=not last) for j in range(1, k + 1)])

    def forward(self, state: Any) -> tuple[Tensor, list[list[Tensor]]]:
        """Map pictures ``[N, 1, H, W]``, or the state, to the state: row i holds x_{i,0} … x_{i,k-i}."""
        if self.first is not None:
            x, rows = state, [[self.first((state - state.mean(dim=(2, 3), keepdim=True)) * SCALE)]]
        else:
            x, rows = state[0], [list(row) for row in state[1]]
        rows.append([self.down(self.attend(rows[-1][0]))])
        for j, node in enumerate(self.nodes, start=1):
            i = len(rows) - 1 - j
            rows[i].append(node(rows[i], rows[i + 1][j - 1]))
        return x, rows


class Enhanced(nn.Module):
    """Exit k: the picture ``out_k`` ``[N, H, W]``, and what it scores unless it is the last."""

    def __init__(self, channels: int, block: int, *, last: bool) -> None:
        super().__init__()
        self.attend = nn.Identity() if last else Attention()
        self.residual = separable(channels, 1)
        self.quality = None if last else Quality(block)

    def forward(self, state: tuple[Tensor, list[list[Tensor]]]) -> Tensor | dict[str, Tensor]:
        """Return the answer, with its score outside of training."""
        x, rows = state
        out = (x + self.residual(self.attend(rows[0][-1])) / SCALE)[:, 0]
        return out if self.quality is None or self.training else {"answer": out, "score": self.quality(out)}


def started(model: MultiExit) -> MultiExit:
    """Have signals keep their size from layer to layer, and every exit return its input; draws from torch's seed."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            # What one output sums up: windows of the transposed convolution do not overlap.
            inputs = layer.in_channels if isinstance(layer, nn.ConvTranspose2d) else layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=((1 if layer.groups > 1 else 2) / inputs) ** 0.5)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    for head in model.heads:
        nn.init.zeros_(head.residual[1].weight)  # type: ignore[index, union-attr]
    return model


def chebyshev(size: int) -> Tensor:
    """The orthonormal discrete Chebyshev (Tchebichef) polynomials as rows ``[B, B]``, by order, each ending above 0."""
    places = np.vander(np.linspace(-1, 1, size), increasing=True)
    rows = np.linalg.qr(places)[0].T
    return torch.tensor(rows * np.sign(rows[:, -1:]))


def in_8_bits(pictures: Tensor) -> Tensor:
    """Return pictures as they would be stored, from 0 to 1 in 256 steps, in double precision."""
    return (pictures.double().clamp(0, 1) * 255).round() / 255


class Quality(nn.Module):
    """``Q`` of pictures ``[N, H, W]`` from 0 to 1, ``[N]``: the larger, the fewer blocks and the less blur."""

    T: Tensor
    G: Tensor

    def __init__(self, block: int) -> None:
        super().__init__()
        if block < 2:
            raise ValueError(f"a patch has at least 2×2 pixels, not {block}×{block}")
        line = torch.exp(-(torch.arange(-1.0, 2.0, dtype=torch.float64) ** 2) / (2 * SIGMA**2))
        self.block = block
        self.register_buffer("T", chebyshev(block), persistent=False)
        self.register_buffer("G", torch.outer(line, line)[None, None] / line.sum() ** 2, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return ``Q``; pictures need two blocks down and across, and are seen in 8 bits."""
        blocking, blur, textured = self.parts(pictures)
        return mean_where(blocking, ~textured) ** BLOCKING * mean_where(blur, textured) ** BLUR

    def parts(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``q_block`` and ``q_blur`` of all patches ``[N, P]``, and which are textured."""
        B = self.block
        down, across = (length // B - 1 for length in pictures.shape[1:])
        if min(down, across) < 1:
            raise ValueError(f"a picture of {list(pictures.shape[1:])} pixels has no patch of {B}×{B} across blocks")
        seen = in_8_bits(pictures)[:, B // 2 :, B // 2 :].unfold(1, B, B).unfold(2, B, B)[:, :down, :across]
        P = seen.reshape(len(pictures), down * across, B, B)
        blurred = F.conv2d(P.reshape(-1, 1, B, B), self.G, padding=1).reshape(P.shape)
        M, blurred_M = self.moments(P), self.moments(blurred)
        textured = (M**2).sum(dim=(2, 3)) - M[..., 0, 0] ** 2 > TEXTURED
        alike = (2 * M * blurred_M + STABLE) / (M**2 + blurred_M**2 + STABLE)
        return blockiness(M), 1 - alike.mean(dim=(2, 3)), textured

    def moments(self, P: Tensor) -> Tensor:
        """Return ``M`` of patches ``[..., B, B]``."""
        norm = (P**2).sum(dim=(-2, -1), keepdim=True).sqrt()
        scaled = P / norm.clamp_min(1e-12)
        return self.T @ (scaled - scaled.mean(dim=(-2, -1), keepdim=True)) @ self.T.T


def blockiness(M: Tensor) -> Tensor:
    """Return ``q_block`` of moments ``[..., B, B]``."""
    sizes = M.abs()
    e = sizes.sum(dim=(-2, -1)) - sizes[..., 0, 0] + STABLE
    Q_v = (sizes[..., -1, :].sum(dim=-1) / e).clamp_max(CLIP)
    Q_h = (sizes[..., :, -1].sum(dim=-1) / e).clamp_max(CLIP)
    return (1 - (Q_v + Q_h) / 2).log() / math.log(1 - CLIP)


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean ``[N]`` of those of the values ``[N, P]`` that are chosen; 1 where none is."""
    count = chosen.sum(dim=1)
    total = torch.where(chosen, values, 0.0).sum(dim=1)
    return torch.where(count > 0, total / count.clamp_min(1), 1.0)


def psnr(pictures: Tensor, clean: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB ``[N]`` of pictures ``[N, H, W]`` in 8 bits; equal ones have 100."""
    error = ((in_8_bits(pictures) - clean.double()) ** 2).mean(dim=(1, 2))
    return -10 * error.clamp_min(1e-10).log10()


@dataclass(frozen=True)
class Rbqe(ExitMethod):
    """A nested decoder that stops when its picture looks good."""

    source: str = "photographs"  # which photographs (`methods/data/photographs.py`); the paper: RAISE
    qualities: tuple[int, ...] = (50, 40, 30, 20, 10)  # of JPEG, as in the paper
    exits: int = 3  # K; the paper: 5
    weights: tuple[tuple[float, ...], ...] = LATER  # w_{d,k}, spread evenly over qualities and exits; later code: same
    evened: bool = True  # whether errors count as shares of what the quality's pictures came with; the later code: no
    channels: int = 12  # C; the paper: 32
    block: int = 8  # B; the paper: 8 for JPEG, 4 for HEVC
    side: int = 32  # of a piece in training, in pixels; the authors' later code: 128
    seen_side: int = 64  # of a piece for validation and tests, in pixels; the paper: 512
    train_size: int = 1200  # places in photographs, each at all qualities; the paper's are not known
    epochs: float = 3.0  # not known
    batch: int = 8  # not known
    rate: float = 5e-3  # learning rate of Adam; the authors' later code: 1e-4

    data: ClassVar[tuple[str, ...]] = ("photographs", "more-photographs")
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 2.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "weights by quality": {}, "equal weights": {"weights": ((1.0,),)},
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        "source": "china", "qualities": (10, 5), "channels": 8, "side": 16, "seen_side": 32, "train_size": 200,
        "epochs": 3.0, "batch": 8, "rate": 1e-2,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "qualities": (50, 30, 10), "channels": 8, "train_size": 100, "epochs": 2.6, "rate": 1e-2,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {
        "exits": 5, "channels": 32, "side": 64, "seen_side": 128, "train_size": 2400, "epochs": 8.0, "rate": 1e-3,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        "source": "flower", "qualities": (50, 20), "weights": ((1.0,),), "side": 32, "seen_side": 64, "block": 4,
    }  # fmt: skip

    @property
    def quality(self) -> str:
        """Pictures are measured, not answers counted."""
        return "PSNR in dB"

    def load(self) -> Data:
        """Compressed pieces ``[1, H, W]``, the clean ones ``[H, W]`` as targets, and the number of each quality."""
        if not all(self.weights) or len({len(row) for row in self.weights}) != 1:
            raise ValueError("weights are rows of numbers, as many in each")
        sides = {"side": self.side, "test_side": self.seen_side}
        found = photographs.compressed(self.source, self.qualities, train=self.train_size, **sides)
        seen = {"train": found.train, "validation": found.validation, "test": found.test}
        pieces = {
            name: Examples([torch.as_tensor(x)[None] for x in part.compressed], torch.as_tensor(part.clean))
            for name, part in seen.items()
        }
        levels = {
            f"{name} levels": Examples(pieces[name].inputs, torch.as_tensor(seen[name].levels))
            for name in ("train", "test")
        }
        return Data(**pieces, classes=None, digest=found.digest, more=levels)

    def build(self, data: Data, seed: int) -> MultiExit:
        """One stage and one head for each exit."""
        torch.manual_seed(seed)
        exits = self.exits
        if exits < 1:
            raise ValueError(f"there is at least one exit, not {exits}")
        if any(side % 2**exits for side in (self.side, self.seen_side)):
            sides = f"{self.side} and {self.seen_side}"
            raise ValueError(f"sides that are halved {exits} times are multiples of {2**exits}, not {sides}")
        columns = [Column(self.channels, k, last=k == exits) for k in range(1, exits + 1)]
        heads = [Enhanced(self.channels, self.block, last=k == exits) for k in range(1, exits + 1)]
        return started(MultiExit(columns, heads))

    def w(self) -> Tensor:
        """Return w ``[qualities, exits]``: of the given rows and columns the first, the last, and evenly between."""
        given = torch.tensor(self.weights, dtype=torch.float32)
        sizes = zip(given.shape, (len(self.qualities), self.exits), strict=True)
        rows, columns = (np.rint(np.linspace(0, there - 1, wanted)).astype(int) for there, wanted in sizes)
        return given[rows][:, columns]

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """All exits together, each quality with its own weights."""
        w, levels = self.w(), data.part("train levels").targets
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}

        if self.evened:
            came = torch.stack([x[0] for x in data.train.inputs])
            errors = ((came - data.train.targets) ** 2).mean(dim=(1, 2))
            of_level = torch.stack([errors[levels == level].mean() for level in range(len(w))])
            w = w * (of_level.mean() / of_level)[:, None]

        def loss(batch: Batch) -> Tensor:
            errors = ((said(model(batch.inputs)) - batch.targets) ** 2).mean(dim=(2, 3))
            return (w[levels[batch.index]].T.to(errors.device) * errors).sum(dim=0).mean()

        def train() -> None:
            model.train()
            label = "training all decoders"
            fit(model.parameters(), data.train, loss, bench, label=label, optimiser=torch.optim.Adam, **options)

        settings = {"train": len(data.train), "weights": w.tolist(), **options}
        trained(model, train, bench, data=data.digest, settings=settings)
        model.eval()

    def policy(self, knob: float, prepared: Prepared) -> ScoreThreshold:
        """The knob is T: at least T is strictly above the number before it."""
        return ScoreThreshold(math.nextafter(knob, -math.inf))

    @property
    def score(self) -> Score:
        """Mean PSNR of pictures ``[N, H, W]``."""
        return Mean(psnr)

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """What the compressed pictures have as they came; the error is that of what the last exit adds."""
        seen = prepared.split("test")
        came = psnr(torch.stack([x[0] for x in seen.examples.inputs]), seen.targets)
        gain = psnr(seen.answers[-1], seen.targets) - came
        error = float(gain.std() / len(gain) ** 0.5)
        return Chance(what=f"{len(came)} pictures as they came", quality=float(came.mean()), error=error)
