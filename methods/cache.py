"""The one folder eelit writes to on a user's machine.

`EELIT_CACHE` names another folder; otherwise it is the platform's cache folder for `eelit`. Sub-folders: `data` (fetched
files, see `eelit.methods.data.fetch`) and whatever methods derive from them.
"""

import os
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """The cache folder; it need not exist yet."""
    chosen = os.environ.get("EELIT_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("eelit", appauthor=False))
