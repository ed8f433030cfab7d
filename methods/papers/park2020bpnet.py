"""BPNet: Branch-pruned Conditional Neural Network for Systematic Time-accuracy Tradeoff (BPNet).

Idea
    The number of exits, their places and their thresholds must be chosen together, as every exit delays all inputs that
    pass it. So begin with a branch at every possible place, train everything once, and let a genetic algorithm decide
    which branches to prune and which thresholds the others get. The result is not a single network but a whole front of
    time against accuracy.

Model
    A branch, a 3×3 convolution, pooling and a linear layer, after each block k = 1 … B of an ordinary network; z_k its
    logits, z_{B+1} those of the network's own output layer.

Training
    Network and all branches together: L = sum_k w_k CE(z_k, y), w_k = 1.
    Then the search, on held-out images, from the stored outputs of the branches for each image i:
    s_ik = max softmax(z_k), whether z_k is right, t_k, the cost of block k, and b_k, that of branch k.
    A design is a mask m in {0, 1}^B and thresholds th in R^B. It is judged by two figures,
    error = mean_i [z_{k(i)} is wrong]  and  time = mean_i ( sum_{j<=k(i)} t_j + sum_{j<=k(i), m_j=1} b_j ), k(i) the
    exit of image i. NSGA-II searches for the designs that no other dominates.

Exit rule
    Leave at the first k with m_k = 1 and s_ik >= th_k; if there is none, the output layer answers. The knob is a share
    of the full model's cost: of the designs on the front that cost no more on the held-out images, the most accurate is
    taken.

Skipped
    All blocks and branches after the exit. Pruned branches are removed from the network.

Deviations
    1. The paper's text could not be read. Networks, data and the goal are from its abstract; joint training and the
       search of locations and thresholds by a genetic algorithm are from CoAxNN, which cites it; the reference list of
       the work-in-progress version names NSGA-III. Confidence by the largest probability, the branches' layers, the
       genes and the budget of the search are reconstructed.
    2. NSGA-II instead of NSGA-III, which was made for more objectives than two.
    3. A small residual network with five places for branches on cluttered Fashion-MNIST, 6,000 images, 2 epochs,
       instead of SqueezeNet, ResNet-20 and VGG-16 on CIFAR-10 and CIFAR-100: what two cores can train in minutes.
    4. Time is counted in multiply-accumulates, not measured on a device, so that figures are the same everywhere. A
       branch costs 2.2 percent of the network by this count, nearly all of it in the convolution: without one, a branch
       would hardly delay any input, and none would be worth pruning.
    5. Thresholds are from a grid, as integer genes are easier to sample.
    6. A budget of the full model's cost is no limit: the network without branches answers, even where a design with
       some did better on held-out images. It was trained with them.
    7. The network is not trained further after branches are pruned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import nn

from eelit.methods.backbones.half_precision import LearnsInHalf
from eelit.methods.backbones.internal_classifier import InternalClassifier, Shape
from eelit.methods.backbones.normalisation import convolution
from eelit.methods.engine.search import Space
from eelit.methods.families.designs import Design, DesignMethod, without_idle
from eelit.methods.policies.max_confidence import MaxConfidence


@dataclass(frozen=True)
class BranchPruned(DesignMethod):
    """Branches everywhere, of which a genetic search leaves those that pay."""

    network: str = "resnet"  # the paper: SqueezeNet, ResNet-20, VGG-16
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100
    train_size: int = 6000  # training images; the paper: 50,000
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where branches stand: after every block
    branch: int = 4  # a branch's convolution has one channel for so many of the map; the paper's could not be read
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # the paper's could not be read
    batch: int = 32  # the same holds of it
    rate: float = 2e-3  # learning rate of AdamW
    levels: tuple[float, ...] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)  # for th_k, rising
    population: int = 24  # designs of a generation; the paper's could not be read
    generations: int = 20  # of the search, the first one included; the same holds of them

    knob: ClassVar[str] = "budget"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
    tiny: ClassVar[Mapping[str, Any]] = {
        **DesignMethod.tiny,
        "widths": (1, 8, 24),
        "shares": (0.05, 0.4),
        "population": 12,
        "generations": 8,
    }
    others: ClassVar[Mapping[str, Any]] = {**DesignMethod.others, "shares": (0.01, 0.4), "levels": (0.0, 0.45, 0.75)}
    searched: ClassVar[str] = "which branches stay, and the threshold of each"
    never: ClassVar[float] = 1.1

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """A branch for maps ``[C, H, W]``: a 3×3 convolution to fewer channels, pooling and a linear layer."""
        C, *size = shape
        c = max(1, C // self.branch)
        conv = nn.Sequential(*convolution(C, c), nn.ReLU(inplace=True))
        return nn.Sequential(LearnsInHalf(conv) if self.half else conv, InternalClassifier((c, *size), classes))

    def space(self, exits: int) -> Space:
        """B bits of the mask, then B numbers of thresholds; both ends of the front are known."""
        B = exits - 1
        nothing, first = (0,) * 2 * B, (1, *(0,) * (2 * B - 1))
        return Space((2,) * B + (len(self.levels),) * B, (nothing, first), partial(without_idle, early=B))

    def design(self, genes: Sequence[int], exits: int) -> Design:
        """Read m and th from the genes."""
        B = exits - 1
        m, th = genes[:B], genes[B:]
        return Design(tuple(bit == 1 for bit in m), tuple(self.levels[i] for i in th))

    def stop(self, thresholds: Sequence[float]) -> MaxConfidence:
        """The largest probability must reach the exit's threshold."""
        return MaxConfidence(tuple(thresholds) or self.never)

    def told(self, design: Design) -> str:
        """Name the branches that stay, from 1, with their thresholds."""
        pairs = zip(design.kept, design.thresholds, strict=True)
        kept = [f"branch {k} at {th:g}" for k, (stays, th) in enumerate(pairs, 1) if stays]
        return ", ".join(kept) or "no branch"
