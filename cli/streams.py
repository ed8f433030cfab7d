"""What the command line writes to: streams that are closed, full, or a terminal that obeys what it is sent."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# Kept are lines' ends and what eelit itself sends: bold, and a progress line that starts anew.
ACTS = re.compile(r"(\r\n|\r\x1b\[K|\x1b\[[01]m)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PROGRESS = re.compile(r"(\r|\x1b\[[01]m|\x1b\[K|\x1b\[A)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""On stderr the bars of libraries go back to the start of their line, or to the one above."""


class Guarded(io.TextIOWrapper):
    """A text stream on which a title from somebody's bibliography cannot move the cursor or rename the window."""

    acts = ACTS
    failed = False

    def write(self, text: str) -> int:
        """Write the text; what would act on a terminal becomes a replacement character."""
        try:
            super().write(self.acts.sub(lambda found: found[1] or "\ufffd", text))
        except OSError:
            self.failed = True
            raise
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        try:
            super().flush()
        except OSError:
            self.failed = True
            raise


class GuardedProgress(Guarded):
    """The same for stderr; what is done goes on to its end when nobody reads any more how far it is."""

    acts = PROGRESS

    def write(self, text: str) -> int:
        """Write the text, if anybody reads it."""
        with self._unless_unread():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written, if anybody reads it."""
        with self._unless_unread():
            super().flush()

    @contextmanager
    def _unless_unread(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            _to_nobody(self)
            self.failed = False


def guard() -> str:
    """Guard stdout and stderr; return why nothing can be printed, if so."""
    closed = sys.stdout is None
    for number in range(3):  # a closed stream's number must not go to the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, kind in (("stdout", Guarded), ("stderr", GuardedProgress)):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:
            unicode = stream.encoding.lower().replace("-", "") == "utf8"
            errors = stream.errors if name == "stderr" else "surrogateescape" if unicode else "replace"
            encoding, lines, through = stream.encoding, stream.line_buffering, stream.write_through
            raw = stream.detach()
            guarded = kind(raw, encoding=encoding, errors=errors, line_buffering=lines, write_through=through)
            setattr(sys, name, guarded)
            setattr(sys, f"__{name}__", guarded)
    return "stdout is closed; send it to /dev/null if nobody reads it" if closed else ""


def lost() -> bool:
    """Tell whether stdout or stderr could not be written; if so Python will not try again at its end."""
    failed = [stream for stream in (sys.stdout, sys.stderr) if getattr(stream, "failed", False)]
    for stream in failed:
        _to_nobody(stream)
    return bool(failed)


def _to_nobody(stream: TextIO) -> None:
    """Throw away what is, or was, still to be written to a stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def plain_terminal() -> bool:
    """Tell whether the terminal says that it can do nothing but print."""
    return os.environ.get("TERM") in ("dumb", "unknown")
