"""CoAxNN: Optimizing on-device deep learning with conditional approximate neural networks (CoAxNN).

Idea
    Exits save computation on easy inputs, filter pruning on all inputs; but a pruned backbone makes worse exits, and a
    threshold that fits one network does not fit another. So the two must be set together. A chromosome holds, for each
    place, whether there is an exit and its threshold, and one pruning rate for the whole network; a genetic algorithm
    searches for the best trade-offs of accuracy and latency. The exits' outputs are stored once for each network, so a
    chromosome is judged without running anything. Each pruning rate costs one training.

Model
    Stage i < tau: the network up to the end of a residual block and a branch there, pooling and a linear layer, with
    output y_i. Stage tau: the whole network.

Training
    For each pruning rate r a network of its own, from scratch, all stages together:
    L = sum_i lambda_i CE(y, y_i) / sum_i lambda_i, lambda_i = 1  (Eq. 5 and Algorithm 1).
    After each epoch the floor(t r) filters of a convolution of t whose l2 norm ||F|| (Eq. 4) is least are set to zero.
    They are still trained and may become non-zero again until the next epoch ends. Those that are zero at the end are
    removed. The search: a chromosome has 2 (tau - 1) + 1 genes, for each i < tau whether stage i is available and which
    of Q values eps_i has, and which of R values the pruning rate has. It is judged on held-out images by accuracy and
    mean cost, of the network up to the exit and of the branches visited. NSGA-II searches for those that no other
    dominates.

Exit rule
    e_i = - sum_c y_i(c) ln y_i(c)  (Eq. 3). Leave at the first available stage i < tau with e_i < eps_i (strictly);
    stage tau answers the others. The knob is a share of the full model's cost: of the designs on the front that cost no
    more on the held-out images, the most accurate is taken.

Skipped
    All blocks and branches after the exit and, for every image, the removed filters. Branches that are not available
    are removed from the network.

Trained otherwise
    There is one network for each pruning rate, trained as long as the network of any other row: three trainings, since
    how much to prune is part of what is searched.

Deviations
    1. A text copied from the paper's pages was read, in which some formulas are broken. Eq. 3 is printed without its
       minus sign. The search's operators, population and generations are not given, nor the values that thresholds may
       have.
    2. NSGA-II instead of NSGA-III, which was made for more objectives than two.
    3. A small residual network with five places for exits on cluttered Fashion-MNIST, 6,000 images, 2 epochs, instead
       of ResNet-20 to ResNet-110 on CIFAR and CINIC-10: what two cores can train in minutes. Rates are 0, 0.15 and 0.3,
       for each takes a training; the paper does not list its own, of which 0 to 0.3 were chosen.
    4. Exits may be placed after every block; the paper attaches them after groups of blocks, two or three in its
       networks, so its space is smaller. A branch is pooling and a linear layer; the paper's extracts features before
       them, by building blocks of convolution, normalisation and ReLU.
    5. All stages learn together, once for each rate; in Algorithm 1 each chromosome has its own training, with only its
       own branches.
    6. In the last third of the training filters that are zero stay so: they are set to zero after each step, and do
       not learn. Two epochs have one end before the last, so only once, after 188 of 376 steps, are filters set to zero
       that may come back. What grows back in an epoch would be missed if it were removed at the very end.
    7. Chromosomes are judged on validation images; the paper judges them on its test images (Algorithm 2).
    8. Latency is counted in multiply-accumulates, not measured on a Jetson board.
    9. For a filter that stays zero the shift of its normalisation is set to zero as well, so its map is zero and its
       removal changes nothing. Neither has a gradient any more: that of a map without variance is hundreds of times
       longer than all others, which would be clipped to next to nothing. The sum of block and shortcut keeps its width,
       with zeros where a filter is missing. Projections of shortcuts are not pruned, as in soft filter pruning (He et
       al., 2018), and branches have no filters.
    10. A budget of the full model's cost is no limit: the network with rate 0 answers, without exits. It was trained
       with exits, and all costs are relative to its cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.search import Space
from eelit.methods.engine.weights import trained
from eelit.methods.families.designs import Design, DesignMethod, without_idle
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


def joint_loss(outputs: Tensor, targets: Tensor, lam: Sequence[float]) -> Tensor:
    """Return ``sum_i lambda_i CE_i / sum_i lambda_i`` of the logits ``[tau, N, C]`` of all stages."""
    weights = torch.tensor(lam, device=outputs.device)
    return (weights * exit_losses(outputs, targets)).sum() / weights.sum()


def filters(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yield the convolutions whose filters are pruned, all but projections, and the normalisation behind each."""
    for part in model.modules():
        for conv, norm in pairwise(part) if isinstance(part, nn.Sequential) else ():
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and conv.kernel_size != (1, 1):
                yield conv, norm


@torch.no_grad()
def zero_filters(model: nn.Module, r: float, *, for_good: bool) -> None:
    """Set the ``floor(t r)`` filters of least norm to zero, in each convolution of ``t`` filters.

    For good, what normalisation adds to their maps is set to zero, too: so these are zero, now and afterwards.
    """
    for conv, norm in filters(model):
        t = len(conv.weight)
        least = conv.weight.flatten(1).norm(dim=1).argsort(stable=True)[: math.floor(t * r + 1e-9)]
        for tensor in (conv.weight, norm.bias, norm.running_mean) if for_good else (conv.weight,):
            tensor[least] = 0.0  # type: ignore[index]


def spared(model: nn.Module) -> list[RemovableHandle]:
    """Let filters that are zero have no gradient from now on, nor what normalisation adds to their maps.

    A map without variance is normalised by ``1 / sqrt(1e-5)``, and so is its gradient: a few such filters behind a
    block would have nearly all of the gradient's norm, and clipping would leave next to nothing for the others.
    """

    def left(conv: nn.Conv2d, slope: Tensor) -> Tensor:
        stays = conv.weight.detach().flatten(1).any(dim=1)
        return slope * stays.reshape(-1, *[1] * (slope.dim() - 1))

    pairs = [(conv, parameter) for conv, norm in filters(model) for parameter in (conv.weight, norm.bias)]
    return [parameter.register_hook(partial(left, conv)) for conv, parameter in pairs]


def train_pruned(
    model: MultiExit,
    data: Data,
    bench: Bench,
    *,
    r: float,
    settled: float,
    lam: Sequence[float],
    **options: Any,
) -> None:
    """Minimise L over everything, at pruning rate ``r``; ``options`` are those of `fit`.

    After each epoch filters are set to zero; in the share ``settled`` at the end after each step, for good: then those
    that are zero do not learn.
    """
    epoch = math.ceil(len(data.train) / options["batch"])
    hooks: list[RemovableHandle] = []

    def loss(batch: Batch) -> Tensor:
        is_settled = batch.done >= 1 - settled - 1e-9  # a third and two thirds are not quite 1
        if is_settled and not hooks:
            hooks.extend(spared(model))
        if is_settled or (batch.step and batch.step % epoch == 0):
            zero_filters(model, r, for_good=is_settled)
        return joint_loss(model(batch.inputs), batch.targets, lam)

    def train() -> None:
        model.train()
        fit(model.parameters(), data.train, loss, bench, label=f"training all stages at pruning rate {r:g}", **options)
        while hooks:
            hooks.pop().remove()
        zero_filters(model, r, for_good=True)

    settings = {"r": r, "settled": settled, "lam": list(lam), "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


class Spread(nn.Module):
    """Maps ``[N, k, H, W]`` of the filters that are left, as ``[N, width, H, W]`` with zeros for the others."""

    def __init__(self, left: Tensor, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("left", left)

    def forward(self, x: Tensor) -> Tensor:
        """Put each map in its place."""
        wide = x.new_zeros(len(x), self.width, *x.shape[2:]).to(memory_format=torch.channels_last)
        return wide.index_copy(1, self.get_buffer("left"), x)


def left_of(conv: nn.Conv2d) -> Tensor:
    """Return the numbers of the filters that are not zero."""
    return conv.weight.flatten(1).any(dim=1).nonzero().flatten()


def zeros(conv: nn.Conv2d) -> bool:
    """Whether some filter is zero."""
    return len(left_of(conv)) < len(conv.weight)


@torch.no_grad()
def thinned(conv: nn.Conv2d, outputs: Tensor, inputs: Tensor | None = None) -> nn.Conv2d:
    """Return the convolution with these filters alone, reading these maps alone (all if None)."""
    weight = conv.weight[outputs] if inputs is None else conv.weight[outputs][:, inputs]
    k, c = weight.shape[:2]
    found = nn.Conv2d(c, k, conv.kernel_size, conv.stride, conv.padding)  # type: ignore[arg-type]
    found.weight.copy_(weight)
    found.bias.copy_(conv.bias[outputs])  # type: ignore[union-attr, index]
    return found


def spread(conv: nn.Conv2d, inputs: Tensor | None = None) -> nn.Sequential:
    """Return the convolution without its filters that are zero, whose maps stand in their places again behind it."""
    left = left_of(conv)
    return nn.Sequential(thinned(conv, left, inputs), Spread(left, len(conv.weight)))


def without_zeros(model: MultiExit) -> MultiExit:
    """Remove filters that are zero from a network whose normalisation is folded into its convolutions, in place.

    The second convolution of a block does not read the maps that the first has no more.
    """
    for part in list(model.modules()):
        match list(part) if isinstance(part, nn.Sequential) else []:
            case [nn.Conv2d() as one, nn.ReLU(), nn.Conv2d() as two] if zeros(one) or zeros(two):
                part[0], part[2] = thinned(one, left_of(one)), spread(two, left_of(one))  # type: ignore[operator]
            case [nn.Conv2d() as stem, nn.ReLU()] if zeros(stem):
                part[0] = spread(stem)  # type: ignore[operator]
    return model.eval()


@dataclass(frozen=True)
class CoAxNN(DesignMethod):
    """Exits, their thresholds and a pruning rate, found together."""

    network: str = "resnet"  # residual; the paper: ResNet-18 to ResNet-110
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100, CINIC-10
    train_size: int = 6000  # training images; the paper: 50,000 of CIFAR
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution; the paper's ResNet-56: 16, 32, 64
    blocks: int = 3  # residual blocks of each width; the paper's ResNet-56: 9
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where exits may be: after every block
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # of each training; the paper: those of ResNet
    batch: int = 32  # the same holds of it
    rate: float = 2e-3  # learning rate of AdamW; the paper: as ResNet, by SGD
    lam: float = 1.0  # lambda_i of the early stages beside 1 of the last; the paper: 1
    rates: tuple[float, ...] = (0.0, 0.15, 0.3)  # R pruning rates, the first of which is 0; the paper chose 0 to 0.3
    settled: float = 1 / 3  # share of the training, at the end, in which zero filters stay so; the paper: none
    levels: tuple[float, ...] = (
        0.02,
        0.05,
        0.1,
        0.2,
        0.3,
        0.4,
        0.55,
        0.7,
        0.9,
        1.2,
        1.6,
        2.4,
    )  # Q values of eps, rising
    population: int = 24  # chromosomes of a generation; the paper's are not given
    generations: int = 20  # of the search, the first one included; the same holds of them

    knob: ClassVar[str] = "budget"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0)
    tiny: ClassVar[Mapping[str, Any]] = {
        **DesignMethod.tiny, "widths": (1, 8, 24), "shares": (0.05, 0.4), "rates": (0.0, 0.25),
        "population": 12, "generations": 8,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        **DesignMethod.others, "shares": (0.01, 0.4), "levels": (0.1, 0.7, 2.4), "rates": (0.0, 0.5),
    }  # fmt: skip
    searched: ClassVar[str] = "which exits are there, the threshold of each, and the pruning rate of the network"
    never: ClassVar[float] = 0.0

    def build(self, data: Data, seed: int) -> MultiExit:
        """The residual network; filters of others cannot be removed here."""
        if self.network != "resnet":
            raise ValueError(f"filters are removed from residual blocks; {self.network} has none")
        return super().build(data, seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the network that is not pruned."""
        self.train_at(self.rates[0], model, data, bench)

    def train_at(self, r: float, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train all stages together at a pruning rate."""
        lam = (*(self.lam,) * (model.exits - 1), 1.0)
        train_pruned(model, data, bench, r=r, settled=self.settled, lam=lam, **self.options)

    def further(self, data: Data, bench: Bench) -> list[MultiExit]:
        """Train a network from scratch for each of the other rates."""
        models = [self.build(data, bench.seed) for _ in self.rates[1:]]
        for r, model in zip(self.rates[1:], models, strict=True):
            self.train_at(r, model, data, bench)
        return [self.deployed(model) for model in models]

    def deployed(self, model: MultiExit) -> MultiExit:
        """The network without the filters that are zero, its normalisation folded."""
        return without_zeros(super().deployed(model)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def space(self, exits: int) -> Space:
        """Availability bits, numbers of thresholds, and that of the rate; both ends of the front are known."""
        early = exits - 1
        nothing = (0,) * (2 * early + 1)
        first = (1, *(0,) * (early - 1), *(len(self.levels) - 1,) * early, len(self.rates) - 1)
        values = (2,) * early + (len(self.levels),) * early + (len(self.rates),)
        return Space(values, (nothing, first), partial(without_idle, early=early))

    def design(self, genes: Sequence[int], exits: int) -> Design:
        """Read availability, thresholds and rate from a chromosome."""
        early = exits - 1
        available = tuple(bit == 1 for bit in genes[:early])
        return Design(available, tuple(self.levels[i] for i in genes[early : 2 * early]), genes[-1])

    def stop(self, thresholds: Sequence[float]) -> Entropy:
        """The entropy must lie below the exit's threshold."""
        return Entropy(tuple(thresholds) or self.never)

    def told(self, design: Design) -> str:
        """Name the exits, from 1, with their thresholds, and the pruning rate."""
        pairs = zip(design.kept, design.thresholds, strict=True)
        kept = [f"exit {i} below {eps:g}" for i, (stays, eps) in enumerate(pairs, 1) if stays]
        return f"{', '.join(kept) or 'no exit'}, pruning rate {self.rates[design.network]:g}"
