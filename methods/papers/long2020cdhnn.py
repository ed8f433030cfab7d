"""Conditionally Deep Hybrid Neural Networks Across Edge and Cloud (Conditionally Deep Hybrid NN).

Idea
    The two sides of a cut need not compute with the same precision. The first blocks of a residual network are on the
    edge; their weights and activations have one bit or a few bits, and they have the exits. The blocks in the cloud
    keep full precision. Confident answers thus cost almost nothing, and the other inputs are processed at full
    precision.

Model
    A first convolution, residual blocks, then the mean over the map, batch normalisation and a linear layer.
    Edge block:  relu(s(x) + BN(conv_q(q_a(BN(relu(conv_q(q_a(BN(x)))))))))  with s the shortcut.  Cloud block: the
    usual one. Full precision have the first convolution, 1×1 shortcuts, the cloud, and all exits: means over 3×3
    places, then a linear layer.
    Weights W of a convolution on the edge:  W <- clamp(W - mean_in(W), -1, 1),  the master copy, before each step;
    alpha = mean |W| over a filter.  One bit: W_q = alpha sign(W).  b bits: W_q = alpha Q(W) with
    Q(u) = 2 (round((u + 1) / 2 · (2^b - 1)) / (2^b - 1) - 1/2).
    Activations: q_a(a) = sign(a), or Q(a), which is not clamped. sign(0) = 0.

Training
    Joint: L = sum_{k<N} w_k CE_k + (1 - sum_{k<N} w_k) CE_N. Two stages: the network with the last exit alone; it is
    frozen, and the early exits learn by their own losses, unweighted.
    The gradient of q_a passes where |a| < 1; that of the master copy is, for g with respect to W_q,
    (alpha 1[|W| <= 1] g + sign(W) mean_filter(sign(W) g)) (1 - 1/n_in) n  with n weights in a filter, n_in its inputs.

Exit rule
    H_k = -sum_c p_k[c] ln p_k[c].  Leave at the first exit k of the edge with H_k < T, strictly; else the map is sent
    to the cloud, which answers. The knob is T: 0 leaves nowhere, above ln C at the first exit.

Skipped
    For images that leave on the edge: the later blocks there, the transmission, and the cloud part. The cost is
    modelled energy of computing, not measured:  e(32) for a multiply-accumulate of full precision, and e(b) = e(32)
    b/32 for one of b bits; transmission is not part of it, as in the paper's figures. The full model is the same
    network without exits.

Trained otherwise
    "two stages": besides the epochs that all rows have, which train the network, the exits are trained for as many more
    on its frozen states.

Deviations
    1. Only the abstract and figures of the paper were read; architecture, quantisers, gradient, loss and rule are those
       of the released code, in which, as committed, no weight is quantised until a range is set by hand.
    2. A residual network of six blocks of 128 and 256 channels, four of them on the edge, exits after two and four, on
       cluttered Fashion-MNIST, instead of ResNet-32 of 16 to 64 channels on CIFAR-10 and CIFAR-100, of which the
       committed code has 8 of 15 blocks on the edge and one exit at the cut. Activations there have one bit; whether
       they had in the paper with weights of four bits is not known. Here they have as many bits as the weights.
    3. The energy table of the paper was not found. That energy is proportional to bits is assumed; e(32) is that of a
       multiplication and an addition in 45 nm from a frequently cited table.
    4. AdamW, whose learning rate rises and then falls to 0, with gradients clipped at norm 1, for 2 epochs in batches
       of 32, instead of SGD for 150 in batches of 128.
    5. Trained weights are quantised once, without the re-centring that the code does for each test.
    6. The threshold is a knob. The repository's choice of a threshold, by two fitted distributions of entropies, may
       belong to a later paper and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eelit.methods.backbones.half_precision import LearnsInHalf
from eelit.methods.backbones.internal_classifier import Shape
from eelit.methods.backbones.normalisation import convolution, stem
from eelit.methods.backbones.resnet import BasicBlock
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Baseline, OperatingPoint, Simulation
from eelit.methods.engine.weights import trained
from eelit.methods.families.images import ImageMethod
from eelit.methods.families.tiers import FixedCutMethod, Plan, Prepared
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses, weighted
from eelit.methods.recipes.two_stage import train_parts
from eelit.methods.world.machines import Computer, Link
from eelit.methods.world.shown import SECONDS
from eelit.methods.world.stream import Always, Journey, World
from eelit.methods.world.traces import steady

WHOLE = 32
"""Bits of full precision, with which nothing is quantised."""
PICO = 1e-12
MICRO = 1e-6


def grid(u: Tensor, bits: int) -> Tensor:
    """Return Q(u): of 2^bits equal steps from -1 to 1 the nearest, and further ones beyond."""
    top = 2**bits - 1
    return 2 * (((u + 1) / 2 * top).round() / top - 0.5)


def master(w: Tensor) -> Tensor:
    """Return a weight ``[out, in, h, w]`` centred over its inputs, within [-1, 1]."""
    return (w - w.mean(dim=1, keepdim=True)).clamp(-1, 1)


def quantised(w: Tensor, bits: int) -> Tensor:
    """Return W_q of a master copy."""
    alpha = w.abs().mean(dim=(1, 2, 3), keepdim=True)
    return alpha * (w.sign() if bits == 1 else grid(w, bits))


class FewBits(torch.autograd.Function):
    """W_q, with the gradient of the master copy."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, bits: int) -> Tensor:
        """Return W_q, the weights quantised to ``bits``, and keep the master copy for the gradient."""
        ctx.save_for_backward(w)
        return quantised(w, bits)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        """Return the gradient, by both ways on which W has its effect: itself, and alpha."""
        (w,) = ctx.saved_tensors
        alpha, sign = w.abs().mean(dim=(1, 2, 3), keepdim=True), w.sign()
        own = alpha * (w.abs() <= 1) * g + sign * (sign * g).mean(dim=(1, 2, 3), keepdim=True)
        return own * (1 - 1 / w.shape[1]) * w[0].numel(), None


class Active(torch.autograd.Function):
    """q_a, with a gradient that passes where |a| < 1."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, bits: int) -> Tensor:
        """Return activations q_a(a) quantised to ``bits``; 1 bit is the sign."""
        ctx.save_for_backward(a)
        return a.sign() if bits == 1 else grid(a, bits)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        """Let it pass where q_a is near its steps."""
        (a,) = ctx.saved_tensors
        return g * (a.abs() < 1), None


class EdgeConvolution(nn.Conv2d):
    """A 3×3 convolution with weights W_q of its master copy.

    Once it is ``fixed``, they are its weights, and its products are those of whole numbers: single precision sums these
    exactly, in whatever order, as long as a sum stays below 2^24.
    """

    steps: Tensor
    step: Tensor

    def __init__(self, inputs: int, outputs: int, stride: int, bits: int) -> None:
        super().__init__(inputs, outputs, 3, stride, padding=1)
        self.bits, self.fixed, self.top = bits, False, 2**bits - 1

    @torch.no_grad()
    def fix(self) -> None:
        """Quantise the weights for good."""
        alpha = self.weight.abs().mean(dim=(1, 2, 3), keepdim=True)
        self.weight.copy_(quantised(self.weight, self.bits))
        steps = (self.weight.double() / alpha.clamp_min(1e-30) * self.top).round()
        self.register_buffer("steps", steps.float(), persistent=False)
        self.register_buffer("step", alpha.double()[:, 0] / self.top**2, persistent=False)
        self.fixed = True

    def forward(self, x: Tensor) -> Tensor:
        """Convolve maps ``[N, C, H, W]`` of activations with W_q, or with the weights as they are if they are whole."""
        if self.fixed:
            sums = self._conv_forward((x * self.top).round().float(), self.steps.float(), None)
            assert self.bias is not None
            return sums.to(x.dtype) * self.step.to(x.dtype) + self.bias.to(x.dtype)[:, None, None]
        w = self.weight if self.bits == WHOLE else FewBits.apply(self.weight, self.bits)
        return self._conv_forward(x, w, self.bias)


class EdgeLayer(nn.Module):
    """Normalisation, q_a, and a convolution of few bits."""

    def __init__(self, inputs: int, outputs: int, stride: int, bits: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), EdgeConvolution(inputs, outputs, stride, bits)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]``."""
        a = self.norm(x)
        found: Tensor = self.conv(a if self.conv.bits == WHOLE else Active.apply(a, self.conv.bits))
        return found


class EdgeBlock(nn.Module):
    """A residual block of few bits; its shortcut has full precision."""

    def __init__(self, inputs: int, outputs: int, stride: int, bits: int) -> None:
        super().__init__()
        self.first, self.second = EdgeLayer(inputs, outputs, stride, bits), EdgeLayer(outputs, outputs, 1, bits)
        self.norm = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        found: Tensor = (self.shortcut(x) + self.norm(self.second(self.first(x).relu()))).relu()
        return found


class InDouble(nn.Module):
    """A stage that computes in double precision, all but its products of few bits, and hands on single precision.

    A quantiser turns the last bit of a sum, which may depend on how pictures are batched, into a whole step. What is
    left of such differences in double precision is far too small for that.
    """

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage.double()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` as the stage does."""
        found: Tensor = self.stage(x.double()).float()
        return found


def edge_convolutions(model: nn.Module) -> list[EdgeConvolution]:
    """Return all convolutions of few bits."""
    return [part for part in model.modules() if isinstance(part, EdgeConvolution) and part.bits != WHOLE]


@torch.no_grad()
def centre(model: nn.Module) -> None:
    """Make all weights of few bits master copies, as each step begins."""
    for part in edge_convolutions(model):
        part.weight.copy_(master(part.weight))


def train_hybrid(model: MultiExit, data: Data, bench: Bench, *, weights: Sequence[float], **options: Any) -> None:
    """Minimise L over everything, or the last loss over the plain network if no early one has a weight."""
    weights = [*weights, 1 - sum(weights)]
    alone = not any(weights[:-1])

    def loss(batch: Batch) -> Tensor:
        centre(model)
        if alone:
            return exit_losses(model.full(batch.inputs)[None], batch.targets)[0]
        return weighted(exit_losses(model(batch.inputs), batch.targets), weights)

    def train() -> None:
        model.train()
        learning = model.plain_network() if alone else model
        fit(learning.parameters(), data.train, loss, bench, label="training edge and cloud together", **options)
        centre(model)

    settings = {"weights": weights, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@torch.inference_mode()
def few_bit_macs(model: MultiExit, x: Tensor) -> list[float]:
    """Return the multiply-accumulates of few bits in each stage for one sample ``[1, ...]``."""
    spent: list[float] = []
    for number, stage in enumerate(model.stages):
        spent.append(0.0)
        handles = [
            part.register_forward_hook(
                lambda part, _, out, number=number: spent.__setitem__(
                    number, spent[number] + out[0, 0].numel() * part.weight.numel()
                )
            )
            for part in edge_convolutions(stage)
        ]
        x = stage(x)
        for handle in handles:
            handle.remove()
    return spent


@dataclass(frozen=True)
class Hybrid(Plan):
    """Where the network is cut, and what of it is computed with full precision if the first machine runs it."""

    exact: tuple[float, ...] = ()  # multiply-accumulates up to each exit, with the exits that are asked on the way


@dataclass(frozen=True)
class HybridNetwork(ImageMethod, FixedCutMethod):
    """Few bits on the edge, which owns the exits; full precision in the cloud."""

    bits: int = 1  # b, of weights and activations of edge blocks, 1 to 8, or 32; the paper: 1 and 4
    frozen: bool = False  # two stages; the repository has both
    edge: int = 4  # residual blocks of few bits; the committed code: 8 of 15
    exits: tuple[int, ...] = (2, 4)  # blocks before each early exit; the network is cut behind the last of them
    loss_weights: tuple[float, ...] = (0.3, 0.3)  # w_k; the run scripts for two exits: 0.3, 0.3 or 0.4, 0.3
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100
    train_size: int = 6000  # training images; the paper: 45,000
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution; the paper: 16, 32, 64
    blocks: int = 3  # residual blocks of each width; the paper: 5
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # the scripts: 150
    batch: int = 32  # the scripts: 128
    rate: float = 2e-3  # largest learning rate; the scripts: 0.1 of SGD
    head_epochs: float = 2.0  # of the second stage
    head_rate: float = 1e-3  # learning rate there
    mac: float = 4.6  # e(32), picojoules of a multiply-accumulate of full precision; assumed

    unit: ClassVar[str] = "µJ of computing by a model"
    knob: ClassVar[str] = "T"
    knobs: ClassVar[tuple[float, ...]] = (2.4, 1.8, 1.5, 1.2, 1.0, 0.8, 0.5, 0.4, 0.2, 0.1, 0.05, 0.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "one bit": {}, "four bits": {"bits": 4}, "two stages": {"frozen": True},
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        **{k: v for k, v in ImageMethod.tiny.items() if k != "shares"}, "train_size": 400, "widths": (16, 24),
        "blocks": 2, "edge": 3, "exits": (1, 3), "head_epochs": 4.0, "head_rate": 1e-2,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        **{k: v for k, v in ImageMethod.smoke.items() if k != "shares"}, "train_size": 1000, "widths": (16, 32),
        "blocks": 2, "edge": 3, "exits": (1, 3), "head_epochs": 3.0, "head_rate": 5e-3,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {"widths": (16, 16), "exits": (2, 3), "loss_weights": (0.1, 0.5)}

    def __post_init__(self) -> None:
        if self.bits not in (*range(1, 9), WHOLE):
            raise ValueError(f"weights have 1 to 8 bits, or {WHOLE}, not {self.bits}")
        count = len(self.widths) * self.blocks
        if not self.exits or not all(a < b for a, b in pairwise([0, *self.exits, count])):
            raise ValueError(
                f"exits stand after rising numbers of the {count} blocks, before the last, not {self.exits}"
            )
        if len(self.loss_weights) != len(self.exits) or min(self.loss_weights) < 0 or sum(self.loss_weights) >= 1:
            raise ValueError("each early exit has a weight of at least 0, and all together less than 1")

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network in stages, each but the last ending with an exit of the edge."""
        torch.manual_seed(seed)
        image, classes = data.train.inputs[0].shape, data.classes or 1
        units: list[nn.Module] = [stem(image[0], self.widths[0], self.pixels)]
        before = self.widths[0]
        for number in range(len(self.widths) * self.blocks):
            width = self.widths[number // self.blocks]
            stride = 2 if number and number % self.blocks == 0 else 1
            few = number < self.edge
            units.append(EdgeBlock(before, width, stride, self.bits) if few else BasicBlock(before, width, stride))
            before = width
        units = [LearnsInHalf(unit) for unit in units] if self.half else units
        bounds = [0, *(number + 1 for number in self.exits), len(units)]
        stages = [nn.Sequential(*units[a:b]).eval() for a, b in pairwise(bounds)]
        heads, x = [], torch.zeros(1, *image)
        with torch.no_grad():
            for stage in stages[:-1]:
                x = stage(x)
                heads.append(self.head(x.shape[1:], classes))
        pool = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(before)
        last = nn.Sequential(*pool, nn.Linear(before, classes))
        model = MultiExit(stages, [*heads, last]).eval()
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """An exit for maps ``[C, H, W]``: means over squares of 3×3 places, as long as there are so many."""
        side = min(3, *shape[1:])
        places = (shape[1] // side) * (shape[2] // side)
        return nn.Sequential(nn.AvgPool2d(side), nn.Flatten(), nn.Linear(shape[0] * places, classes))

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Together, or in two stages."""
        weights = [0.0] * len(self.exits) if self.frozen else self.loss_weights
        train_hybrid(model, data, bench, weights=weights, **self.options)
        if self.frozen:
            heads: dict[str, Any] = {"epochs": self.head_epochs, "batch": self.batch, "rate": self.head_rate}
            train_parts(model, model.heads[:-1].parameters(), data, bench, **heads)

    def deployed(self, model: MultiExit) -> MultiExit:
        """The network with its few bits as they stay, normalisation folded where a convolution is before it.

        Stages with few bits compute in double precision here: alone or in a batch, a picture gets the same answer.
        """
        found = super().deployed(model)
        for part in edge_convolutions(found):
            part.fix()
        for number, stage in enumerate(found.stages):
            if edge_convolutions(stage):
                found.stages[number] = InDouble(stage)
        return found

    def policy(self, knob: float, prepared: Any) -> Entropy:
        """The knob is T, in nats."""
        return Entropy(knob)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Behind the last exit of the edge."""
        return (len(self.exits),)

    def world(self, split: Split, seed: int) -> World:
        """An edge and a cloud, whose speeds have no say in the cost."""
        return World((Computer(steady(2e9)), Computer(steady(1e11))), (Link(steady(8e6), 0.04),))

    def came(self, samples: int) -> list[float]:
        """Return the seconds at which pictures arrive: four a second."""
        return [sample / 4 for sample in range(samples)]

    def scheduler(self, prepared: Prepared, world: World, knob: float | None, exit_: int = -1) -> Always:
        """The cut is the same for all pictures."""
        return Always(self.divided(prepared, self.cuts, knob, exit_))

    def divided(self, prepared: Prepared, cuts: tuple[int, ...], knob: float | None, exit_: int) -> Hybrid:
        """Return the plan for some cuts, with what is computed with full precision on the way to each exit."""
        seen = prepared.split("validation")
        x = seen.examples.inputs[0][None].to(next(prepared.model.parameters()).device)
        stages, heads = seen.stages[:, 0], seen.heads[:, 0]
        exact = list(accumulate(a - b for a, b in zip(stages.tolist(), few_bit_macs(prepared.model, x), strict=True)))
        if knob is not None:
            asked = list(accumulate(heads.tolist()))
        else:
            asked = [float(head) * (i == exit_ % len(heads)) for i, head in enumerate(heads)]
        return Hybrid(cuts, knob, exit_, exact=tuple(a + b for a, b in zip(exact, asked, strict=True)))

    def price(self, journey: Journey) -> float:
        """Microjoules of computing on both sides; the cloud does everything with full precision."""
        plan: Hybrid = journey.plan
        last = min(journey.exit, plan.cuts[0] - 1)  # the last stage that the edge has run
        exact = plan.exact[last] if last >= 0 else 0.0
        whole, few = exact + sum(journey.macs[1:]), journey.macs[0] - exact
        return (whole + few * self.bits / WHOLE) * self.mac * PICO / MICRO

    def simulation(self, prepared: Prepared, bench: Bench) -> Simulation:
        """Return what a joule depends on: neither speeds nor bandwidth."""
        return Simulation(
            seconds=SECONDS,
            rates=[],
            constants=[
                f"a MAC of full precision: {self.mac:g} pJ",
                f"a MAC of {self.bits} bits: {self.mac * self.bits / WHOLE:.3g} pJ, assumed in proportion to bits",
                "sending costs nothing, and neither speeds nor bandwidth have a say in the cost",
            ],
        )

    def whole(self, prepared: Prepared, name: str, machine: int) -> Baseline:
        """Return a plain network as a whole: on the edge this one, in the cloud that of full precision, trained alike.

        A cloud that multiplies with full precision would gain nothing from weights of few bits but their errors.
        """
        if not machine or self.bits == WHOLE:
            return super().whole(prepared, name, machine)
        exact = self.replace({"bits": WHOLE})
        found = exact.whole(exact.prepare(prepared.bench), f"{name}, full precision", machine)
        return Baseline(
            name=found.name,
            validation=[beside(point, prepared.plain("validation")) for point in found.validation],
            test=[beside(point, prepared.plain("test")) for point in found.test],
        )

    def alone(self, prepared: Prepared, split: Split, machine: int) -> OperatingPoint:
        """Return the plain network as a whole on one machine; the knob is its number, from 1."""
        plan = self.divided(prepared, (prepared.model.exits * (not machine),), None, -1)
        journeys = self.simulated(prepared, split, None, only=Always(plan))
        return self.point(prepared, split, journeys, machine + 1)


def beside(point: OperatingPoint, full: float) -> OperatingPoint:
    """Return what another network reaches beside a full model of this price."""
    return point.model_copy(update={"speed_up": full / point.cost})
