"""A BERT layer that can be run for some tokens only, for methods whose tokens leave one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine import costs

Group = tuple[Tensor, Tensor]
"""Rows that ask ``[g, a]`` and rows that are asked ``[g, b]``, for g samples with as many of each."""


class TokenLayer(nn.Module):
    """A layer of a BERT-type encoder, taken apart into what asking and what being asked needs.

    Its weights are those of the layer of transformers that it was made from, and so is what it computes.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.attention.self
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        self.dropout = attention.dropout
        self.heads: int = attention.num_attention_heads
        self.after_attention = layer.attention.output
        self.intermediate = layer.intermediate
        self.output = layer.output

    def forward(self, hidden: Tensor, keep: Tensor | None = None) -> Tensor:
        """Map states ``[n, t, d]`` to states ``[n, t, d]``; tokens with ``keep [n, t]`` 0 are not attended to.

        What is left of the attention adds up to 1 again, so that for the others the token might as well not be there.
        Gradients reach ``keep``, also where it is 0.
        """
        asked = self.key(hidden), self.value(hidden)
        return self.finish(self.mix(self.query(hidden), *asked, keep), hidden)

    def packed(self, rows: Tensor, context: Tensor, groups: Sequence[Group]) -> Tensor:
        """Map the states ``[a, d]`` of the tokens that ask to new ones; they attend to tokens of ``context [b, d]``.

        Tokens of all samples lie one below the other; ``groups`` say who attends to whom. Nothing is padded.
        """
        query, key, value = self.query(rows), self.key(context), self.value(context)
        mixed = torch.empty_like(rows)
        for asking, asked in groups:
            mixed[asking] = self.mix(query[asking], key[asked], value[asked])
        return self.finish(mixed, rows)

    def mix(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None = None) -> Tensor:
        """Attend with queries ``[n, a, d]`` to keys and values ``[n, b, d]``; return ``[n, a, d]``."""
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        if keep is None:
            dropout = self.dropout.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        else:
            shares = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1) * keep[:, None, None, :]
            mixed = self.dropout(shares / shares.sum(dim=-1, keepdim=True).clamp_min(1e-12)) @ v
        return mixed.transpose(1, 2).flatten(-2)

    def finish(self, mixed: Tensor, rows: Tensor) -> Tensor:
        """Do all that follows attention, for the tokens that asked: projection, feed-forward, norms ``[..., d]``."""
        hidden = self.after_attention(mixed, rows)
        found: Tensor = self.output(self.intermediate(hidden), hidden)
        return found


class TokenLayers(nn.ModuleList):
    """The layers of an encoder, each a `TokenLayer`."""

    def __init__(self, model: Any) -> None:
        super().__init__(TokenLayer(layer) for layer in model.encoder.layer)

    def __iter__(self) -> Iterator[TokenLayer]:
        return super().__iter__()  # type: ignore[return-value]

    def __getitem__(self, index: int) -> TokenLayer:  # type: ignore[override]
        return super().__getitem__(index)  # type: ignore[return-value]


def alike(counts: Sequence[int], device: torch.device | None = None) -> list[tuple[Tensor, Tensor]]:
    """Group samples whose rows, ``counts`` of them each, lie one below the other, by their number of rows.

    For each number k > 0: the samples ``[g]`` that have k rows, and these rows ``[g, k]``, on the device.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    start = 0
    for sample, count in enumerate(counts):
        found.setdefault(count, []).append((sample, start))
        start += count
    groups = [(np.array(members), count) for count, members in sorted(found.items()) if count]
    pairs = [(members[:, 0], members[:, 1:] + np.arange(count)) for members, count in groups]
    return [(torch.tensor(samples, device=device), torch.tensor(rows, device=device)) for samples, rows in pairs]


@dataclass(frozen=True)
class LayerPrice:
    """MACs of a layer."""

    asking: int  # for a token that gets a new state: its query, and all that follows attention
    asked: int  # for a token that is attended to: its key and value
    pair: int  # for each pair of the two

    @classmethod
    def of(cls, layer: TokenLayer) -> LayerPrice:
        """Count on one token."""
        x = layer.query.weight.new_zeros(1, layer.query.in_features)
        asking = costs.count(lambda: layer.finish(layer.query(x), x))
        asked = costs.count(lambda: (layer.key(x), layer.value(x)))
        return cls(asking, asked, costs.count(lambda: layer.mix(x[None], x[None], x[None])))

    def __call__(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Return the MACs for so many tokens that ask and are asked, element by element."""
        return asking * self.asking + asked * self.asked + asking * asked * self.pair
