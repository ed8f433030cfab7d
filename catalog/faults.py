"""Faults that are the user's to mend: said in one sentence, with the exit code of the command line."""

from __future__ import annotations

NOTHING_FOUND, USAGE, INVALID_DATA = 1, 2, 3


class CatalogueFault(Exception):
    """Something is wrong with the catalogue or with what was asked of it."""

    code = INVALID_DATA


class UnknownName(CatalogueFault):
    """A work, term or field that does not exist was asked for."""

    code = USAGE


class Unavailable(CatalogueFault):
    """The database is not there, or its place cannot be written to."""

    code = USAGE
