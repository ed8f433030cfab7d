"""Efficient adaptive inference for deep convolutional neural networks using hierarchical early exits (BoF exits).

Idea
    An exit on a large feature map is costly, and starts from scratch although earlier exits have already extracted
    features. Let each exit turn its map into a short histogram of the same form: then the histograms of all exits so
    far can be averaged, each refining the earlier ones, and one classifier can read them all.

Model
    Exits i = 1 … m along the network; x_ij are the feature vectors of the map at exit i, v_ik its N codewords, b_ik an
    offset of each; s_i, t_i, n1_i and n2_i are one number each.
    a_ijk = (1 + tanh(s_i (<x_ij, v_ik> + b_ik) + t_i)) / 2,   u_ijk = n1_i a_ijk / sum_k a_ijk,
    h_i = n2_i mean_j u_ij (of each region, if there are several);   H_i = (h_1 + … + h_i) / i,   z_i = W H_i + c.
    W and c are the same for all exits before the last; the last exit is the network's own classifier.

Training
    Stage 1: the network alone, cross-entropy. Stage 2: all of that frozen, sum_i L_i over codewords, b_ik, s_i, t_i,
    n1_i, n2_i, W and c, with L_i the cross-entropy of z_i.

Exit rule
    A_i = max_c z_ic, a logit; mu_i = |mean of A_i over 5,000 training images|. Stop at the first exit with
    A_i > beta mu_i (strictly). One beta serves all exits.

Skipped
    All layers and exits after the exit taken. The histograms of earlier exits are kept: N numbers each.

Trained otherwise
    Besides the epochs that all rows have, which train the network (stage 1), only codewords and classifier of the exits
    are trained for as many more, on the frozen network (stage 2): two stages are how the paper adds exits.

Deviations
    1. A small residual network on cluttered Fashion-MNIST instead of VGG-like networks on five image data sets whose
       names could not be confirmed; 64 codewords, as in a third party's adaptation of the first author's code.
    2. The paper's text could not be read; equations are those of that adaptation: mean of the histograms so far (not
       their sum), logistic kernel (the first author's own layer has a radial one), summed losses.
    3. n2_i starts at 1, not at the side of the pooling window, with which the histograms of larger maps would outweigh
       all others in the mean.
    4. mu_i is the mean of the quantity that is compared with it, the largest logit. The adaptation averages all logits;
       cross-entropy does not change their mean, which depends only on how W was initialised. So its beta has a
       different meaning.
    5. Regions cover a map of any side: they are equal parts of an even side, and of an odd one overlap by a row or
       column. Windows of the adaptation leave out a rest at the border.
    6. Stage 2 really freezes the network. The adaptation states this, but the line that does it is commented out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from eelit.methods.backbones.bag_of_features import BagOfFeatures
from eelit.methods.backbones.internal_classifier import Shape
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, Plain
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.activation import Activation, mean_strengths
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_parts

AVERAGED = 5000
"""Training images, at most, over which mu_i is averaged; as in the adaptation."""

Seen = tuple[Tensor, Tensor]
"""Feature map ``[N, C, height, width]`` and H_i ``[N, K]``."""


class SummarisedStage(nn.Module):
    """Layers up to exit i, and what the exit makes of their map: h_i and H_i. The last stage makes nothing of it."""

    def __init__(self, layers: nn.Module, bag: BagOfFeatures | None, i: int, *, hierarchical: bool) -> None:
        super().__init__()
        self.layers, self.bag, self.i, self.hierarchical = layers, bag, i, hierarchical

    def forward(self, state: Tensor | Seen) -> Tensor | Seen:
        """Run layers and bag; the first stage takes images ``[N, C, H, W]``, the last gives its map alone."""
        x, H = (state, None) if isinstance(state, Tensor) else state
        x = self.layers(x)
        if self.bag is None:
            return x
        h = self.bag(x)
        return x, h if H is None or not self.hierarchical else H + (h - H) / self.i  # the mean of h_1 … h_i


class SharedClassifier(nn.Linear):
    """One linear classifier ``z_i = W H_i + c`` for all exits."""

    def forward(self, state: Seen) -> Tensor:  # type: ignore[override]
        """Return logits ``[N, classes]``."""
        return super().forward(state[1])


class HierarchicalExits(MultiExit):
    """A network with a bag of features behind each stage but the last, and one classifier for all of them.

    ``bags`` is the network whose heads are the bags. They lie in the stages, since later exits need the histograms of
    earlier ones; the plain network is without them.
    """

    def __init__(self, bags: MultiExit, classes: int, *, hierarchical: bool) -> None:
        *early, last = bags.heads
        kept = [cast(BagOfFeatures, bag) for bag in early]
        stages = [
            SummarisedStage(layers, bag, i, hierarchical=hierarchical)
            for i, (layers, bag) in enumerate(zip(bags.stages, [*kept, None], strict=True), 1)
        ]
        super().__init__(stages, [*[SharedClassifier(kept[0].size, classes)] * len(kept), last])

    @property
    def layers(self) -> list[nn.Module]:
        """The stages of the plain network."""
        return [cast(SummarisedStage, stage).layers for stage in self.stages]

    @property
    def added(self) -> list[nn.Parameter]:
        """What the exits before the last consist of: bags and classifier."""
        bags = [cast(SummarisedStage, stage).bag for stage in self.stages[:-1]]
        return [p for part in [*bags, self.heads[0]] if part is not None for p in part.parameters()]

    def plain_network(self) -> Plain:
        """Return the network without exits, weights shared."""
        return Plain(self.layers, self.heads[-1])

    def full(self, x: Any) -> Tensor:
        """Return the logits ``[N, classes]`` of the network without exits."""
        for layers in self.layers:
            x = layers(x)
        return cast(Tensor, self.heads[-1](x))


@dataclass(frozen=True)
class HierarchicalBof(ImageMethod):
    """Exits that average histograms and share a classifier."""

    network: str = "resnet"  # resnet, or vgg with blocks = 4; the paper: VGG-like and small networks
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where exits stand; the paper: by hand
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    codewords: int = 64  # N of each exit; the adaptation: 32 to 256, mostly 64
    side: int = 1  # of the grid of regions with a histogram of their own; the adaptation: 1 or 2
    hierarchical: bool = True  # False: an exit reads its own histogram alone, for comparison
    images: str = "cluttered"  # data; the paper: five image data sets
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    epochs: float = 2.0  # passes over them for the network; the adaptation: 100
    exit_epochs: float = 2.0  # passes for the exits; the adaptation: 100
    batch: int = 32  # the adaptation: 128
    rate: float = 2e-3  # learning rate of the network; the adaptation: 5e-4
    exit_rate: float = 5e-3  # learning rate of the exits; the adaptation: 1e-3

    knob: ClassVar[str] = "beta"
    knobs: ClassVar[tuple[float, ...]] = (
        -float("inf"), 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0, float("inf")
    )  # fmt: skip
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"hierarchical": {}, "separate": {"hierarchical": False}}
    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "codewords": 16, "exit_epochs": 6.0, "exit_rate": 2e-2}
    smoke: ClassVar[Mapping[str, Any]] = {**ImageMethod.smoke, "codewords": 16, "exit_epochs": 3.0, "exit_rate": 1e-2}

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """A bag of features; `build` puts it into the stage."""
        return BagOfFeatures(shape[0], self.codewords, side=self.side)

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network with its bags, and the classifier that they share."""
        bags = super().build(data, seed)
        return HierarchicalExits(bags, data.classes or 1, hierarchical=self.hierarchical).eval()

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The network alone, then the exits on it."""
        train_plain(model, data, bench, **self.options)
        exits = {"epochs": self.exit_epochs, "batch": self.batch, "rate": self.exit_rate}
        train_parts(model, cast(HierarchicalExits, model).added, data, bench, **exits)

    def fit(self, prepared: Prepared) -> tuple[float, ...]:
        """Return mu_i of each exit before the last."""
        seen = prepared.store(prepared.data.train.head(AVERAGED), "train")
        return mean_strengths(seen.outputs[:-1])

    def policy(self, knob: float, prepared: Prepared) -> Activation:
        """The knob is beta."""
        return Activation([knob * mu for mu in prepared.fitted])
