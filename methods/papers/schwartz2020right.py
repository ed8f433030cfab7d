"""The Right Tool for the Job: Matching Model and Instance Complexities (Sledgehammer).

Idea
    Fine-tune one encoder with a few heads, and let easy inputs leave early. Each head's confidence is calibrated on
    held-out data, so that one threshold means the same at all depths; it is chosen at run time, without retraining.

Model
    Heads after a few layers k_1 < … < k_m = n, each reading a learned mixture of all layers so far:
    o_l = dropout(tanh pooler of layer l), one pooler for all;  r_j = sum_{l <= k_j} a_j,l o_l;  z_j = V_j r_j + b_j.
    The a_j have length 1 and start in random directions.

Training
    Backbone and heads together, all exits alike: L = sum_j cross-entropy(z_j, y).
    Then each head gets the temperature T_j > 0 for which softmax(z_j / T_j) is most likely on held-out data.

Exit rule
    Stop at the first exit with max softmax(z_j / T_j) >= c. The last exit always answers. c = 0 stops at the first
    exit, c > 1 never stops; at c = 1 an exit whose confidence rounds to 1 still stops. T_j never changes an answer.

Skipped
    All layers after the exit, with their pooling and their heads.

Trained otherwise
    By Adam, as in the paper, so without weight decay.

Deviations
    1. MiniLM (6 layers) on 4,000 sentences of Rotten Tomatoes of at most 40 tokens, one epoch in batches of 8 at 1e-4
       (heads and pooler: 1e-3), not BERT-large on five data sets, up to 512 tokens, two epochs in batches of 72 at
       2e-5, 3e-5 or 5e-5. The rate warms up for 10 % of the steps and falls to 0, weights decay by 0.01, gradients are
       clipped at norm 1; the released code has plain Adam at one rate. The paper's baselines, models cut at each depth,
       were not run.
    2. The pooler reads the mean over tokens instead of the class token: MiniLM was pretrained that way.
    3. The a_j are learned, as intended, and divided by their length at each use. The released code replaces them by
       rescaled copies at each step, which its optimiser does not know, so its mixtures stay random.
    4. T_j is found by bisection, as there is one optimum; the released search (ten rates of Adam) can stop too early.
       Half of the validation data is for that, and c is chosen on the other half; the paper uses one set for both.
    5. The plain full model keeps its mixture, which pools all layers, not the last alone: less than 1% costlier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import encoder, pooler_of, stages_of
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.stored_outputs import CONFIDENCES, LOW
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.temperature import Tempered, fit_temperature
from eelit.methods.recipes.joint import train_joint


class PooledLayers(nn.Module):
    """Some layers; the state is the hidden states ``[N, T, d]`` and all o_l so far ``[N, layers, d]``."""

    def __init__(self, layers: Sequence[nn.Module], pooler: nn.Linear) -> None:
        super().__init__()
        self.layers, self.pooler, self.dropout = nn.ModuleList(layers), pooler, nn.Dropout(0.1)

    def forward(self, state: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Run the layers, pooling after each; the first stage takes token ids ``[N, T]``."""
        hidden, o = (state, []) if isinstance(state, Tensor) else (state[0], [state[1]])
        for layer in self.layers:
            hidden = layer(hidden)
            o.append(self.dropout(torch.tanh(self.pooler(hidden.mean(dim=1))))[:, None])
        return hidden, torch.cat(o, dim=1)


class ScalarMix(nn.Module):
    """r_j = sum_l a_j,l o_l, one weight for each layer so far; the a_j are learned and have length 1."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(layers))

    def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """From the state of `PooledLayers` to ``[N, d]``."""
        a, (_, o) = self.direction / self.direction.square().sum().sqrt(), state
        return torch.einsum("l,nld->nd", a, o)


@dataclass(frozen=True)
class RightTool(TextMethod):
    """Calibrated confidence at a few exits."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT-large
    corpus: str = "rotten-tomatoes"  # data; the paper: AG News, IMDB, SST, SNLI, MultiNLI
    layers: tuple[int, ...] = (1, 2, 4, 6)  # number of layers before each classifier; the paper: 1, 5, 13, 24
    train_size: int = 4000  # training sentences
    length: int = 40  # most word pieces of a sentence
    epochs: float = 1.0  # passes over them; the paper: 2
    batch: int = 8  # the paper: 72
    rate: float = 1e-4  # learning rate; the paper: drawn from 2e-5, 3e-5, 5e-5
    head_rate: float = 1e-3  # learning rate of heads and their pooler; the paper: the same as of the rest
    calibrated: bool = True  # False: all temperatures 1

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = CONFIDENCES
    many: ClassVar[tuple[float, ...]] = (CONFIDENCES[0], *LOW, *CONFIDENCES[1:])
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"calibrated": {}, "uncalibrated": {"calibrated": False}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "layers": (1, 2, 4), "train_size": 900,
        "epochs": 6.0, "rate": 5e-3, "head_rate": 1e-2, "batch": 32,
    }  # fmt: skip
    # At the rates of a whole epoch its few steps end no better than chance.
    smoke: ClassVar[Mapping[str, Any]] = {**TextMethod.smoke, "rate": 2e-4, "head_rate": 3e-3}
    others: ClassVar[Mapping[str, Any]] = {**TextMethod.others, "layers": (1, 3, 4)}
    fits_on: ClassVar[float] = 0.5

    def build(self, data: Data, seed: int) -> MultiExit:
        """A stage up to each classifier, and one pooler for all layers."""
        torch.manual_seed(seed)
        model = encoder(self.encoder)
        every, pooler = stages_of(model), pooler_of(model)
        stages = [PooledLayers(every[a:b], pooler) for a, b in zip((0, *self.layers), self.layers, strict=False)]
        heads = [nn.Sequential(ScalarMix(k), nn.Linear(pooler.out_features, data.classes or 1)) for k in self.layers]
        return MultiExit(stages, heads).eval()

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Joint training on the plain sum of the losses."""
        how = {**self.options, "optimiser": torch.optim.Adam}
        train_joint(model, data, bench, weights=[1.0] * model.exits, head_parts=["stages.0.pooler"], **how)

    def fit(self, prepared: Prepared) -> tuple[float, ...]:
        """Return the temperatures T_1 … T_m."""
        if not self.calibrated:
            return (1.0,) * prepared.model.exits
        held_out = prepared.split("fitting")
        return tuple(fit_temperature(z_j, held_out.targets) for z_j in held_out.outputs)

    def policy(self, knob: float, prepared: Prepared) -> Tempered:
        """The knob is the threshold c."""
        return Tempered(prepared.fitted, MaxConfidence(knob))

    def shown(self, outputs: Tensor, prepared: Prepared) -> Tensor:
        """Each exit's logits over its temperature: z_j / T_j."""
        return outputs / torch.tensor(prepared.fitted)[:, None, None]
