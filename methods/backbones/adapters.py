"""Adapters: narrow networks beside the feed-forward parts of a pretrained encoder that is itself left as it is."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from eelit.methods.engine.multi_exit import MultiExit


class Adapted(nn.Module):
    """The end of a BERT layer (second half of its feed-forward part, sum, normalisation) with an adapter in parallel.

    To what the feed-forward part gives comes ``scale * (W_up relu(W_down h + b) + c)``, with h ``[N, T, d]`` what
    entered it. ``W_up`` and c start at 0, so that the layer starts as pretrained.
    """

    def __init__(self, output: nn.Module, width: int, inner: int, scale: float) -> None:
        super().__init__()
        self.output, self.scale = output, scale
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, intermediate: Tensor, entered: Tensor) -> Tensor:
        """Take the inner activations ``[N, T, 4d]`` and what entered the feed-forward part ``[N, T, d]``."""
        beside = self.up(torch.relu(self.down(entered)))
        out: Tensor = self.output(intermediate, entered + self.scale * beside)  # BERT adds the second to the first
        return out


def add_adapters(model: MultiExit, inner: int, scale: float) -> None:
    """Give every layer of a text encoder (stages of `EncoderStage`) an adapter of width ``inner``."""
    for stage in model.stages:
        layer = cast(Any, stage).layer
        layer.output = Adapted(layer.output, layer.output.dense.out_features, inner, scale)
