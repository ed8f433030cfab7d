"""Read a source file, and nothing else: a pipe would be waited for without end. Change files whole or not at all."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
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
JOURNAL = ".unfinished.json"
"""Names new files that take the places of others together; it is there only while they do, or if a run is killed."""


class ChangedMeanwhile(Exception):
    """Somebody else has changed a file since it was read."""


class SpoiltJournal(Exception):
    """A journal holds something else than what is written here."""


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

        All change or none does: a journal names what is begun, and `finish` ends it, here or after a run was killed.
        Raises `OSError`, and `ChangedMeanwhile` if a file is no longer what it was when it was read.
        """
        paths = self.paths()
        if not paths:
            return []
        journal = paths[0].with_name(JOURNAL)
        if os.path.lexists(journal):
            raise ChangedMeanwhile(f"another program is writing {shown(paths[0])}")
        made: dict[Path, str] = {}
        try:
            for path in (journal, *paths):
                _remove_leftovers(path)
            for path in paths:
                made[path] = aside(path, self.after[path])
            _begin(journal, {path: (name, self.before[path]) for path, name in made.items()})
        except BaseException:
            _remove(made.values())
            raise
        try:
            changed = finish(journal)[1]
        except KeyboardInterrupt:
            finish(journal)  # some may be in place: then all are
            raise
        if changed:
            raise ChangedMeanwhile(f"{shown(changed[0])} was changed by another program meanwhile")
        self.before |= {path: self.after[path] for path in paths}
        return paths


@dataclass(frozen=True)
class _Step:
    """One new file, the one whose place it takes, and what is known of that one's text."""

    path: Path
    made: Path
    before: str

    def is_left(self) -> tuple[bool, bool]:
        """Tell whether it is still to be done, and whether the file is another one than it was.

        The text is read first: if another process does this step meanwhile, nothing is left to do.
        """
        now = read_file(self.path) if os.path.lexists(self.path) else b""
        return os.path.lexists(self.made), _mark(now) != self.before


def _begin(journal: Path, made: Mapping[Path, tuple[str, str]]) -> None:
    """Write the journal: from then on these files are put in place. Raises `ChangedMeanwhile` if there is one."""
    steps = [
        {"file": os.path.relpath(path, journal.parent), "new": os.path.basename(name), "before": _mark(before.encode())}
        for path, (name, before) in made.items()
    ]
    written = aside(journal, json.dumps(steps, indent=1))
    try:
        os.link(written, journal)  # fails if there is one, unlike a rename
    except FileExistsError as error:
        raise ChangedMeanwhile("another program is writing the same files") from error
    finally:
        _remove([written])


def finish(journal: Path) -> tuple[list[Path], list[Path]]:
    """Do what a journal says is left; return the files put in place, and those that somebody has changed since.

    What was changed is not overwritten: the new text is dropped, and with it all the others if none is in place yet.
    Several processes may do this at a time. Raises `OSError` and `SpoiltJournal`.
    """
    steps = _steps(journal)
    states = [step.is_left() for step in steps]
    changed = [step for step, (left, other) in zip(steps, states, strict=True) if left and other]
    begun = not all(left for left, _ in states)
    if changed:
        _remove(step.made for step in (changed if begun else steps))
    put: list[Path] = []
    try:
        for step in steps:
            with suppress(FileNotFoundError):  # it is done, or dropped
                os.replace(step.made, step.path)
                put.append(step.path)
    except OSError:
        if not begun and not put:
            _remove([*(step.made for step in steps), journal])
        raise
    _remove([journal])
    _remove_leftovers(journal)
    return put, [step.path for step in changed]


def _steps(journal: Path) -> list[_Step]:
    """Return what a journal names; without one, nothing."""
    try:
        told = json.loads(read_file(journal))
        here = os.path.abspath(journal.parent)
        found = [
            (Path(os.path.normpath(os.path.join(here, each["file"]))), each["new"], each["before"]) for each in told
        ]
        steps = [_Step(path, path.with_name(name), before) for path, name, before in found]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise SpoiltJournal(f"{shown(journal)} is damaged") from error
    for step in steps:
        of = LEFTOVER.fullmatch(step.made.name)
        if of is None or of[1] != step.path.name:
            raise SpoiltJournal(f"{shown(journal)} names a file that is not written so")
    return steps


def _mark(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _remove(names: Iterable[str | Path]) -> None:
    for name in names:
        with suppress(OSError):
            os.unlink(name)


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
