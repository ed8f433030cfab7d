"""Put a site where it belongs: made aside by one build at a time, and exchanged with the old one in one step.

Whenever a build is killed, the old site or the new one is there, whole; what lies aside the next build removes.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from eelit.site.generator.faults import SiteBusy

HERE, EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux's renameat2(2)."""


@contextmanager
def aside(site: Path) -> Iterator[Path]:
    """Give an empty folder beside the site, on the same disk, for a while. Raises `SiteBusy` for a second build."""
    site.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_beside(site, "lock"), timeout=0)  # the system unlocks it if this process is killed
    try:
        lock.acquire()
    except Timeout as error:
        raise SiteBusy(f"another build of {site} is under way; wait until it has ended") from error
    try:
        _recover(site)
        folder = _beside(site, "new")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def put(made: Path, site: Path) -> None:
    """Put the folder in the place of the site. What was there before is where the folder was, or gone."""
    if not site.exists():
        made.rename(site)
    elif not _exchanged(made, site):
        old = _beside(site, "old")
        site.rename(old)  # killed here, the next build puts it back
        made.rename(site)
        shutil.rmtree(old)


def _beside(site: Path, what: str) -> Path:
    return site.with_name(f".{site.name}.{what}")


def _recover(site: Path) -> None:
    """Mend what a build left that was killed between two renames."""
    old = _beside(site, "old")
    if old.exists() and not site.exists():
        old.rename(site)
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False if the system or the disk cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    done: int = rename(HERE, os.fsencode(one), HERE, os.fsencode(other), ctypes.c_uint(EXCHANGE))
    return done == 0
