"""Open the catalogue, and rebuild it first if the sources of the checkout have changed or the file is damaged."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from eelit.catalog.extras import Missing, demand
from eelit.catalog.faults import INTERRUPTED, INVALID_DATA, NOT_WRITTEN, RUN_FAILED, USAGE, CatalogueFault, Damaged
from eelit.catalog.query import Catalogue, made_from
from eelit.catalog.sources import HERE, as_text, checkout

DATABASE_VARIABLE = "EELIT_DB"
CACHE_VARIABLE = "EELIT_CACHE"
SHIPPED = os.path.join(HERE, "catalogue.sqlite")
BUILDING = ("sqlmodel", "pydantic", "pybtex", "pylatexenc", "yaml")
"""Packages that a build imports."""
SPOKEN = (USAGE, INVALID_DATA, RUN_FAILED, NOT_WRITTEN, INTERRUPTED)
"""Exit codes of a build that has said why it failed."""


def database_path(chosen: str | None = None) -> str:
    """Return where the database is: option, environment, the package, or one file per checkout in the user's cache."""
    named = chosen or os.environ.get(DATABASE_VARIABLE)
    return os.path.abspath(named) if named else own_path()


def own_path() -> str:
    """Return where the database is if nobody names another: whatever lies there is eelit's to replace."""
    root = checkout()
    if root is None:
        return SHIPPED
    from zlib import crc32

    cache = os.environ.get(CACHE_VARIABLE)
    if not cache:
        from platformdirs import user_cache_dir

        cache = user_cache_dir("eelit", appauthor=False)
    name = f"{os.path.basename(root)}-{crc32(os.fsencode(root)):08x}.sqlite"
    return os.path.join(os.path.abspath(os.path.expanduser(cache)), name)


def fingerprint(root: str) -> str:
    """Return names, sizes and times of all sources."""
    return "\n".join(sorted(_marks(root)))


def _marks(root: str) -> Iterator[str]:
    """The code of the two rooms counts as a source: it decides what the database holds."""
    folders = {"bib": (".bib", ".csv", ".py"), "catalog": (".yaml", ".py"), "catalog/entries": (".yaml",)}
    for folder, endings in folders.items():
        with os.scandir(os.path.join(root, folder)) as files:
            for file in files:
                if file.name.endswith(endings):
                    try:
                        status = file.stat()
                        yield f"{folder}/{as_text(file.name)} {status.st_size} {status.st_mtime_ns}"
                    except OSError:  # a link that leads nowhere, or a file removed just now
                        yield f"{folder}/{as_text(file.name)} lost"


def open_catalogue(chosen: str | None = None) -> Catalogue:
    """Open the database; in a checkout build it first if it is missing, damaged or older than its sources."""
    path, root = database_path(chosen), checkout()
    if root is None:
        return Catalogue(path, immutable=path == SHIPPED)
    opened, why = _open_if_any(path, root)
    if opened is not None and not _is_stale(opened, root):
        return opened
    code = _rebuild(path, why)
    if code == 0:
        if opened is not None:
            opened.close()
        return Catalogue(path)
    if opened is not None:
        print("eelit: going on with the catalogue as it was built before", file=sys.stderr)
        return opened
    raise RebuildFailed(code) from None


class RebuildFailed(CatalogueFault):
    """There is no catalogue and none could be built. It has no message if the build has said why."""

    def __init__(self, code: int) -> None:
        if code in SPOKEN:
            super().__init__()
        else:
            super().__init__(f"the catalogue could not be built (exit code {code}); `eelit build --debug` may say why")
        self.code = code if code in SPOKEN else RUN_FAILED


def _open_if_any(path: str, root: str) -> tuple[Catalogue | None, str]:
    """Return the database if there is one that can be used, and why one would build it.

    One that was made from here is made anew if it is damaged; of any other that is only told.
    """
    own = path == own_path()
    try:
        return Catalogue(path), "the catalogue is older than its sources"
    except Damaged:
        if not own and made_from(path) != as_text(root):
            raise
        return None, "the catalogue is damaged"
    except CatalogueFault:
        if not os.path.exists(path):
            return None, "there is no catalogue yet"
        if not own:
            raise
        return None, "the catalogue is of another version"


def _is_stale(catalogue: Catalogue, root: str) -> bool:
    """A database that was built from somewhere else is used as it is."""
    return catalogue.meta("root") == as_text(root) and catalogue.meta("fingerprint") != fingerprint(root)


def _rebuild(path: str, why: str) -> int:
    """Build in another process, so that a search itself never loads SQLModel."""
    import subprocess

    try:
        demand("site", *BUILDING)
    except Missing as fault:
        print(f"eelit: {why}; no new one is built: {fault}", file=sys.stderr)
        return fault.code
    print(f"eelit: {why}, building it", file=sys.stderr)
    sys.stderr.flush()
    command = [sys.executable, "-P", "-m", "eelit.catalog.database", path]
    return subprocess.run(command, check=False).returncode
