"""Read a source file, and nothing else: a pipe would be waited for without end. Change files whole or not at all."""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkstemp

from eelit.bib.problems import shown

NO_FILE = "it is no file but a folder, a pipe, a socket or a device; put a file in its place"


LEFTOVER = re.compile(r"\.(.+)\.[a-z0-9_]{8}")
"""What `aside` makes, and a run that was killed leaves."""
OLD = 3600
"""Seconds after which nobody is writing such a file any more."""


class ChangedMeanwhile(Exception):
    """Somebody else has changed a file since it was read."""


def read_file(path: Path, most: int = -1) -> bytes:
    """Return the content of a file, at most so many bytes. Raises `OSError`."""
    if path.exists() and not path.is_file():
        raise OSError(NO_FILE)
    with path.open("rb") as file:
        return file.read(most)


def aside(path: Path, text: str) -> str:
    """Return the name of a new file beside the path that holds the text; renamed, it takes its place in one step."""
    handle, name = mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
    except BaseException:
        os.unlink(name)
        raise
    return name


@dataclass
class Changes:
    """New texts for files, which can be looked at before they are written; nothing is written that nobody changed."""

    before: dict[Path, str] = field(default_factory=dict)
    after: dict[Path, str] = field(default_factory=dict)

    def text(self, path: Path) -> str:
        """Return the text of a file as it will be; that of a file that is not there is empty."""
        if path not in self.after:
            content = read_file(path).decode("utf-8") if os.path.lexists(path) else ""
            self.before[path] = self.after[path] = content
        return self.after[path]

    @classmethod
    def of(cls, *paths: Path) -> Changes:
        """Return no changes yet, of files as they are now: none is written that somebody changes from now on."""
        found = cls()
        for path in paths:
            found.text(path)
        return found

    def put(self, path: Path, text: str) -> None:
        """Let a file have this text."""
        self.text(path)
        self.after[path] = text

    def paths(self) -> list[Path]:
        """Return the files that will be other than they are."""
        return [path for path, text in self.after.items() if text != self.before[path]]

    def diff(self, paths: Iterable[Path] | None = None) -> str:
        """Return the changes (of some files, or of all) as `git diff` would show them."""
        chosen = sorted(self.paths() if paths is None else paths)
        return "".join(_diff(path, self.before[path], self.after[path]) for path in chosen)

    def write(self) -> list[Path]:
        """Write every change beside its file first, then put all in place; return the files that changed.

        Raises `OSError`, and `ChangedMeanwhile` if a file is no longer what it was when it was read.
        """
        paths = self.paths()
        made: dict[Path, str] = {}
        try:
            for path in paths:
                _remove_leftovers(path)
                made[path] = aside(path, self.after[path])
            for path in paths:
                if Changes().text(path) != self.before[path]:
                    raise ChangedMeanwhile(f"{shown(path)} was changed by another program meanwhile")
            for path in paths:
                os.replace(made.pop(path), path)
                self.before[path] = self.after[path]
        finally:
            for name in made.values():
                with suppress(OSError):
                    os.unlink(name)
        return paths


def _diff(path: Path, before: str, after: str) -> str:
    name = shown(path)
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    lines = difflib.unified_diff(old, new, name if before else os.devnull, name)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _remove_leftovers(path: Path) -> None:
    """Remove what runs that were killed left in a folder: beside this file at once, beside others if it is old.

    Who calls this is the only one to write this file.
    """
    for left in path.parent.glob(".*.????????"):
        of = LEFTOVER.fullmatch(left.name)
        with suppress(OSError):
            old = of and of[1].endswith((".bib", ".csv", ".yaml")) and time.time() - left.stat().st_mtime > OLD
            if of and (old or of[1] == path.name):
                left.unlink()
