"""Keys and values by row: a cache of transformers of which some rows of the batch are written and read alone.

Kept apart because it loads transformers, which takes seconds: import it where a decoder is at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class Written(Exception):
    """Keys and values are stored, and nothing else was wanted of the layer."""


@dataclass
class Place:
    """Where all layers of a cache write next: ``rows`` (int64 ``[n]``; None: all), from ``position`` on."""

    total: int  # rows
    room: int  # positions to make room for at once
    rows: Tensor | None = None
    position: int = 0
    writes_only: bool = False


class RowLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, ``[N, heads, room, head width]``; behind its ``window``, if any, none is read.

    What it tells of lengths and offsets, from which models make their masks, is as transformers' own layers tell it.
    """

    keys: Any
    values: Any

    def __init__(self, place: Place, window: int | None) -> None:
        super().__init__()
        self.place, self.window = place, window
        self.is_sliding = window is not None

    def write(self, key: Tensor, value: Tensor) -> None:
        """Store the keys and values ``[n, heads, t, head width]`` of ``t`` tokens."""
        place, end = self.place, self.place.position + key.shape[2]
        self.keys = _with_room(self.keys, key, place.total, end, place.room)
        self.values = _with_room(self.values, value, place.total, end, place.room)
        self.is_initialized = True
        where = (slice(None) if place.rows is None else place.rows, slice(None), slice(place.position, end))
        self.keys[where] = key
        self.values[where] = value

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store, and return the keys and values of the same rows that the new tokens may attend to, their own last."""
        self.write(key, value)
        if self.place.writes_only:
            raise Written
        seen = slice(self._first, self.place.position + key.shape[2])
        return self._read(self.keys, seen), self._read(self.values, seen)

    def _read(self, stored: Tensor, seen: slice) -> Tensor:
        past = stored[:, :, seen]
        return past if self.place.rows is None else past.index_select(0, self.place.rows)

    @property
    def _first(self) -> int:
        """The first position that the next token may attend to."""
        return 0 if self.window is None else max(0, self.place.position - self.window + 1)

    def get_seq_length(self) -> int:
        """Return the number of tokens before the next."""
        return self.place.position

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many positions the next tokens may attend to, and the first of them."""
        return self.place.position + query_length - self._first, self._first


def _with_room(stored: Tensor | None, new: Tensor, rows: int, end: int, room: int) -> Tensor:
    """Return a tensor ``[rows, heads, at least end, head width]`` that holds what is stored, zero elsewhere."""
    if stored is not None and end <= stored.shape[2]:
        return stored
    length = max(room, end) if stored is None else max(2 * stored.shape[2], end)
    larger = new.new_zeros(rows, new.shape[1], length, new.shape[3])
    if stored is not None:
        larger[:, :, : stored.shape[2]] = stored
    return larger


class RowCache(Cache):  # type: ignore[misc]
    """The keys and values of all layers for ``rows`` texts; there is room for ``reach`` tokens, and more when needed.

    ``windows`` says how far each layer looks back (None: all the way). ``padding`` ``[N, position]`` is 0 at tokens
    that are none, or None if there are none such.
    """

    def __init__(self, windows: Sequence[int | None], rows: int, reach: int) -> None:
        self.place = Place(rows, reach)
        self.windows = tuple(windows)
        self.padding: Tensor | None = None
        super().__init__(layers=[RowLayer(self.place, window) for window in windows])

    @property
    def rows(self) -> Tensor | None:
        """The rows that are meant, int64 ``[n]``; None: all."""
        return self.place.rows

    @rows.setter
    def rows(self, rows: Tensor | None) -> None:
        self.place.rows = rows

    @property
    def position(self) -> int:
        """The number of tokens before the next."""
        return self.place.position

    def mask(self, ids: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Return which of all tokens so far and of ``ids [n, t]``, at the rows meant, are real; None: all.

        ``mask [n, t]`` says so of ``ids``. The result is ``[n, position + t]``.
        """
        if self.padding is None and (mask is None or bool(mask.all())):
            return None
        now = torch.ones_like(ids) if mask is None else mask
        past = ids.new_ones(len(ids), self.position) if self.padding is None else self.padding
        if self.padding is not None and self.rows is not None:
            past = past.index_select(0, self.rows)
        return torch.cat([past, now.to(past)], dim=1)

    def advance(self, ids: Tensor, mask: Tensor | None = None) -> None:
        """Go on behind ``ids [N, t]``, now that all layers have keys and values for all rows that go on."""
        self.rows = None
        self.padding = self.mask(ids, mask)
        self.place.position += ids.shape[1]

    def rewind(self, position: int) -> None:
        """Go back behind the first ``position`` tokens: what is stored from there on is read no more, and overwritten.

        Raises `ValueError` for a position that has not been reached.
        """
        if not 0 <= position <= self.position:
            raise ValueError(f"a cache of {self.position} tokens cannot go back to {position}")
        self.place.position = position
        self.padding = None if self.padding is None else self.padding[:, :position]

    @contextmanager
    def writes_only(self) -> Iterator[None]:
        """End layers by `Written` inside, as soon as their keys and values are stored."""
        self.place.writes_only = True
        try:
            yield
        except Written:
            pass
        finally:
            self.place.writes_only = False

    def copy(self, times: int = 1) -> RowCache:
        """Return a cache with the same rows ``times`` times, so that several generations start from one reading."""
        other = RowCache(self.windows, self.place.total * times, self.place.room)
        other.place.position = self.position
        other.padding = None if self.padding is None else self.padding.repeat(times, 1)
        for new, old in zip(other.layers, self.layers, strict=True):
            if old.is_initialized:
                new.keys, new.values = (stored.repeat(times, 1, 1, 1) for stored in (old.keys, old.values))
                new.is_initialized = True
        return other
