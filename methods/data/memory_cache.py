"""Loaded data stay in memory for the next caller until `forget` drops them: some take hundreds of megabytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_LOADERS: list[Any] = []


def in_memory(most: int | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a loader remember what it returned for the last ``most`` different calls (None: for all)."""

    def keeping(loader: Callable[P, T]) -> Callable[P, T]:
        remembering: Any = lru_cache(maxsize=most)(loader)
        _LOADERS.append(remembering)
        found: Callable[P, T] = remembering
        return found

    return keeping


def forget() -> None:
    """Drop everything that loaders remember."""
    for loader in _LOADERS:
        loader.cache_clear()


def loaders() -> tuple[Any, ...]:
    """Return all that remember, with `functools.lru_cache`'s ways to ask them."""
    return tuple(_LOADERS)
