"""SplitEE: Early Exit in Deep Neural Networks with Split Computing (SplitEE).

Idea
    A device runs the first layers of a network and the cloud could run the rest. Where to cut is learned online and
    without labels: each layer is an arm of a bandit, rewarded with the confidence reached, less the cost of getting it.

Model
    Exit heads after all L layers, trained before on another domain. C_i(x) is the largest class probability at exit i.

Training
    The network: joint cross-entropy of all exits on the source domain, L = sum_i i * L_i / sum_i i. The bandit: no labels.

Exit rule
    Cut at arm i. If C_i >= alpha or i = L the device answers; otherwise it offloads and exit L answers in the cloud.
    r(i) = C_i - lambda * i if answered on the device;  r(i) = C_L - lambda * i - o if offloaded.
    i_t = argmax_i Q_i + beta * sqrt(ln t / N_i), with Q_i the mean reward of arm i over its N_i observations; each arm is
    played once first (UCB1). SplitEE runs the head at the cut alone; SplitEE-S runs all heads on the way there and
    updates every arm j <= i whose reward it knows.

Skipped
    On the device all layers above the cut (and, in SplitEE, all heads below it); in the cloud everything, when the device
    answers. Cost per sample: 0.8 lambda a layer and 0.2 lambda a head on the device, o if offloaded.

Deviations
    1. MiniLM (6 layers) trained on 4,000 sentences of Rotten Tomatoes, then IMDB reviews of at most 64 tokens as the
       stream, instead of ElasticBERT (12 layers) from SST-2 to IMDB and four other pairs, at 128 tokens.
    2. lambda is 0.2 instead of 0.1: with half the layers the whole depth costs the same 1.2, so that o keeps its meaning.
    3. Exits weigh by depth and share a pooler, as in zhou2020pabee, whose training is thus the same and done once; the
       released code weighs all exits alike and gives each a pooler.
    4. SplitEE-S updates an arm j whose exit was not confident only if the sample was offloaded, since C_L is unknown
       otherwise. The released code uses C_L all the same.
    5. The first plays of the arms are samples of the stream: their cost and errors count, and t counts them. The
       released code plays them on the first samples beforehand, free of charge, and starts t at 1 after them.
    6. The ends of the knob leave nothing to learn. With alpha = 0 every exit is good enough, so the first is the only
       arm; with alpha > 1 none is, so the last is the only arm: the device runs the full model, which is the paper's
       baseline. Between them the bandit has all arms.
    7. alpha is chosen on labelled data of the source, streamed likewise: the target has no labels to choose it by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from eelit.methods import tasks
from eelit.methods.backbones.encoder import text_exits
from eelit.methods.examples import Data, Examples
from eelit.methods.families.split import Prepared, Side, SplitMethod, SplitRule, Stored, drive, regret
from eelit.methods.method import Bench
from eelit.methods.multi_exit import MultiExit
from eelit.methods.recipes.joint import depth_weights, train_joint
from eelit.methods.results import Curve, Outcome


@dataclass(frozen=True)
class SplitEe(SplitMethod):
    """Splitting layer chosen by a bandit."""

    encoder: str = "minilm-l6"  # backbone; the paper: ElasticBERT-base
    corpus: str = "rotten-tomatoes"  # source domain, labelled; the paper: SST-2 for IMDB
    stream: str = "imdb"  # target domain, its labels used for measuring alone
    length: int = 64  # tokens of a review; the paper: 128
    train_size: int = 4000  # training sentences
    epochs: float = 1.0  # passes over them; the paper: 5
    batch: int = 32  # the paper: 32
    rate: float = 1e-4  # learning rate; the paper: 2e-5
    price: float = 0.2  # lambda, cost of a layer in units of confidence; the paper: 0.1 with twice the layers
    offload: float = 0.5  # o, cost of sending a sample; the paper: 0.1 to 0.6
    beta: float = 1.0  # exploration; the paper: 1
    side: Side = "none"  # learn from the exit at the cut alone, or ("observed") from all on the way
    repeats: int = 10  # shuffles of the stream behind the claims; the paper: 20

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "alpha"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 2.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"SplitEE": {}, "SplitEE-S": {"side": "observed"}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "stream": "digits", "train_size": 900, "epochs": 8.0, "rate": 2e-3, "repeats": 2,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {"train_size": 5500, "epochs": 2.0, "rate": 5e-5, "length": 128, "repeats": 20}

    def load(self) -> tuple[Data, Examples]:
        """Sentences with labels, and the stream of reviews."""
        return tasks.text(self.corpus, train=self.train_size), tasks.text(self.stream, train=1, length=self.length).test

    def build(self, data: Data, seed: int) -> MultiExit:
        """A head after every layer."""
        return text_exits(self.encoder, data.classes, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Depth-weighted joint training on the source domain."""
        weights = depth_weights(model.exits)
        train_joint(model, data, bench, weights=weights, epochs=self.epochs, batch=self.batch, rate=self.rate)

    def rule(self, knob: float, exits: int) -> SplitRule:
        """The knob is the confidence threshold alpha."""
        layers = (0,) if knob <= 0 else (exits - 1,) if knob > 1 else tuple(range(exits))
        return SplitRule(layers, knob, self.price, self.offload, self.side, self.beta)
