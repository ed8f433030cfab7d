"""What is worked out once from fetched data and kept in the cache, named by a hash of all it depends on."""

import contextlib
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data.cache import cache_root, keep, kept


def derived(name: str, depends: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, from the cache if it is there and whole; `depends` states everything that could change it.

    Where the cache is read-only or full, it is made every time.
    """
    place = _place(name, depends)
    known = kept(place)
    if known is not None:
        return known
    made = make()
    with contextlib.suppress(OSError):
        keep(place, made)
    return made


def arrays(name: str, depends: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays `make` returns, kept as `derived` keeps bytes."""

    def packed() -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **make())
        return buffer.getvalue()

    with np.load(io.BytesIO(derived(name, depends, packed)), allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def _place(name: str, depends: str) -> Path:
    return cache_root() / "derived" / f"{name}-{hashlib.sha256(depends.encode()).hexdigest()[:16]}.kept"
