"""Faults that are the user's to mend: said in one sentence, with the exit code of the command line."""

from __future__ import annotations

import errno
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
    """The database is not there, or its place cannot be written to."""

    code = USAGE


class Damaged(CatalogueFault):
    """The database cannot be read, or holds something else than a catalogue."""

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        super().__init__(f"{path} {reason}; {remedy}")
        self.reason = reason  # without where and without what to do


class NotWritten(CatalogueFault):
    """There was no room, or the disk failed, while something was written."""

    code = NOT_WRITTEN


@contextmanager
def writing(place: object, remedy: str) -> Iterator[None]:
    """Name the place if there is no room for what is written meanwhile: the system itself often names none."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        reason = (error.strerror or str(error)).lower()
        raise NotWritten(f"{place} cannot be written ({reason}); make room on its disk, or {remedy}") from error
