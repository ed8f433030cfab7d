"""The encoder of Whisper tiny.en, which others pre-trained: its layers, and its weights from their file.

The file is CTranslate2's: names, shapes and half-precision numbers one after the other, read here without that library
and without running anything.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.data import fetch
from eelit.methods.engine.audio import HEARD

ITEM = "whisper-tiny-en"
WIDTH, HEADS, LAYERS = 384, 6, 4
TYPES = {0: "<f4", 4: "<f2"}
"""Codes of the file for what numbers are of."""


class Stem(nn.Module):
    """From what is heard ``[N, 80, T]`` (`audio.heard_by_whisper`) to states ``[N, T / 2, 384]``, positions added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(HEARD, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.register_buffer("positions", torch.zeros(1500, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Shorten, and add positions."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(x)))).transpose(1, 2)
        found: Tensor = x + self.get_buffer("positions")[: x.shape[1]]
        return found


class Layer(nn.Module):
    """Attention over all states and a feed-forward block, each behind a layer norm and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.enter, self.leave = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return states ``[N, T, 384]``."""
        q, k, v = self.enter(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.leave(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        found: Tensor = x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        return found


def encoder() -> tuple[Stem, list[Layer]]:
    """Return the stem and the four layers with their pre-trained weights. Raises `DataUnavailable` without the file."""
    weights = read_weights(fetch.path(ITEM) / "model.bin", "encoder/")
    stem, layers = Stem(), [Layer() for _ in range(LAYERS)]
    stem.load_state_dict({
        **{f"{conv}.{part}": weights[f"{conv}/{part}"] for conv in ("conv1", "conv2") for part in ("weight", "bias")},
        "positions": weights["position_encodings/encodings"],
    })  # fmt: skip
    places = {
        "norm1": "self_attention/layer_norm", "enter": "self_attention/linear_0", "leave": "self_attention/linear_1",
        "norm2": "ffn/layer_norm", "wide": "ffn/linear_0", "narrow": "ffn/linear_1",
    }  # fmt: skip
    for i, layer in enumerate(layers):
        state = {}
        for ours, theirs in places.items():
            names = ("gamma", "beta") if ours.startswith("norm") else ("weight", "bias")
            for part, name in zip(("weight", "bias"), names, strict=True):
                state[f"{ours}.{part}"] = weights[f"layer_{i}/{theirs}/{name}"]
        layer.load_state_dict(state)
    return stem, layers


def read_weights(path: Path, under: str) -> dict[str, Tensor]:
    """Return the floating-point variables whose names begin with ``under``, by the rest of their names.

    Raises `ValueError` for a file that is not laid out as said above.
    """
    raw, at = path.read_bytes(), 0

    def number(kind: str) -> int:
        nonlocal at
        (found,) = struct.unpack_from(f"<{kind}", raw, at)
        at += struct.calcsize(kind)
        return int(found)

    def word() -> str:
        nonlocal at
        size = number("H")
        at += size
        return raw[at - size : at - 1].decode()

    found = {}
    try:
        number("I"), word(), number("I")  # version, name and revision of the layout
        for _ in range(number("I")):
            name, shape = word(), tuple(number("I") for _ in range(number("B")))
            kind, size = number("B"), number("I")
            if name.startswith(under) and kind in TYPES:
                values = np.frombuffer(raw, dtype=TYPES[kind], count=math.prod(shape), offset=at)
                found[name.removeprefix(under)] = torch.from_numpy(values.astype(np.float32).reshape(shape))
            at += size
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} does not hold weights as CTranslate2 writes them: {error}") from error
    return found
