"""Open the catalogue, and rebuild it first if the sources of the checkout have changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from eelit.catalog.faults import CatalogueFault
from eelit.catalog.query import Catalogue
from eelit.catalog.sources import HERE, checkout

DATABASE_VARIABLE = "EELIT_DB"
CACHE_VARIABLE = "EELIT_CACHE"
SHIPPED = os.path.join(HERE, "catalogue.sqlite")
MOST_FILES = 1_000  # beyond, looking at every file would cost more than the search itself


def database_path(chosen: str | None = None) -> str:
    """Return where the database is: option, environment, the package, or one file per checkout in the user's cache."""
    named = chosen or os.environ.get(DATABASE_VARIABLE)
    if named:
        return os.path.abspath(named)
    root = checkout()
    if root is None:
        return SHIPPED
    from zlib import crc32

    cache = os.environ.get(CACHE_VARIABLE)
    if not cache:
        from platformdirs import user_cache_dir

        cache = user_cache_dir("eelit", appauthor=False)
    return os.path.join(os.path.expanduser(cache), f"{os.path.basename(root)}-{crc32(root.encode()):08x}.sqlite")


def fingerprint(root: str) -> str:
    """Return names, sizes and times of all sources, or nothing if there are too many to look at."""
    lines = sorted(_marks(root))
    return "\n".join(lines) if len(lines) < MOST_FILES else ""


def _marks(root: str) -> Iterator[str]:
    """The code of the two rooms counts as a source: it decides what the database holds."""
    folders = {"bib": (".bib", ".csv", ".py"), "catalog": (".yaml", ".py"), "catalog/entries": (".yaml",)}
    for folder, endings in folders.items():
        with os.scandir(os.path.join(root, folder)) as files:
            for file in files:
                if file.name.endswith(endings):
                    status = file.stat()
                    yield f"{folder}/{file.name} {status.st_size} {status.st_mtime_ns}"


def open_catalogue(chosen: str | None = None) -> Catalogue:
    """Open the database; in a checkout build it first if it is missing or older than its sources."""
    path, root = database_path(chosen), checkout()
    if root is None:
        return Catalogue(path, immutable=path == SHIPPED)
    opened = _open_if_any(path, replaceable=not (chosen or os.environ.get(DATABASE_VARIABLE)))
    if opened is not None and not _is_stale(opened, root):
        return opened
    code = _rebuild(path, "the catalogue is older than its sources" if opened else "there is no catalogue yet")
    if code == 0:
        if opened is not None:
            opened.close()
        return Catalogue(path)
    if opened is not None:
        print("eelit: going on with the catalogue as it was built before", file=sys.stderr)
        return opened
    raise RebuildFailed(code) from None


class RebuildFailed(CatalogueFault):
    """There is no catalogue and none could be built. It has no message: the build has said why."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


def _open_if_any(path: str, *, replaceable: bool) -> Catalogue | None:
    """Return the database if there is one; in the cache one that cannot be read may be replaced."""
    try:
        return Catalogue(path)
    except CatalogueFault:
        if os.path.exists(path) and not replaceable:
            raise
        return None


def _is_stale(catalogue: Catalogue, root: str) -> bool:
    """A database that was built from somewhere else is used as it is."""
    if catalogue.meta("root") != root:
        return False
    now = fingerprint(root)
    return now != "" and catalogue.meta("fingerprint") != now


def _rebuild(path: str, why: str) -> int:
    """Build in another process, so that a search itself never loads SQLModel."""
    import subprocess

    print(f"eelit: {why}, building it", file=sys.stderr)
    sys.stderr.flush()
    command = [sys.executable, "-P", "-m", "eelit.catalog.database", path]
    return subprocess.run(command, check=False).returncode
