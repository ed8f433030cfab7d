"""The one folder eelit writes to on a user's machine.

`EELIT_CACHE` names another folder; otherwise it is the platform's cache folder for `eelit`. Inside, `data` holds what
was fetched (see `eelit.methods.data.fetch`) and `derived` what was made from it.
"""

import contextlib
import os
import uuid
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """The cache folder; it need not exist yet."""
    chosen = os.environ.get("EELIT_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("eelit", appauthor=False))


def store(target: Path, content: bytes) -> bool:
    """Write a file whole or not at all, making its folder; returns False where the cache is read-only or full."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True
