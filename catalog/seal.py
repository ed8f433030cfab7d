"""The seal of a catalogue database: a last line that tells the CRC-32 of all bytes before it, checked at every opening.

SQLite reads no further than the pages that its header counts, so that a line may follow them. A checksum finds what
happens to files by accident; whoever wants to deceive could build a database of their own.
"""

from __future__ import annotations

import os
from typing import BinaryIO
from zlib import crc32

SEAL = b"\neelit seal, written %020d, crc32 "
"""How the line begins; the time is the file's own, in nanoseconds since 1970."""
SUM = b"%08x\n"
SUM_LENGTH = 9
AT_ONCE = 1 << 20
ALWAYS = 16_000_000
"""Bytes up to which all are read at each opening (some 10 ms at most); what is larger, only if its time has changed."""


def seal(path: str, written: int) -> None:
    """Give the database its seal, a new one in the place of an old, and this time in nanoseconds. Raises `OSError`."""
    with open(path, "r+b") as file:
        header = file.read(32)
        page = int.from_bytes(header[16:18], "big")
        file.truncate((65_536 if page == 1 else page) * int.from_bytes(header[28:32], "big"))
        end = file.seek(0, os.SEEK_END)
        file.write(SEAL % written)
        file.write(SUM % _sum(file, end + len(SEAL % written)))
    os.utime(path, ns=(written, written))


def fault(path: str) -> str:
    """Return what is wrong with the seal of a database, or nothing if the file is as it was sealed."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            line = SEAL % status.st_mtime_ns
            start = max(0, status.st_size - SUM_LENGTH - len(line))
            file.seek(start)
            told = file.read()
            if status.st_size > ALWAYS and told.startswith(line):
                return ""
            whole = told[-SUM_LENGTH:] == SUM % _sum(file, status.st_size - SUM_LENGTH)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "" if whole else "its checksum is not that of its content"


def _sum(file: BinaryIO, size: int) -> int:
    """Return the CRC-32 of so many bytes from the start, after which the file stands behind them."""
    total, left = 0, size
    file.seek(0)
    while left > 0 and (part := file.read(min(AT_ONCE, left))):
        total, left = crc32(part, total), left - len(part)
    return total
