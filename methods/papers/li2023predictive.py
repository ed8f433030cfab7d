"""Prediction of Fine-Grained Early Exits for Computation- and Energy-Efficient Inference (Predictive Exit).

Idea
    With an exit after every layer one can stop at the right depth, but testing all of them uses up much of the saving.
    So test one exit, forecast from its output how many more layers this sample needs, and go straight to that exit: the
    heads in between are not run. Once the remaining work is known, clock and voltage can be lowered as far as the
    deadline allows.

Model
    Exit l reads its feature map by Bag-of-Features pooling with a logistic kernel (passalis2020hierarchical): N
    numbers for each of 2 × 2 regions, a linear map from 4 N to N, and a linear classifier: e_l, C numbers. Linear map
    and classifier are the same for all exits before the last; the last exit is the network's own classifier.

Training
    Stage 1: the network alone, cross-entropy. Stage 2: all of that frozen, sum_l L_l over codewords, kernels, linear
    map and classifier, with L_l the cross-entropy of e_l.

Exit rule
    A(e) = max_c |e_c|;  mu_l = |mean of A(e_l) over 5,000 training images|;  theta_l = beta mu_l.
    At the first exit, and at each exit that a forecast names: stop if A(e_l) >= theta_l. Else forecast: v = e_l; for i
    = 1 … R: v_k = v_(k-1) + v_k + v_(k+1), 0 beyond the ends; if A(v) > theta_(l+i) go to exit l + i. If no round
    reaches that, go R exits further. A forecast beyond the last theta means the exit that has it; a sample that does
    not stop there gets the answer of the whole network. R = 1 tests every exit in turn.

Skipped
    All layers after the exit taken, and all heads between the exits that forecasts name.

Energy
    Simulated, never measured: `modelled_energy` states the model with its units. Up to the first forecast the processor
    runs at its highest level; then at the lowest that does the work up to the forecast exit within the time left.

Trained otherwise
    Besides the epochs that all rows have, which train the network (stage 1), the exits alone learn for as many more, on
    the frozen network (stage 2): two stages are how the paper adds exits.

Deviations
    1. A residual network of six blocks on cluttered Fashion-MNIST instead of VGG-19 and ResNet-34 on CIFAR, SVHN and
       STL-10: an exit after each block but the last, five instead of 20 and 32 after every convolution. Forecasts are
       short here, and heads a smaller share of the cost.
    2. The start layer is the first exit (the paper: 8 of 20, say). Exits before it are never run, and are left out.
    3. mu_l is the mean of the quantity that is compared with it. The released code averages all outputs; cross-entropy
       does not change their mean, which depends only on how the classifier was initialised. So its beta has a different
       meaning.
    4. One linear map and one classifier for all exits, as released for VGG-19; for ResNet-34 there is one of each for
       every resolution. Each exit pools by itself: in the code for VGG-19 all exits on maps of the same width share one
       pooling layer, four for 20 exits. Maps directly after pooling have one region there, and no linear map.
    5. A forecast beyond the last exit is taken for that exit, as released for VGG-19. For ResNet-34 the network is then
       run to its end.
    6. Stage 2 really freezes the network; the line of the released code that does it is commented out. Its test at
       layer 1 lacks a bracket and multiplies by mu_1.
    7. n2 of the pooling starts at 1, not at the side of the pooling window. Regions are equal parts of a map of even
       side; of an odd one they overlap by a row or column.
    8. The paper sets clock and voltage of a board. Voltages of the model are assumed; so is one cycle for each MAC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import nn

from eelit.methods.backbones.bag_of_features import BagOfFeatures
from eelit.methods.backbones.internal_classifier import Shape
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.activation import mean_strengths
from eelit.methods.policies.forecast import Forecast
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_parts

AVERAGED = 5000
"""Training images, at most, over which mu_l is averaged; as in the released code."""
LEVELS = ((0.8064e9, 0.7), (1.4208e9, 0.85), (2.0352e9, 1.0))
"""Levels of a processor: frequency in Hz, from the released code, and voltage as a share of the highest, assumed."""


def modelled_energy(
    legs: Sequence[float], deadline: float, levels: Sequence[tuple[float, float]] = LEVELS
) -> tuple[float, float]:
    """Return energy, in MACs at the highest voltage, and seconds of one inference in a stated model of a processor.

    ``legs`` are the MACs up to the first exit asked, from there to the next one asked, and so on; only where a leg ends
    is known when it begins, and of the first not even that. A MAC takes one cycle, and energy in proportion to the
    square of the voltage; idling and changing levels cost nothing. A leg is run at the lowest level at which it ends
    before the ``deadline`` (seconds), the first, and one for which no level suffices, at the highest.
    """
    energy, seconds, highest = 0.0, 0.0, max(levels)
    for number, work in enumerate(legs):
        enough = [level for level in levels if number and seconds + work / level[0] <= deadline]
        frequency, voltage = min(enough, default=highest)
        energy, seconds = energy + work * voltage**2, seconds + work / frequency
    return energy, seconds


def keeps_exit(going_on: float, *, layer: float, following: float, head: float, wanted: float = 0.5) -> bool:
    """Return whether the placement test of the released code, where it is switched off, keeps an exit behind a layer.

    ``(TH - c_m) y_(m+1) - (1 - c_m) y_c - (1 - TH) y_m >= 0``, with TH the share ``wanted`` and c_m the share of
    samples ``going_on`` behind the exit, and the MACs of this ``layer``, of the ``following`` one and of the ``head``.
    """
    return (wanted - going_on) * following - (1 - going_on) * head - (1 - wanted) * layer >= 0


@dataclass(frozen=True)
class PredictiveExit(ImageMethod):
    """Forecast exits with pooled heads."""

    network: str = "resnet"  # resnet, or vgg with blocks = 4; the paper: VGG-19, ResNet-34
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution; the paper: 64 to 512
    blocks: int = 3  # blocks of each width; the paper's ResNet-34: 3 to 6
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, for exits; the paper: every layer
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    codewords: int = 64  # N of each exit; the paper: 64
    side: int = 2  # of the grid of regions; the paper: 2, behind pooling 1
    rounds: int = 8  # R, most exits that are gone ahead; the paper: 8; 1 tests every exit
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100, SVHN, STL-10
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    epochs: float = 2.0  # passes over them for the network; the paper's are not known
    exit_epochs: float = 2.0  # passes for the exits; the paper's are not known
    batch: int = 32  # the paper: 128
    rate: float = 2e-3  # learning rate of the network; the paper: 2.5e-4
    exit_rate: float = 5e-3  # learning rate of the exits; the paper: 1e-3

    knob: ClassVar[str] = "beta"
    knobs: ClassVar[tuple[float, ...]] = (
        0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, float("inf")
    )  # fmt: skip
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"predictive": {}, "passive": {"rounds": 1}}
    tiny: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.tiny, "blocks": 2, "shares": (0.2, 0.4, 0.6, 0.8), "codewords": 16, "exit_epochs": 6.0,
        "exit_rate": 2e-2,
    }  # fmt: skip
    tiny_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"predictive": {"rounds": 4}}  # no exit is farther ahead
    others: ClassVar[Mapping[str, Any]] = {**ImageMethod.others, "rounds": 2}
    smoke: ClassVar[Mapping[str, Any]] = {**ImageMethod.smoke, "codewords": 16, "exit_epochs": 3.0, "exit_rate": 1e-2}
    exempt: ClassVar[Mapping[str, str]] = {
        "predictive: cost_is_monotone": "with a larger beta a forecast may go straight to an exit that a smaller "
        "one has passed by"
    }

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """Pooling, and what reads it: `build` makes that one for all exits."""
        pooled = BagOfFeatures(shape[0], self.codewords, side=self.side)
        reduced = [nn.Linear(pooled.size, self.codewords)] if self.side > 1 else []
        return nn.Sequential(pooled, nn.Sequential(*reduced, nn.Linear(self.codewords, classes)))

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network with pooled heads, linear map and classifier shared."""
        model = super().build(data, seed)
        first, *others = (cast(nn.Sequential, head) for head in model.heads[:-1])
        for head in others:
            head[1] = first[1]
        return model

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The network alone, then the exits on it."""
        train_plain(model, data, bench, **self.options)
        exits = {"epochs": self.exit_epochs, "batch": self.batch, "rate": self.exit_rate}
        train_parts(model, model.heads[:-1].parameters(), data, bench, **exits)

    def fit(self, prepared: Prepared) -> tuple[float, ...]:
        """Return mu_l of each exit before the last."""
        seen = prepared.store(prepared.data.train.head(AVERAGED), "train")
        return mean_strengths(seen.outputs[:-1], either_sign=True)

    def policy(self, knob: float, prepared: Prepared) -> Forecast:
        """The knob is beta."""
        return Forecast(tuple(knob * mu for mu in prepared.fitted), self.rounds)
