"""A small Transformer that translates: an encoder, and a decoder that can be left after every block.

All exits share one output layer, tied to the one table of embeddings of both languages. The decoder is used by
`eelit.methods.backbones.decoding` as those of transformers are; its cache holds what was read of the source besides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.decoding import FORECAST
from eelit.methods.backbones.own_forward import HIDDEN, State
from eelit.methods.policies.base import checked


class Attention(nn.Module):
    """Attention with several heads; keys and values are made apart, for they may be kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values ``[n, heads, t, d / heads]`` of states ``[n, t, d]``."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what states ``[n, t, d]`` take from keys and values; ``mask [n, 1, t or 1, s]`` says what they may."""
        found = F.scaled_dot_product_attention(self._split(self.query(x)), keys, values, attn_mask=mask)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def feed_forward(width: int, inner: int, dropout: float) -> nn.Sequential:
    """Return two linear layers with ReLU between them."""
    return nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, width))


class EncoderBlock(nn.Module):
    """Attention, then the feed-forward part; each normalises what it reads and adds what it finds."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.feed = Attention(width, heads), feed_forward(width, inner, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map states ``[n, s, d]``, of which ``mask [n, 1, 1, s]`` says which are words, to states."""
        seen = self.norms[0](x)
        x = x + self.drop(self.attention(seen, *self.attention.keys_values(seen), mask))
        out: Tensor = x + self.drop(self.feed(self.norms[1](x)))
        return out


class DecoderBlock(nn.Module):
    """Attention to the text so far, attention to the source, and the feed-forward part, each as in the encoder."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.source = Attention(width, heads), Attention(width, heads)
        self.feed = feed_forward(width, inner, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values that this block makes of states ``[n, t, d]`` for later tokens."""
        return self.attention.keys_values(self.norms[0](x))

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor], source: tuple[Tensor, Tensor], seen: Tensor | None, words: Tensor
    ) -> Tensor:
        """Map states ``[n, t, d]`` to states, given keys and values of the text so far, ``x`` included, and the source.

        ``seen [t, t]`` says which of the text each may attend to (None: all), ``words [n, 1, 1, s]`` which of the
        source are words.
        """
        x = x + self.drop(self.attention(self.norms[0](x), *past, seen))
        x = x + self.drop(self.source(self.norms[1](x), *source, words))
        out: Tensor = x + self.drop(self.feed(self.norms[2](x)))
        return out


@dataclass
class SourceCache:
    """Keys and values of the text so far and of the source, for each block, of some rows; see `RowCache`."""

    keys: Tensor  # [blocks, N, heads, reach, d / heads]
    values: Tensor
    source: list[tuple[Tensor, Tensor]]  # for each block, [N, heads, s, d / heads]
    words: Tensor  # [N, 1, 1, s]
    forecast: Tensor  # [N, …]
    rows: Tensor | None = None  # those that are meant, int64 [n]; None: all
    position: int = 0

    def of_rows(self, x: Tensor) -> Tensor:
        """Return the rows that are meant of ``[N, …]``."""
        return x if self.rows is None else x.index_select(0, self.rows)

    def write(self, i: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values ``[n, heads, 1, …]`` of block ``i``; return those of the same rows up to them."""
        for stored, new in ((self.keys, keys), (self.values, values)):
            if self.rows is None:
                stored[i, :, :, self.position] = new[:, :, 0]
            else:
                stored[i, self.rows, :, self.position] = new[:, :, 0]
        seen = self.position + 1
        return self.of_rows(self.keys[i, :, :, :seen]), self.of_rows(self.values[i, :, :, :seen])

    def advance(self, ids: Tensor) -> None:
        """Go on behind ``ids [N, 1]``, now that all blocks have keys and values for all rows that go on."""
        self.rows, self.position = None, self.position + ids.shape[1]

    def copy(self, times: int = 1) -> SourceCache:
        """Return a cache with the same rows ``times`` times."""
        again = (1, times, 1, 1, 1)
        return SourceCache(
            self.keys.repeat(again),
            self.values.repeat(again),
            [(k.repeat(again[1:]), v.repeat(again[1:])) for k, v in self.source],
            self.words.repeat(again[1:]),
            self.forecast.repeat(times, *[1] * (self.forecast.dim() - 1)),
            position=self.position,
        )


class Translator(nn.Module):
    """Encoder and decoder; token 0 is padding in both languages.

    A method may put two modules of its own there. ``predictor`` maps what the output layer reads of a block's states
    ``[..., d]`` to what a policy is shown of them; ``forecaster`` maps the mean ``[N, d]`` of the encoder's outputs for
    a source to what a policy is shown of the whole source.
    """

    predictor: nn.Module
    forecaster: nn.Module
    places: Tensor

    def __init__(
        self,
        *,
        vocabulary: int,
        encoders: int,
        blocks: int,
        width: int,
        heads: int,
        inner: int,
        dropout: float,
        reach: int,
        seed: int,
    ) -> None:
        for name, n in {"encoders": encoders, "blocks": blocks, "heads": heads}.items():
            checked("Translator", name, n, whole=True, least=1)
        if width % (2 * heads):
            raise ValueError(f"Translator: a width of {width} is not divided by twice its {heads} heads")
        torch.manual_seed(seed)
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        shape = (width, heads, inner, dropout)
        self.encoder = nn.ModuleList(EncoderBlock(*shape) for _ in range(encoders))
        self.blocks = nn.ModuleList(DecoderBlock(*shape) for _ in range(blocks))
        self.read_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        self.register_buffer("places", waves(reach, width))
        self.predictor, self.forecaster = nn.Identity(), nn.Identity()
        self.eval()

    @property
    def exits(self) -> int:
        """Number of blocks of the decoder: each is an exit."""
        return len(self.blocks)

    @property
    def windows(self) -> list[int | None]:
        """How far each block looks back: all the way."""
        return [None] * self.exits

    def block(self, i: int) -> DecoderBlock:
        """Return block ``i`` of the decoder."""
        return cast(DecoderBlock, self.blocks[i])

    def pruned(self, kept: Sequence[int]) -> Translator:
        """Return the network with some of the decoder's blocks alone, in order, all weights shared with this one."""
        other = copy(self)
        other._modules = {**self._modules, "blocks": nn.ModuleList(self.blocks[i] for i in kept)}
        return other

    def matrices(self) -> list[nn.Parameter]:
        """Return the matrices of all blocks."""
        return [p for part in (self.encoder, self.blocks) for p in part.parameters() if p.ndim == 2]

    def embed(self, ids: Tensor, first: int = 0) -> Tensor:
        """Return the states ``[n, t, d]`` of ids ``[n, t]`` at places ``first``, ``first + 1`` …"""
        places = self.places[first : first + ids.shape[1]]
        out: Tensor = self.drop(self.embedding(ids) * math.sqrt(self.width) + places)
        return out

    def encode(self, sources: Tensor, run: Sequence[bool] | None = None) -> tuple[Tensor, Tensor]:
        """Return the encoder's outputs ``[n, s, d]`` for sources ``[n, s]``, and which of these are no padding.

        ``run`` says which of its blocks are run (None: all); the others hand on what they are given.
        """
        words = (sources != 0)[:, None, None]
        x = self.embed(sources)
        for block, runs in zip(self.encoder, run or [True] * len(self.encoder), strict=True):
            x = block(x, words) if runs else x
        return self.read_norm(x), words

    def states(self, sources: Tensor, ids: Tensor) -> Tensor:
        """Return the states of ids ``[n, t]`` after every block, ``[E, n, t, d]``, all of them at full depth."""
        return torch.stack(self.decode(*self.encode(sources), ids))

    def decode(
        self,
        read: Tensor,
        words: Tensor,
        ids: Tensor,
        depths: Tensor | None = None,
        run: Sequence[bool] | None = None,
    ) -> list[Tensor]:
        """Return the states of ids ``[n, t]`` after every block, each ``[n, t, d]``, given the encoder's outputs.

        A token that leaves at block ``depths [n, t]`` (from 0) keeps its state from there on, by masking. ``run`` says
        which blocks are run (None: all); the others hand on what they are given.
        """
        seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        x, found = self.embed(ids), []
        for i, runs in enumerate(run or [True] * self.exits):
            if runs:
                block = self.block(i)
                new = block(x, block.keys_values(x), block.source.keys_values(read), seen, words)
                x = new if depths is None else torch.where((depths >= i)[..., None], new, x)
            found.append(x)
        return found

    def head(self, states: Tensor) -> Tensor:
        """Map states ``[..., d]`` after any block to logits ``[..., V]``."""
        return F.linear(self.norm(states), self.embedding.weight)

    def gate(self, states: Tensor) -> Tensor:
        """Return what a policy is shown of states ``[..., d]`` after any block, normalised as for the output layer."""
        shown: Tensor = self.predictor(self.norm(states))
        return shown

    def mean_of(self, read: Tensor, words: Tensor) -> Tensor:
        """Return the mean ``[n, d]`` of the encoder's outputs for each source, padding left out."""
        weight = words[:, 0, 0, :, None].to(read.dtype)
        return (read * weight).sum(dim=1) / weight.sum(dim=1)

    @torch.no_grad()
    def read(self, sources: Tensor, reach: int) -> SourceCache:
        """Return a cache that has read sources ``[N, s]``, with room for ``reach`` tokens of their translations."""
        read, words = self.encode(sources)
        source = [self.block(i).source.keys_values(read) for i in range(self.exits)]
        heads = source[0][0].shape[1]
        room = read.new_zeros(2, self.exits, len(sources), heads, reach, self.width // heads)
        return SourceCache(room[0], room[1], source, words, self.forecaster(self.mean_of(read, words)))

    def start(self, ids: Tensor, cache: SourceCache) -> State:
        """Map token ids ``[n, 1]`` to the state before the first block, behind what is in the cache at its rows."""
        return {HIDDEN: self.embed(ids, cache.position), FORECAST: cache.of_rows(cache.forecast)}

    def layer(self, i: int, state: State, cache: SourceCache) -> State:
        """Run block ``i``; its keys and values are stored in the cache, at the cache's rows."""
        block, x = self.block(i), state[HIDDEN]
        past = cache.write(i, *block.keys_values(x))
        keys, values = cache.source[i]
        source = cache.of_rows(keys), cache.of_rows(values)
        return {**state, HIDDEN: block(x, past, source, None, cache.of_rows(cache.words))}

    def fill(self, i: int, state: State, cache: SourceCache) -> None:
        """Give block ``i`` the keys and values of a state that skips it, by its own projections."""
        cache.write(i, *self.block(i).keys_values(state[HIDDEN]))


def waves(reach: int, width: int) -> Tensor:
    """Return the sines and cosines ``[reach, width]`` that tell places apart."""
    angles = torch.arange(reach)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    return torch.cat([angles.sin(), angles.cos()], dim=1)
