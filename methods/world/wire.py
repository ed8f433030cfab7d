"""What crosses a link, as the bytes that really do: states of a network, packed on one side, unpacked on the other."""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.utils import _pytree as pytree


class Codec(Protocol):
    """A way to write the state of one sample (first axis 1) as bytes, and to read it again."""

    lossless: ClassVar[bool]  # whether what is read is what was written, to the last bit

    def pack(self, state: Any) -> bytes:
        """Return a state as bytes."""
        ...

    def unpack(self, message: bytes) -> Any:
        """Return the state in such bytes."""
        ...


@dataclass(frozen=True)
class Whole:
    """A state of any structure as it is, in the format of safetensors; how tensors are nested is told along with them.

    Its size follows from shapes and types alone, not from values.
    """

    lossless: ClassVar[bool] = True

    def pack(self, state: Any) -> bytes:
        """Return all tensors of a nesting; whatever else it holds must be what JSON can tell."""
        parts, structure = pytree.tree_flatten(state)
        tensors = {str(i): part.contiguous().cpu() for i, part in enumerate(parts) if isinstance(part, Tensor)}
        others = {str(i): part for i, part in enumerate(parts) if not isinstance(part, Tensor)}
        nested = {"structure": pytree.treespec_dumps(structure), "others": json.dumps(others)}
        return save(tensors, metadata=None if isinstance(state, Tensor) else nested)

    def unpack(self, message: bytes) -> Any:
        """Return the nesting."""
        tensors = load(message)
        head = json.loads(message[8 : 8 + int.from_bytes(message[:8], "little")]).get("__metadata__")
        if head is None:
            return tensors["0"]
        parts = {**tensors, **json.loads(head["others"])}
        return pytree.tree_unflatten(
            [parts[str(i)] for i in range(len(parts))], pytree.treespec_loads(head["structure"])
        )


@dataclass(frozen=True)
class Floats:
    """Numbers of a shape that both sides know, four bytes each."""

    shape: tuple[int, ...]
    lossless: ClassVar[bool] = True

    def pack(self, state: Tensor) -> bytes:
        """Return the numbers in order."""
        return state.detach().cpu().numpy().astype("<f4").tobytes()

    def unpack(self, message: bytes) -> Tensor:
        """Return the numbers."""
        return torch.from_numpy(np.frombuffer(message, "<f4").astype(np.float32).reshape(self.shape))


@dataclass(frozen=True)
class Signs:
    """Numbers that are +1 or -1, of a shape that both sides know: a bit each, the last byte filled up."""

    shape: tuple[int, ...]
    lossless: ClassVar[bool] = True

    def pack(self, state: Tensor) -> bytes:
        """Return the bits, 1 for +1."""
        return np.packbits(state.detach().cpu().numpy().ravel() > 0).tobytes()

    def unpack(self, message: bytes) -> Tensor:
        """Return the numbers, as float32."""
        bits = np.unpackbits(np.frombuffer(message, np.uint8), count=math.prod(self.shape))
        return torch.from_numpy((bits.astype(np.float32) * 2 - 1).reshape(self.shape))


@dataclass(frozen=True)
class Quantised:
    """A tensor in ``2^bits`` equal steps from its least to its greatest number, a byte each, then compressed by zlib.

    ``q = round((x - a) / s)`` with ``s = (b - a) / (2^bits - 1)``, and ``x' = a + s q``: what ReLU made 0 stays exactly
    0, and such zeros compress well. Before them stand the shape, a and s. A tensor that is not finite arrives as NaN.
    """

    bits: int = 8  # at most 8
    level: int = 1  # of zlib, from 1 (fast) to 9
    lossless: ClassVar[bool] = False

    def pack(self, state: Tensor) -> bytes:
        """Return the steps, compressed."""
        x = state.detach().cpu().float().contiguous().numpy()
        low, high = float(x.min()), float(x.max())
        if not math.isfinite(high - low):
            low, high, x = math.nan, math.nan, np.zeros_like(x)
        step = (high - low) / (2**self.bits - 1) or 1.0
        steps = np.nan_to_num(np.rint((x - np.float32(low)) / np.float32(step))).astype(np.uint8)
        head = struct.pack(f"<B{x.ndim}Hff", x.ndim, *x.shape, low, step)
        return head + zlib.compress(steps.tobytes(), self.level)

    def unpack(self, message: bytes) -> Tensor:
        """Return the numbers that the steps stand for."""
        axes = message[0]
        *shape, low, step = struct.unpack_from(f"<{axes}Hff", message, 1)
        start = 1 + struct.calcsize(f"<{axes}Hff")
        steps = np.frombuffer(zlib.decompress(message[start:]), np.uint8).reshape(shape)
        return torch.from_numpy(np.float32(low) + np.float32(step) * steps.astype(np.float32))


@dataclass(frozen=True)
class Row:
    """Several tensors in a row, as a rule remembers them: safetensors, without a word on how they are nested."""

    lossless: ClassVar[bool] = True

    def pack(self, state: tuple[Tensor, ...]) -> bytes:
        """Return the tensors in order; nothing if there are none."""
        return save({str(i): part.contiguous().cpu() for i, part in enumerate(state)}) if state else b""

    def unpack(self, message: bytes) -> tuple[Tensor, ...]:
        """Return the tensors."""
        tensors = load(message) if message else {}
        return tuple(tensors[str(i)] for i in range(len(tensors)))
