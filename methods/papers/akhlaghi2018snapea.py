"""SnaPEA: Predictive Early Activation for Reducing Computation in Deep Convolutional Neural Networks (SnaPEA).

Idea
    A ReLU turns every negative sum into 0, so the size of a negative sum is computed for nothing. The inputs that a
    ReLU passes to the next convolution are not negative; if the negative weights come last, a running sum that has
    fallen below 0 can only fall further, and the output must be 0. Speculative mode decides earlier: if a few chosen
    weights already give a small sum, the output is taken as 0. What stops is one dot product, never the network.

Model
    One output of a convolution: o = max(0, b + sum_j w_j x_j) over a window x >= 0 of m inputs. Each kernel has its own
    order of weights, given by an index buffer: first N speculation weights, then the other weights >= 0, then those <
    0, each part by falling magnitude. N speculation weights: all weights are sorted by magnitude and cut into N groups
    of neighbours, and the largest of each group is taken. s_j is the running sum after j products, s_0 = b. A plain
    network of convolutions, each followed by a ReLU. The first convolution reads images, which have entries below 0,
    and the last layer has no ReLU, so in these two layers nothing stops.

Training
    None of its own: the network learns by cross-entropy. Then, on held-out images, for each kernel a pair (Th, N):
    1. Kernels: each N and each q of two grids is a candidate, with Th the q-quantile of s_N over windows whose output
       is 0. It has a number of products, and an error: the share of the squared outputs that it sets to 0.
    2. Layers: for each limit of a falling list, a set holds the cheapest candidate of each kernel whose error is within
       the limit; exact mode, error 0, ends the list. Each set has a number of products, and the accuracy of the network
       when only this layer uses the set.
    3. Network: all layers begin with their first set, the loosest; the layer with the best merit, accuracy regained per
       product added, moves to its next set, until all are in exact mode. For a budget eps, the first state on this path
       that loses at most eps is taken.

Exit rule
    Speculation: stop after N products if s_N <= Th; the output is 0. Sign check, from the first remaining negative
    weight on: stop after j products if s_j < 0 (strictly); the output is 0. Else the output is max(0, s_m). The knob is
    eps: at infinity every Th is infinite with N = 1, at 0 all is in exact mode, below 0 nothing ever stops. Exact mode
    gives, bit for bit, the same result as the same sums without stopping. This holds by construction: both round
    products and sums one by one, in the list's order; and as rounding is monotone, s + t <= s for t <= 0, so a sum
    below 0 stays there. A library's convolution adds in another order, and so differs in the last bits. A window with
    an input that is not finite never stops.

Skipped
    The remaining products of one output value when its sum stops. No layer is skipped.

Trained otherwise
    In batches of 64 at a rate of 1e-2, so in half of the steps: on validation images these were best of a few settings.

Deviations
    1. The full text could not be read. The order of the weights, the sign check, Th and N of each kernel and the data
       loaded into the processing element are from reading notes and two of the paper's figures. The division into
       groups, the three passes, the tie at Th, and the meaning of the start index (here: where the sign check begins)
       are reconstructed; so is the grid of Th by quantiles. In the figure the one speculation weight is not the largest
       of its kernel.
    2. Pass 1 judges a kernel by the outputs that it loses. Judging it by the accuracy of the network with only this
       kernel speculating would take a run of the network for each candidate of each kernel. One list of limits serves
       passes 1 and 2.
    3. Fashion-MNIST and a small plain network instead of trained AlexNet, GoogLeNet, SqueezeNet and VGGNet on
       ImageNet. It learns from 50,000 images by AdamW for six epochs; in one trial it was no better after ten (0.9105
       instead of 0.9100 of all 2,000 validation images; the network of the kept run has 0.9090 of them, and 0.9040 of
       the half by which the budget is judged). Single precision instead of the circuit's numbers.
    4. Cost is the number of products, counted one by one. The paper's times and energies come from a simulated
       accelerator, whose lanes stop one by one. The measured seconds are those of an emulation, which gathers for each
       place in the lists the sums that are left and computes each product by itself, so that it can be counted: they
       say little of what a program for this processor could do, and nothing of the accelerator.
    5. Thresholds are fitted on half of the validation images, and the budget is judged on the others.
    6. The claim about pruned networks is tried with the weights of least magnitude of each kernel left out, as many in
       each, and without any further training; how the paper's networks were pruned could not be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.metrics import accuracy
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Baseline, OperatingPoint
from eelit.methods.engine.timing import BATCH
from eelit.methods.families.dot_products import (
    Convolutions,
    DotProductMethod,
    Kernels,
    Layer,
    Prepared,
    Sums,
    windows,
)
from eelit.methods.policies.base import exact
from eelit.methods.recipes.plain import train_plain


class PlainConvolutions(Convolutions):
    """3×3 convolutions, each with a ReLU behind it: the first takes steps of ``pixels``; then ``blocks`` of each width.

    Between widths the maximum of 2×2 places is taken. The mean over all places goes to a linear layer.
    """

    def __init__(self, channels: int, classes: int, widths: Sequence[int], blocks: int, pixels: int) -> None:
        super().__init__()
        before, convs = widths[0], [nn.Conv2d(channels, widths[0], 3, pixels, 1)]
        for width in widths:
            for _ in range(blocks):
                convs.append(nn.Conv2d(before, width, 3, 1, 1))
                before = width
        self.convs = nn.ModuleList(convs)
        self.pooled = tuple(1 + blocks * i for i in range(1, len(widths)))
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor, run: Layer | None = None) -> Tensor:
        """Return the answer ``[n, classes]``; ``run`` computes the convolutions with their ReLU, in place of torch."""
        for i, conv in enumerate(self.convs):
            x = F.max_pool2d(x, 2, ceil_mode=True) if i in self.pooled else x
            x = run(i, x) if run else torch.relu(conv(x))
        answer: Tensor = self.head(x.mean(dim=(2, 3)))
        return answer


class Choice(NamedTuple):
    """The parameters of each kernel of a layer: N ``[K]``, 0 in exact mode, and Th ``[K]``."""

    N: Tensor
    Th: Tensor

    @classmethod
    def of(cls, kernels: int, N: int = 0, Th: float = -math.inf) -> Choice:
        """Return the same for all kernels; without arguments, exact mode."""
        return cls(torch.full((kernels,), N), torch.full((kernels,), Th, dtype=torch.float64))


def speculated(w: Tensor, N: int, *, spread: bool = True) -> Tensor:
    """Return the places of N speculation weights among ``w [m]``: the largest of N groups, or the N largest."""
    falling = w.abs().argsort(descending=True, stable=True)
    return torch.stack([group[0] for group in falling.tensor_split(N)]) if spread and N else falling[:N]


def in_order(w: Tensor, first: Tensor) -> tuple[Tensor, int]:
    """Return the places of the weights ``w [m]`` as they are read, and how many come before the sign check.

    Those in ``first`` come first; the others by sign, then by falling magnitude.
    """
    falling = w.abs().argsort(descending=True, stable=True)
    rest = falling[~torch.isin(falling, first)]
    negative = w[rest] < 0
    return torch.cat([first, rest[~negative], rest[negative]]), len(first) + int((~negative).sum())


@dataclass(frozen=True)
class Sorted(Kernels):
    """The kernels of a layer as they are read: products with ``weight [K, m]``, of the inputs that ``index`` names.

    ``start [K]`` products are added before the first remaining negative weight, where the sign check begins.
    """

    index: Tensor
    weight: Tensor
    bias: Tensor
    choice: Choice
    start: Tensor

    @property
    def m(self) -> int:
        """Weights of each kernel."""
        return self.index.shape[1]

    @property
    def may_stop(self) -> bool:
        """Whether there is a speculation, or a weight with a sign check, in any kernel."""
        return bool((self.start < self.m).any() or self.choice.N.any())

    def predicted(self, s: Tensor, kernel: Tensor) -> Tensor:
        """Return which sums ``s_N [n]`` of the ``kernel [n]`` are taken for negative."""
        return s.isfinite() & (exact(s) <= self.choice.Th[kernel])

    def checked(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return all sums ``s_m``, the products until the sign check ends them, and ``s_N`` (0 where N = 0)."""
        K, W = len(self.index), x.shape[1]
        s, s_N, sound = self.bias[:, None].repeat(1, W), x.new_zeros(K, W), x.isfinite().all(dim=0)
        first = int(self.start.min())  # before which no sum stops
        going, macs = torch.ones(K, W, dtype=torch.bool), torch.full((K, W), first, dtype=torch.int32)
        for j in range(self.m):
            if j >= first:
                macs += going
            s += x[self.index[:, j]] * self.weight[:, j, None]
            now, signs = self.choice.N.eq(j + 1), self.start <= j
            if now.any():
                s_N[now] = s[now]
            if signs.any():
                going &= ~((s < 0) & sound & signs[:, None])
        return s, macs, s_N

    def check_inputs(self, x: Tensor) -> None:
        """Raise `ValueError` if a sum that may stop reads an input below 0: it could rise again."""
        if self.may_stop and bool((x < 0).any()):
            raise ValueError("a convolution that may stop reads an input below 0: no sum of it can be known early")

    def followed(self, x: Tensor) -> Sums:
        """Add up all products; then speculation ends what it would have, and the sign check the rest."""
        self.check_inputs(x)
        s, macs, s_N = self.checked(x)
        kernel, N = torch.arange(len(s))[:, None].expand_as(s), self.choice.N[:, None]
        guessed = self.predicted(s_N, kernel) & x.isfinite().all(dim=0) & (N > 0)
        output = torch.where(guessed, 0.0, torch.relu(s))
        return Sums(output, torch.where(guessed, N.int(), macs), guessed)

    def stopped(self, x: Tensor) -> Sums:
        """Leave a sum alone as soon as it stops.

        Each product is a matrix product of 1×1, so that it is rounded by itself, and is counted from outside.
        """
        self.check_inputs(x)
        K, W = len(self.index), x.shape[1]
        sound, left = x.isfinite().all(dim=0), torch.arange(K * W)
        kernel, s = left // W, self.bias[left // W]
        window, output = left - kernel * W, torch.zeros(K * W)
        macs, guessed = torch.full((K * W,), self.m, dtype=torch.int32), torch.zeros(K * W, dtype=torch.bool)
        for j in range(self.m):
            inputs, weights = x[self.index[kernel, j], window], self.weight[kernel, j]
            s = s + torch.bmm(inputs[:, None, None], weights[:, None, None]).flatten()
            guess = (self.choice.N[kernel] == j + 1) & self.predicted(s, kernel) & sound[window]
            stop = guess | ((s < 0) & sound[window] & (self.start[kernel] <= j))
            guessed[left[guess]], macs[left[stop]] = True, j + 1
            left, kernel, window, s = left[~stop], kernel[~stop], window[~stop], s[~stop]
            if not len(left):
                break
        output[left] = torch.relu(s)
        return Sums(output.view(K, W), macs.view(K, W), guessed.view(K, W))


def read(conv: nn.Conv2d, choice: Choice | None, *, spread: bool = True) -> Sorted:
    """Return a layer's kernels in the order for a choice; without one, in that of exact mode, and nothing stops."""
    w, taken = conv.weight.detach().flatten(1), choice or Choice.of(conv.out_channels)
    lists = [
        in_order(each, speculated(each, min(int(N), len(each)), spread=spread))
        for each, N in zip(w, taken.N, strict=True)
    ]
    index = torch.stack([places for places, _ in lists])
    start = torch.tensor([before if choice else w.shape[1] for _, before in lists])
    assert conv.bias is not None
    return Sorted(index, w.gather(1, index), conv.bias.detach(), taken, start)


Plan = tuple[Choice | None, ...]
"""For each convolution from 1 on, the parameters of its kernels; None: nothing stops."""


@torch.inference_mode()
def guessing(model: Convolutions, x: Tensor, plan: Plan, *, spread: bool = True) -> Tensor:
    """Return the answers under a plan by whole convolutions, two for each layer: fast, and equal but for rounding."""

    def layer(i: int, x: Tensor) -> Tensor:
        conv, choice = model.layer(i), plan[i - 1] if i else None
        out = torch.relu(conv(x))
        if choice is None or not choice.N.any():
            return out
        kept = torch.zeros_like(conv.weight).flatten(1)
        for row, w, N in zip(kept, conv.weight.flatten(1), choice.N, strict=True):
            row[speculated(w, int(N), spread=spread)] = 1
        s_N = F.conv2d(x, conv.weight * kept.view_as(conv.weight), conv.bias, conv.stride, conv.padding)
        guess = s_N.isfinite() & (exact(s_N) <= choice.Th[:, None, None]) & (choice.N > 0)[:, None, None]
        return torch.where(guess, 0.0, out)

    return model(x, layer)


class Candidates(NamedTuple):
    """All (N, Th) of the kernels of a layer, ``[c, K]`` each, exact mode last; products and errors on the images."""

    N: Tensor
    Th: Tensor
    macs: Tensor
    error: Tensor

    def within(self, limit: float) -> tuple[Choice, int]:
        """Return for each kernel the cheapest candidate of at most this error, and the products of all together."""
        found = torch.where(self.error <= limit, self.macs, math.inf).argmin(dim=0, keepdim=True)
        N, Th, macs = (part.gather(0, found)[0] for part in (self.N, self.Th, self.macs))
        return Choice(N, Th), int(macs.sum())


def profiled(conv: nn.Conv2d, x: Tensor, sizes: Sequence[int], quantiles: Sequence[float], **how: Any) -> Candidates:
    """Pass 1: try each N and each quantile with the windows ``x [m, W]``, for all kernels of a layer."""
    K, m, rows = conv.out_channels, len(x), []
    for N in [*dict.fromkeys(min(N, m) for N in sizes), 0]:
        kernels = read(conv, Choice.of(K, N), **how)
        s, macs, s_N = kernels.checked(x)
        squares = torch.relu(s).double().square()
        below = torch.where(s > 0, math.nan, s_N.double())
        for q in quantiles if N else ():
            Th = below.nanquantile(q, dim=1).nan_to_num(nan=-math.inf)
            guess = s_N.double() <= Th[:, None]
            lost = torch.where(guess, squares, 0.0).sum(dim=1) / squares.sum(dim=1).clamp_min(1e-300)
            rows.append((torch.full((K,), N), Th, torch.where(guess, N, macs).sum(dim=1).double(), lost))
        if not N:
            rows.append((*Choice.of(K), macs.sum(dim=1).double(), torch.zeros(K, dtype=torch.float64)))
    return Candidates(*(torch.stack(part) for part in zip(*rows, strict=True)))


class Set(NamedTuple):
    """One way to set a whole layer, its products, and the accuracy of the network with this layer alone so set."""

    choice: Choice
    macs: int
    alone: float


@dataclass(frozen=True)
class Path:
    """What was fitted: plans from the loosest to exact mode with the accuracy of each, and the candidates of layers."""

    plans: tuple[Plan, ...]
    accuracies: tuple[float, ...]
    candidates: tuple[Candidates, ...]

    def within(self, eps: float) -> Plan:
        """Return the first plan that loses at most ``eps`` beside exact mode, the last."""
        least = self.accuracies[-1] - eps - 1e-9
        return next(plan for plan, found in zip(self.plans, self.accuracies, strict=True) if found >= least)


def merit(now: Set, following: Set) -> tuple[float, int]:
    """Return the accuracy that is regained by product added; where that is nothing, the fewest added products win."""
    added = max(1, following.macs - now.macs)
    return max(0.0, following.alone - now.alone) / added, -added


def relaxed(sets: Sequence[Sequence[Set]], judge: Callable[[Plan], float]) -> tuple[list[Plan], list[float]]:
    """Pass 3: from the first set of every layer, move the layer of the best merit on, until all are at their last."""
    at, plans, found = [0] * len(sets), list[Plan](), list[float]()
    while True:
        plan: Plan = tuple(layer[i].choice for layer, i in zip(sets, at, strict=True))
        plans.append(plan)
        found.append(judge(plan))
        free = [k for k, layer in enumerate(sets) if at[k] + 1 < len(layer)]
        if not free:
            return plans, found
        at[max(free, key=lambda k: merit(sets[k][at[k]], sets[k][at[k] + 1]))] += 1


@dataclass(frozen=True)
class SnaPEA(DotProductMethod):
    """Dot products that stop as soon as their sum is known, or believed, to end below 0."""

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # values of N that are tried; the paper's are not known
    quantiles: tuple[float, ...] = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)  # of s_N, of which Th is taken; not known
    limits: tuple[float, ...] = (  # on the error of a kernel, falling; the paper's are not known
        0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.015, 0.01, 0.005, 0.002, 0.001,
    )  # fmt: skip
    profiled: int = 200  # images that kernels are profiled on; not known of the paper
    spread: bool = True  # whether speculation weights come one from each group; the paper: yes, else the N largest
    images: str = "fashion-mnist"  # data; the paper: ImageNet
    train_size: int = 50000  # training images; the paper takes networks that are trained
    pixels: int = 3  # steps of the first convolution
    widths: tuple[int, ...] = (16, 32)  # channels of each resolution; the paper: those of AlexNet, VGGNet and others
    blocks: int = 2  # convolutions of each width, beside the first
    epochs: float = 6.0  # passes over the training images; the paper takes networks that are trained
    batch: int = 64  # images of a step; not of the paper either
    rate: float = 1e-2  # largest learning rate; not of the paper either

    knob: ClassVar[str] = "accuracy budget"
    knobs: ClassVar[tuple[float, ...]] = (math.inf, 0.1, 0.05, 0.03, 0.01, 0.0, -1.0)
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 600, "pixels": 2, "widths": (6, 12), "blocks": 1, "epochs": 10.0,
        "batch": 32, "rate": 2e-2, "profiled": 60, "sizes": (2, 4), "quantiles": (0.5, 0.75, 0.9, 1.0),
        "limits": (0.3, 0.2, 0.1, 0.05, 0.02, 0.01),
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 2000, "pixels": 2, "widths": (8, 16), "epochs": 4.0, "batch": 32, "rate": 5e-3, "profiled": 60,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        "widths": (6, 8), "sizes": (1, 3), "quantiles": (0.3, 0.6), "limits": (0.4, 0.04),
    }  # fmt: skip

    def __post_init__(self) -> None:
        """Raise `ValueError` for settings of the search that mean nothing."""
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"each number of speculation weights must be at least 1, not {self.sizes}")
        if not self.quantiles or not all(0 <= q <= 1 for q in self.quantiles):
            raise ValueError(f"quantiles lie between 0 and 1, not {self.quantiles}")
        if not all(a > b for a, b in pairwise((*self.limits, -1e-300))):
            raise ValueError(f"limits on the error fall, and none is below 0, not {self.limits}")
        if self.profiled < 1:
            raise ValueError(f"kernels are profiled on at least one image, not {self.profiled}")

    def build(self, data: Data, seed: int) -> PlainConvolutions:
        """A plain network of convolutions."""
        torch.manual_seed(seed)
        channels = len(data.train.inputs[0])
        return PlainConvolutions(channels, data.classes or 1, self.widths, self.blocks, self.pixels)

    def train(self, model: Convolutions, data: Data, bench: Bench) -> None:
        """Minimise the cross-entropy of the whole network, as networks without early exits are trained."""
        options = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        train_plain(MultiExit([model], [nn.Identity()]), data, bench, **options)

    def lists(self, knob: float, prepared: Prepared) -> list[Kernels]:
        """Return the kernels of all convolutions as they are read at a budget."""
        return self.listed(self.plan(knob, prepared), prepared)

    def listed(self, plan: Plan, prepared: Prepared) -> list[Kernels]:
        """Return the kernels of all convolutions in the order in which a plan has them read; the first never stops."""
        layers = ((prepared.model.layer(i), choice) for i, choice in enumerate((None, *plan)))
        return [read(conv, choice, spread=self.spread) for conv, choice in layers]

    def plan(self, knob: float, prepared: Prepared) -> Plan:
        """Return the parameters of all kernels at a budget. Raises `ValueError` for one that is not a number."""
        if math.isnan(knob):
            raise ValueError("an accuracy budget is a number, not NaN")
        layers = range(1, len(prepared.model.convs))
        if knob < 0:
            return tuple(None for _ in layers)
        if 0 < knob < math.inf:
            return prepared.fitted.within(knob)
        N, Th = (0, -math.inf) if knob == 0 else (1, math.inf)
        return tuple(Choice.of(prepared.model.layer(i).out_channels, N, Th) for i in layers)

    @torch.inference_mode()
    def fit(self, prepared: Prepared) -> Path:
        """Profile kernels, set layers, and relax them one after the other (passes 1 to 3)."""
        model, held = prepared.model, prepared.examples("fitting")
        batches, seen = list(held.batches(BATCH)), dict[int, Tensor]()

        def noting(i: int, x: Tensor) -> Tensor:
            seen[i] = x
            return torch.relu(model.layer(i)(x))

        model(torch.stack(list(held.inputs[: self.profiled])), noting)
        layers = range(1, len(model.convs))
        how = {"spread": self.spread}
        found = [
            profiled(model.layer(i), windows(model.layer(i), seen[i]), self.sizes, self.quantiles, **how)
            for i in layers
        ]

        def judge(plan: Plan) -> float:
            prepared.bench.progress("choosing thresholds", None)
            answers = [guessing(model, x, plan, **how) for _, x in batches]
            return accuracy(torch.cat(answers), held.targets[torch.cat([index for index, _ in batches])])

        sets = [self.sets(k, found, judge) for k in range(len(layers))]
        plans, accuracies = relaxed(sets, judge)
        return Path(tuple(plans), tuple(accuracies), tuple(found))

    def sets(self, k: int, candidates: Sequence[Candidates], judge: Callable[[Plan], float]) -> list[Set]:
        """Pass 2: return the sets of a layer, the loosest first and exact mode last, each with more products."""
        kept: list[Set] = []
        still = [Choice.of(each.N.shape[1]) for each in candidates]
        for limit in (*self.limits, -1.0):  # an error of 0 may be had by speculation, too; exact mode is the last
            choice, macs = candidates[k].within(limit) if limit >= 0 else (still[k], int(candidates[k].macs[-1].sum()))
            if not kept or macs > kept[-1].macs or limit < 0:
                kept.append(Set(choice, macs, judge((*still[:k], choice, *still[k + 1 :]))))
        return kept

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return what one quantile does for all kernels of all layers, with the largest N; the knob is the quantile."""
        points: dict[Split, list[OperatingPoint]] = {"validation": [], "test": []}
        for row, q in enumerate(self.quantiles):
            at = row - 1 - len(self.quantiles)
            plan = tuple(Choice(each.N[at], each.Th[at]) for each in prepared.fitted.candidates)
            for split, found in points.items():
                found.append(
                    self.point(prepared, prepared.ran(split, self.listed(plan, prepared), f"quantile {q:g}"), split, q)
                )
        return [Baseline(name="one quantile for all kernels", **points)]
