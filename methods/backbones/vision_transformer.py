"""A small vision transformer: patches as tokens behind a class token, encoder layers, and the head that reads it."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn


class Layout(NamedTuple):
    """The tokens that a branch reads, and the sizes inside branches."""

    g: int  # patches a side
    d: int  # width of a token
    heads: int  # of attention
    filters: int  # of a convolution


class Embedding(nn.Module):
    """An image as tokens: each patch by one linear layer, a class token before them, and where each stands."""

    def __init__(self, channels: int, patch: int, layout: Layout) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, layout.d, patch, stride=patch)
        self.token = nn.Parameter(torch.randn(1, 1, layout.d) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 1 + layout.g**2, layout.d) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[N, C, H, W]`` to tokens ``[N, 1 + g², d]``, the patches row by row."""
        P = self.patches(x).flatten(2).mT
        return torch.cat([self.token.expand(len(x), -1, -1), P], dim=1) + self.positions


def encoder_layer(layout: Layout) -> nn.TransformerEncoderLayer:
    """Return one layer: attention and an MLP of 4 d units, each behind layer normalisation and added to its input."""
    return nn.TransformerEncoderLayer(
        layout.d, layout.heads, 4 * layout.d, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


class OfClassToken(nn.Sequential):
    """Layers that read the class token c alone."""

    def forward(self, Z: Tensor) -> Tensor:
        """Return logits ``[N, classes]`` from tokens ``[N, 1 + g², d]``."""
        return cast(Tensor, super().forward(Z[:, 0]))


def own_head(layout: Layout, classes: int) -> OfClassToken:
    """Return the network's own head: layer normalisation and a dense layer on c."""
    return OfClassToken(nn.LayerNorm(layout.d), nn.Linear(layout.d, classes))
