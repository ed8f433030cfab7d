"""Read a source file, and nothing else: a pipe would be waited for without end, and a device may have none."""

from __future__ import annotations

from pathlib import Path

NO_FILE = "it is no file but a folder, a pipe, a socket or a device; put a file in its place"


def read_file(path: Path, most: int = -1) -> bytes:
    """Return the content of a file, at most so many bytes. Raises `OSError`."""
    if path.exists() and not path.is_file():
        raise OSError(NO_FILE)
    with path.open("rb") as file:
        return file.read(most)
