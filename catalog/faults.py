"""Faults that are the user's to mend: said in one sentence, with the exit code of the command line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

NOTHING_FOUND, USAGE, INVALID_DATA, RUN_FAILED, NOT_WRITTEN, INTERRUPTED = 1, 2, 3, 4, 5, 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What an operating system says when a disk has no room left, gives this user no more of it, or fails."""


class CatalogueFault(Exception):
    """Something is wrong with the catalogue or with what was asked of it."""

    code = INVALID_DATA


class UnknownName(CatalogueFault):
    """A work, term or field that does not exist was asked for."""

    code = USAGE


class Unavailable(CatalogueFault):
    """What is needed is not there: a database, a checkout."""

    code = USAGE


class Damaged(CatalogueFault):
    """The database cannot be read, or holds something else than a catalogue."""

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        super().__init__(f"{path} {reason}; {remedy}")


class NotWritten(CatalogueFault):
    """Something could not be written: there was no room, no permission, or something else lies there."""

    code = NOT_WRITTEN


def not_written(place: object, error: OSError, remedy: str) -> NotWritten:
    """Return the fault that says which place could not be written, why, and what to do."""
    room = "make room on its disk, or " if error.errno in FULL else ""
    return NotWritten(f"{place} cannot be written ({(error.strerror or str(error)).lower()}); {room}{remedy}")


@contextmanager
def writing(place: str | os.PathLike[str], remedy: str) -> Iterator[None]:
    """Name the place if what is written meanwhile cannot be: of a full disk the system itself often names none.

    Other errors count if they name the place, something beside it (where files are made first) or a folder above it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL and not _near(error.filename, place):
            raise
        raise not_written(os.fspath(place), error, remedy) from error


def _near(name: object, place: str | os.PathLike[str]) -> bool:
    """Tell whether a name that an error gives is beside or below a place, or above it."""
    if not isinstance(name, str | bytes):
        return False
    path, folder = os.path.abspath(os.fsdecode(name)), os.path.dirname(os.path.abspath(place))
    return os.path.commonpath((path, folder)) in (path, folder)
