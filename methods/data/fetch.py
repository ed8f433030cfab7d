"""The cache of data sets and pretrained models: fetch an item, find it, verify it.

Only `fetch` uses the network, and never with `EELIT_OFFLINE=1`; loaders call `path`. Files count as present only when
their sha256 is the one pinned in the manifest. `fetch` and `verify` hash them whenever they are asked, `path` once in
every process and again when size or time of a file has changed: less than a second for the largest item.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import filelock

from eelit.methods.data import manifest
from eelit.methods.data.cache import cache_root
from eelit.methods.data.manifest import InnerFile, Item, Source
from eelit.methods.data.progress import Bar, Progress, megabytes, say
from eelit.methods.data.sources import SourceFailed, obtain

PATIENCE = 3600.0  # seconds to wait for another process fetching the same item


class DataUnavailable(Exception):
    """An item is not in the cache, or could not be fetched; the message is one sentence that says what to do."""


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """The folder holding the item's verified files, fetched first if need be.

    `progress(done, expected)` is called with bytes; by default a bar is drawn on stderr. Raises `DataUnavailable`,
    and `OSError` if the cache cannot be written.
    """
    return fetch_item(manifest.get(name), progress=progress)


def path(name: str) -> Path:
    """The folder holding the item's verified files; `DataUnavailable` if they are not in the cache (no network)."""
    item = manifest.get(name)
    if problems(item, anew=False):
        place = _folder(item).parent
        raise DataUnavailable(f"{name} is not in the cache {place}, or not whole: run `eelit data fetch {name}`")
    return _folder(item)


def verify(name: str) -> list[str]:
    """Hash everything of the item again; one sentence per problem, an empty list when all is well."""
    item = manifest.get(name)
    found = problems(item)
    return [f"{name}: {_folder(item) / file} is {what}; run `eelit data fetch {name}`" for file, what in found.items()]


def fetch_item(item: Item, *, progress: Progress | None = None) -> Path:
    """As `fetch`, for an item that need not be in the manifest."""
    folder = _folder(item)
    if not problems(item):
        return folder
    if os.environ.get("EELIT_OFFLINE", "").lower() not in ("", "0", "no", "false"):
        raise DataUnavailable(
            f"{item.name} ({megabytes(item.download)}) is not in the cache {folder.parent} and EELIT_OFFLINE forbids "
            f"the network: run `eelit data fetch {item.name}` without it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(item, folder):
        if problems(item):
            _fetch_into(item, folder, progress)
    return folder


def _folder(item: Item) -> Path:
    return cache_root() / "data" / item.name


# -- what is there -----------------------------------------------------------------------------------------------------


@cache
def _right() -> dict[Path, tuple[str, int, int, int]]:
    """Return the files that this process has hashed and found right → their pinned sha256, and their stamp then.

    No value of this module: the name of a training that loads an encoder would hold what was fetched before.
    """
    return {}


def problems(item: Item, *, anew: bool = True) -> dict[str, str]:
    """What is wrong with the files of an item in the cache, by name; nothing, and then it is complete.

    It is complete when all files of one source are there and no file that the manifest knows is damaged. Unless
    ``anew``, what this process has hashed already is trusted as long as its size and its times are the same.
    """
    state = {file.name: _state(_folder(item), file, anew=anew) for file in item.files.values()}
    bad = {file: what for file, what in state.items() if what not in ("", "missing")}
    if not bad and any(not any(state[member] for member in source.members) for source in item.sources):
        return {}
    return bad | {file: "missing" for file in item.sources[0].members if state[file] == "missing"}


def _state(folder: Path, file: InnerFile, *, anew: bool = True) -> str:
    """Empty when the file is there and right, else what is wrong with it."""
    path = folder / file.name
    try:
        status = path.stat()
        stamp = (file.sha256, status.st_size, status.st_mtime_ns, status.st_ino)
        if not anew and _right().get(path) == stamp:
            return ""
        if status.st_size != file.size:
            return f"truncated or damaged ({status.st_size} bytes instead of {file.size})"
        if _sha256(path) != file.sha256:
            return "damaged (its sha256 is not the pinned one)"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"not to be read ({error.strerror or error})"
    _right()[path] = stamp
    return ""


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
            return
        except SourceFailed as error:
            said = "".join(letter if letter.isprintable() else " " for letter in str(error))  # it may quote the source
            reasons.append(f"{source}: {said}")
            say(f"{source} failed: {said}")
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
        obtain(source, {name: file.size for name, file in item.files.items()}, new, scratch, progress or bar)
    finally:
        bar.close()
    for member in source.members:
        wrong = _state(new, item.files[member])
        if wrong:
            raise SourceFailed(f"{member} is {wrong}")
    say(f"{item.name} is there and verified after {time.monotonic() - start:.0f} s")


def _put_in_place(temporary: Path, folder: Path) -> None:
    if folder.exists():
        os.rename(folder, temporary / "old")
    os.rename(temporary / "new", folder)
