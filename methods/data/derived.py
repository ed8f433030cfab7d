"""Arrays worked out once from fetched data and kept in the cache, named by a hash of all they depend on."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data.cache import cache_root, store


def place(name: str, depends: str, suffix: str) -> Path:
    """The file for a result; `depends` states everything that could change it."""
    return cache_root() / "derived" / f"{name}-{hashlib.sha256(depends.encode()).hexdigest()[:16]}{suffix}"


def arrays(name: str, depends: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays `make` returns, from the cache if they are there and whole; where it is read-only, made every time."""
    kept = place(name, depends, ".npz")
    try:
        with np.load(kept, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        made = make()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **made)
    store(kept, buffer.getvalue())
    return made
