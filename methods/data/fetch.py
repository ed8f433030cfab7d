"""The cache of data sets and pretrained models: fetch an item, find it, verify it.

Only `fetch` uses the network, and never with `EELIT_OFFLINE=1`; loaders call `path`. Files count as present only when
their sha256 is the one pinned in the manifest. A marker remembers size and modification time of the files so verified,
so that large ones are hashed again only when they changed.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from eelit.methods.data import manifest
from eelit.methods.data.cache import cache_root, store
from eelit.methods.data.manifest import InnerFile, Item, Source
from eelit.methods.data.progress import Bar, Progress, megabytes, say
from eelit.methods.data.sources import SourceFailed, obtain

MARKER = "verified.json"
PATIENCE = 3600.0  # seconds to wait for another process fetching the same item


class DataUnavailable(Exception):
    """An item is not in the cache, or could not be fetched; the message is one sentence that says what to do."""


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """The folder holding the item's verified files, fetched first if need be.

    `progress(done, expected)` is called with bytes; by default a bar is drawn on stderr. Raises `DataUnavailable`.
    """
    return fetch_item(manifest.get(name), progress=progress)


def path(name: str) -> Path:
    """The folder holding the item's verified files; `DataUnavailable` if they are not in the cache (no network)."""
    item = manifest.get(name)
    if not _complete(item, _folder(item)):
        raise DataUnavailable(f"{name} is not in the cache {_folder(item).parent}: run `eelit data fetch {name}`")
    return _folder(item)


def verify(name: str) -> list[str]:
    """Hash everything of the item again; one sentence per problem, an empty list when all is well."""
    item = manifest.get(name)
    folder = _folder(item)
    state = {file.name: _state(folder, file, {}) for file in item.files.values()}
    bad = {file: what for file, what in state.items() if what not in ("", "missing")}
    if not bad and any(not any(state[member] for member in source.members) for source in item.sources):
        return []
    wanted = [file for file in item.sources[0].members if state[file] == "missing"]
    return [f"{name}: {folder / file} is {state[file]}; run `eelit data fetch {name}`" for file in [*bad, *wanted]]


def fetch_item(item: Item, *, progress: Progress | None = None) -> Path:
    """As `fetch`, for an item that need not be in the manifest."""
    folder = _folder(item)
    if _complete(item, folder):
        return folder
    if os.environ.get("EELIT_OFFLINE", "").lower() not in ("", "0", "no", "false"):
        raise DataUnavailable(
            f"{item.name} ({megabytes(item.download)}) is not in the cache {folder.parent} and EELIT_OFFLINE forbids "
            f"the network: run `eelit data fetch {item.name}` without it"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(item, folder):
            if not _complete(item, folder):
                _fetch_into(item, folder, progress)
    except OSError as error:
        raise DataUnavailable(
            f"{item.name} cannot be stored in the cache folder {folder.parent} ({error.strerror or error}): "
            f"set EELIT_CACHE to a folder with room that you can write to"
        ) from error
    return folder


def _folder(item: Item) -> Path:
    return cache_root() / "data" / item.name


# -- what is there -----------------------------------------------------------------------------------------------------


def _complete(item: Item, folder: Path) -> bool:
    known = _read_marker(folder)
    state: dict[str, str] = {}
    for source in item.sources:
        for member in source.members:
            if member not in state:
                state[member] = _state(folder, item.files[member], known)
        if not any(state[member] for member in source.members):
            _write_marker(folder, [item.files[member] for member in source.members], known)
            return True
    return False


def _state(folder: Path, file: InnerFile, known: dict[str, list[int | str]]) -> str:
    """Empty when the file is there and right, else what is wrong with it."""
    try:
        if _stamp(folder, file) == known.get(file.name):
            return ""
        size = (folder / file.name).stat().st_size
        if size != file.size:
            return f"truncated or damaged ({size} bytes instead of {file.size})"
        return "" if _sha256(folder / file.name) == file.sha256 else "damaged (its sha256 is not the pinned one)"
    except OSError:
        return "missing"


def _stamp(folder: Path, file: InnerFile) -> list[int | str]:
    status = (folder / file.name).stat()
    return [file.sha256, status.st_size, status.st_mtime_ns]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_marker(folder: Path) -> dict[str, list[int | str]]:
    try:
        known = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_marker(folder: Path, right: list[InnerFile], known: dict[str, list[int | str]]) -> None:
    """Remember verified files; in a read-only cache they are hashed each time instead."""
    with contextlib.suppress(OSError):
        stamps = {file.name: _stamp(folder, file) for file in right}
        if stamps != known:
            store(folder / MARKER, json.dumps(stamps).encode())


# -- fetching ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(item: Item, folder: Path) -> Iterator[None]:
    lock = filelock.FileLock(folder.parent / f".{item.name}.lock")
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        say(f"another process is fetching {item.name}; waiting for it")
        try:
            lock.acquire(timeout=PATIENCE)
        except filelock.Timeout as error:
            raise DataUnavailable(
                f"another process has been fetching {item.name} for too long; end it first"
            ) from error
    try:
        yield
    finally:
        lock.release()


def _fetch_into(item: Item, folder: Path, progress: Progress | None) -> None:
    """Try the sources in order and put the first one's verified files in place; the lock is held."""
    if folder.exists():
        say(f"{item.name} in the cache is incomplete or damaged; fetching it again")
    for leftover in folder.parent.glob(f".{item.name}.*.part"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    reasons = []
    for source in item.sources:
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{item.name}.", suffix=".part"))
        try:
            _from_source(item, source, temporary, progress)
            _put_in_place(temporary, folder)
            _write_marker(folder, [item.files[member] for member in source.members], {})
            return
        except SourceFailed as error:
            reasons.append(f"{source}: {error}")
            say(f"{source} failed: {error}")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    raise DataUnavailable(f"{item.name} could not be fetched from any source ({'; '.join(reasons)})")


def _from_source(item: Item, source: Source, temporary: Path, progress: Progress | None) -> None:
    say(f"fetching {item.name} ({item.title}; {megabytes(source.download)}) from {source}")
    new, scratch = temporary / "new", temporary / "scratch"
    new.mkdir()
    scratch.mkdir()
    start = time.monotonic()
    bar = Bar()
    try:
        obtain(source, new, scratch, progress or bar)
    finally:
        bar.close()
    for member in source.members:
        wrong = _state(new, item.files[member], {})
        if wrong:
            raise SourceFailed(f"{member} is {wrong}")
    say(f"{item.name} is there and verified after {time.monotonic() - start:.0f} s")


def _put_in_place(temporary: Path, folder: Path) -> None:
    if folder.exists():
        os.rename(folder, temporary / "old")
    os.rename(temporary / "new", folder)
