"""Text decoders from transformers with an exit after every layer: keys and values by row, so that rows can leave.

The layers are those of transformers, called one by one. Any model built like Llama (Mistral, Qwen2, Qwen3 …: layers
with ``input_layernorm``, ``self_attn.k_proj`` and ``v_proj``, one rotary embedding, ``model.norm``, ``lm_head``) takes
the same road as the small one built here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RowCache:
    """Keys and values of every layer, ``[N, heads, reach, head width]`` each, written and read for some rows only.

    It stands where transformers' layers expect their cache: they call ``update``. Which ``rows`` are meant (int64
    ``[n]``; None: all) and at which ``position`` the next tokens are is set from outside.
    """

    def __init__(self, layers: int, rows: int, heads: int, reach: int, width: int) -> None:
        shape = (rows, heads, reach, width)
        self.keys = [torch.zeros(shape) for _ in range(layers)]
        self.values = [torch.zeros(shape) for _ in range(layers)]
        self.rows: Tensor | None = None
        self.position = 0

    def write(self, key: Tensor, value: Tensor, layer: int) -> None:
        """Store the keys and values ``[n, heads, t, head width]`` of ``t`` tokens from ``position`` on, at ``rows``."""
        span = slice(self.position, self.position + key.shape[2])
        where = (slice(None) if self.rows is None else self.rows, slice(None), span)
        self.keys[layer][where] = key
        self.values[layer][where] = value

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store, and return all keys and values so far, ``[n, heads, position + t, head width]``, of the same rows."""
        self.write(key, value, layer)
        end = self.position + key.shape[2]
        return self._read(self.keys[layer], end), self._read(self.values[layer], end)

    def _read(self, stored: Tensor, end: int) -> Tensor:
        past = stored[:, :, :end]
        return past if self.rows is None else past.index_select(0, self.rows)

    def copy(self, times: int = 1) -> RowCache:
        """Return a cache with the same rows ``times`` times, so that several generations start from one reading."""
        other = object.__new__(RowCache)
        other.keys, other.values = ([t.repeat(times, 1, 1, 1) for t in part] for part in (self.keys, self.values))
        other.rows, other.position = None, self.position
        return other


class ExitDecoder(nn.Module):
    """A decoder-only language model of transformers whose every layer is an exit, all through its one output head.

    ``gate`` is what a method may put there: a module from the states ``[..., d]`` after any layer to what its policy
    shall see of them. By itself it gives the states.
    """

    language_model: Any
    gate: nn.Module

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.language_model = language_model
        self.gate = nn.Identity()

    @property
    def _body(self) -> Any:
        return self.language_model.model

    @property
    def width(self) -> int:
        """Size of a state, d."""
        return int(self._body.config.hidden_size)

    @property
    def exits(self) -> int:
        """Number of exits: of layers."""
        return len(self._body.layers)

    def embed(self, ids: Tensor) -> Tensor:
        """Map token ids ``[n, t]`` to states ``[n, t, d]`` before the first layer."""
        states: Tensor = self._body.embed_tokens(ids)
        return states

    def angles(self, start: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rotary embedding (cosines, sines; ``[1, length, head width]``) of positions from ``start`` on."""
        cos, sin = self._body.rotary_emb(like, torch.arange(start, start + length, device=like.device)[None])
        return cos, sin

    def layer(self, i: int, states: Tensor, angles: tuple[Tensor, Tensor], cache: Any = None) -> Tensor:
        """Run layer ``i`` on states ``[n, t, d]``; without a cache the ``t`` tokens see one another, each its past."""
        out = self._body.layers[i](
            states, position_embeddings=angles, past_key_values=cache, use_cache=cache is not None
        )
        return out[0] if isinstance(out, tuple) else out

    def fill(self, i: int, states: Tensor, angles: tuple[Tensor, Tensor], cache: RowCache) -> None:
        """Give layer ``i`` the keys and values of states ``[n, 1, d]`` that skip it: its norm and two projections."""
        layer = self._body.layers[i]
        attention, normed = layer.self_attn, layer.input_layernorm(states)
        shape = (*states.shape[:2], -1, attention.head_dim)
        key, value = attention.k_proj(normed).view(shape), attention.v_proj(normed).view(shape)
        if hasattr(attention, "k_norm"):
            key = attention.k_norm(key)
        cache.write(rotate(key.transpose(1, 2), angles), value.transpose(1, 2), i)

    def head(self, states: Tensor) -> Tensor:
        """Map states ``[..., d]`` after any layer to logits ``[..., V]``: final norm and output projection."""
        logits: Tensor = self.language_model.lm_head(self._body.norm(states))
        return logits

    def states(self, ids: Tensor) -> Tensor:
        """Return the states of ids ``[n, t]`` after every layer, ``[E, n, t, d]``."""
        state = self.embed(ids)
        angles = self.angles(0, ids.shape[1], state)
        found = []
        for i in range(self.exits):
            state = self.layer(i, state, angles)
            found.append(state)
        return torch.stack(found)

    def forward(self, ids: Tensor) -> Tensor:
        """Return every exit's logits for the token after each of ids ``[n, t]``: ``[E, n, t, V]``."""
        return self.head(self.states(ids))

    def vectors(self) -> list[nn.Parameter]:
        """Return the parameters that are no layer's matrix: embeddings, output head, norms, biases."""
        inside = {id(p) for layer in self._body.layers for p in layer.parameters() if p.ndim == 2}
        return [p for p in self.language_model.parameters() if id(p) not in inside]

    def new_cache(self, rows: int, reach: int) -> RowCache:
        """Return an empty cache for ``rows`` sequences of at most ``reach`` tokens."""
        attention = self._body.layers[0].self_attn
        heads = attention.k_proj.out_features // attention.head_dim
        return RowCache(self.exits, rows, heads, reach, attention.head_dim)

    def read(self, prompts: Tensor, reach: int) -> RowCache:
        """Run prompts ``[N, t]`` through all layers and return the cache of their keys and values."""
        cache = self.new_cache(len(prompts), reach)
        state = self.embed(prompts)
        angles = self.angles(0, prompts.shape[1], state)
        for i in range(self.exits):
            state = self.layer(i, state, angles, cache)
        cache.position = prompts.shape[1]
        return cache


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn keys ``[n, heads, t, head width]`` by their positions' angles, as the rotary embedding has it."""
    cos, sin = (part.unsqueeze(1) for part in angles)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def small_decoder(
    *, vocabulary: int, layers: int, width: int, heads: int, inner: int, reach: int, seed: int
) -> ExitDecoder:
    """Return an untrained Llama of the given sizes, input and output embeddings tied, with its exits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=inner, max_position_embeddings=reach, tie_word_embeddings=True,
        attn_implementation="sdpa", bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return ExitDecoder(LlamaForCausalLM(config)).eval()
