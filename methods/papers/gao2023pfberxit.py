"""PF-BERxiT: Early Exiting for BERT with Parameter-efficient Fine-tuning and Flexible Strategy (PF-BERxiT).

Idea
    This method changes two things. Training: the pretrained encoder stays frozen, and only the exits and narrow
    adapters in parallel with its feed-forward parts are trained. Exiting: patience tests whether neighbouring exits
    give the same answer, and so has few settings; testing instead whether their distributions are close enough gives as
    many operating points as one likes.

Model
    n layers, a head after each: a tanh pooler for all heads, then a linear layer of its own; p_i = softmax of head i.
    In each layer an adapter of width r runs in parallel with the feed-forward part:
    FFN'(h) = FFN(h) + s * W_up relu(W_down h), with biases; W_up starts at 0, so the encoder starts as pretrained.

Training
    L = sum_i i * CE(p_i, y) / sum_i i, over adapters and heads; everything else is frozen.

Exit rule
    D_i is the distance of p_{i-1} and p_i:  kl: KL(p_{i-1} || p_i);  rekl: KL(p_i || p_{i-1});  bikl: their sum;
    js: half the sum of both divergences from m = (p_{i-1} + p_i) / 2.
    cnt_1 = 0;  cnt_i = cnt_{i-1} + 1 if D_i < theta (strictly), else 0.  Stop at the first exit with cnt_i = t.
    theta = 0 never stops; an infinite theta stops everything at layer t + 1.

Skipped
    All layers after the exit, with their adapters and heads.

Trained otherwise
    "adapters": only adapters and heads are trained, in as many steps as the other rows, and the adapters, which start
    from scratch, at a rate of 1e-3: that so few weights suffice is what the paper is about.

Deviations
    1. Reconstructed: the paper itself could not be read. That a distance of neighbouring layers must stay below a
       threshold for some layers in a row is in its abstract; that the distance is one of predicted distributions, and
       which direction is called kl, come from F-PABEE, the sister paper by the same first author.
    2. Left out: an "extra sub-learning module" that learns from characteristics of the samples; its form is not known.
    3. F-PABEE prints and codes its divergences without the term sum p log p. Then the distance of two equal
       distributions is not 0 but their entropy, and its js is the entropy of m. Here they are true divergences, as
       their names say.
    4. MiniLM (6 layers, 384 wide) on Rotten Tomatoes, 4,000 training sentences, one epoch at rate 1e-3, instead of
       BERT-base and ALBERT-base on GLUE: what two cores can train in minutes. How long and at which rates the paper
       trains is not known, nor its weight decay, warm-up and clipping (here 0.01, 10 % of the steps and at norm 1).
       Heads read the mean over tokens.
    5. The full model that speed-ups refer to keeps its adapters, which cost 2 d r more per token and layer (1.4 %).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from eelit.methods.engine.examples import Data
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.policies.flexible_patience import Distance, FlexiblePatience


class ParallelAdapter(nn.Module):
    """The end of a BERT layer (second half of its feed-forward part, sum, normalisation) with an adapter in parallel.

    ``FFN'(h) = FFN(h) + s * (W_up relu(W_down h + b) + c)``, with h ``[N, T, d]`` what enters the feed-forward part.
    W_up and c start at 0, so that the layer starts as pretrained.
    """

    def __init__(self, output: nn.Module, width: int, bottleneck: int, scale: float) -> None:
        super().__init__()
        self.output, self.scale = output, scale
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, intermediate: Tensor, h: Tensor) -> Tensor:
        """Take the feed-forward part's inner activations ``[N, T, 4d]`` and its input h; return ``[N, T, d]``."""
        adapter = self.up(torch.relu(self.down(h)))
        # BERT's own second half returns norm(W intermediate + b + what it is given second).
        out: Tensor = self.output(intermediate, h + self.scale * adapter)
        return out


def add_adapters(model: MultiExit, bottleneck: int, scale: float) -> None:
    """Freeze the layers of a text encoder and give each an adapter of this width, which learns."""
    model.stages.requires_grad_(False)
    for stage in model.stages:
        layer = cast(Any, stage).layer
        layer.output = ParallelAdapter(layer.output, layer.output.dense.out_features, bottleneck, scale)


@dataclass(frozen=True)
class PfBerxit(TextMethod):
    """Adapters and exits on a frozen encoder; exit when distributions stay close."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT-base, ALBERT-base
    corpus: str = "rotten-tomatoes"  # data; the paper: GLUE
    adapter: int = 32  # r, the adapters' width; the paper's best: 32; 0: no adapters, all weights are trained
    scale: float = 1.0  # s; the paper's is not known
    distance: Distance = "kl"  # kl, rekl, bikl or js; the paper finds kl and bikl better than rekl
    patience: int = 1  # t; the paper's is not known
    train_size: int = 4000  # training sentences
    length: int = 40  # most word pieces of a sentence; the paper's is not known
    epochs: float = 1.0  # passes over them; the paper's are not known
    batch: int = 8  # samples per step; the paper's is not known
    rate: float = 1e-3  # learning rate of the adapters, which start from nothing; the paper's is not known
    head_rate: float = 1e-3  # learning rate of the heads; the paper's is not known

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "distance threshold"
    knobs: ClassVar[tuple[float, ...]] = (
        math.inf, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001, 3e-4, 1e-4, 1e-5, 0.0
    )  # fmt: skip
    many: ClassVar[tuple[float, ...]] = (
        math.inf, 3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001, 1e-4, 0.0
    )  # fmt: skip
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "adapters": {},
        "fine-tuned": {"adapter": 0, "rate": 1e-4},  # PABEE's training
    }
    others: ClassVar[Mapping[str, Any]] = {**TextMethod.others, "distance": "js"}
    # What few weights learn from 240 sentences is hardly more than chance.
    smoke_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"adapters": {"train_size": 360, "rate": 2e-3}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "adapter": 8, "train_size": 900, "epochs": 5.0, "rate": 1e-2,
        "head_rate": 1e-2, "batch": 32,
    }  # fmt: skip
    tiny_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fine-tuned": {"adapter": 0, "rate": 2e-3}}
    exempt: ClassVar[Mapping[str, str]] = {
        "eager_is_the_first_exit": "the first exit has none before it to compare with: all leave at layer t + 1."
    }

    def build(self, data: Data, seed: int) -> MultiExit:
        """A head after every layer; with adapters, the layers themselves are frozen."""
        model = super().build(data, seed)
        if self.adapter:
            add_adapters(model, self.adapter, self.scale)
        return model

    def policy(self, knob: float, prepared: Prepared) -> FlexiblePatience:
        """The knob is theta."""
        return FlexiblePatience(knob, self.patience, self.distance)
