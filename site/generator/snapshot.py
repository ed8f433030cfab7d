"""Which state of the sources a site shows, and where it will stand: the same sources give the same bytes."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import metadata, version
from pathlib import Path

SHOWN = (
    "bib/*.bib",
    "bib/*.csv",
    "catalog/*.yaml",
    "catalog/entries/*.yaml",
    "methods/papers/*.py",
    "methods/results/**/*.json",
)
"""What of a checkout the catalogue and its figures are made from."""
ADDRESS, REPOSITORY, SOURCE = "EELIT_SITE_URL", "EELIT_REPO_URL", "EELIT_SOURCE_URL"


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Snapshot:
    """A state of the sources, named by a digest of what is in them."""

    id: str = ""
    moment: datetime = EPOCH  # of the last commit; of the newest file without a history
    version: str = ""
    address: str = ""  # where the site will stand, ending in a slash; empty if nobody said
    repository: str = ""  # where the sources stand, without a slash at the end; empty if nobody said
    source: str = "{repository}/blob/HEAD/{path}#L{line}"  # how the forge names a line of a file
    commit: str = "HEAD"
    code: str = ""  # where one gets the sources: the repository, or else what the package's metadata say
    added: dict[str, datetime] = field(default_factory=dict)  # key → when its entry came in, as far as history goes

    def blob(self, path: str, line: int | None = None) -> str:
        """Return the address of a source file (and line) on the repository's forge, or nothing if there is none."""
        if not self.repository:
            return ""
        named = {"repository": self.repository, "commit": self.commit, "path": path, "line": str(line)}
        pattern = self.source if line else self.source.partition("#")[0]
        return re.sub(r"\{(repository|commit|path|line)\}", lambda found: named[found[1]], pattern)


def snapshot(root: Path) -> Snapshot:
    """Return the state of the checkout; addresses come from EELIT_SITE_URL, EELIT_REPO_URL, EELIT_SOURCE_URL."""
    files = sorted(path for pattern in SHOWN for path in root.glob(pattern))
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    address = os.environ.get(ADDRESS, "").strip()
    repository = os.environ.get(REPOSITORY, "").strip().rstrip("/")
    return Snapshot(
        id=digest.hexdigest(),
        moment=_moment(root, files),
        version=version("eelit"),
        address=f"{address.rstrip('/')}/" if address else "",
        repository=repository,
        code=repository or _declared("Source"),
        source=os.environ.get(SOURCE, "").strip() or Snapshot.source,
        commit=_git(root, "rev-parse", "HEAD") or "HEAD",
        added=_added(root),
    )


def _declared(label: str) -> str:
    """Return the address that the package's metadata give under a label, or nothing."""
    listed = (line.partition(", ") for line in metadata("eelit").get_all("Project-URL") or [])
    return next((address for name, _, address in listed if name == label), "")


def _moment(root: Path, files: Iterable[Path]) -> datetime:
    said = _git(root, "log", "-1", "--format=%cI")
    if said:
        return datetime.fromisoformat(said).astimezone(UTC)
    newest = max((path.stat().st_mtime for path in files), default=0.0)
    return datetime.fromtimestamp(int(newest), UTC)


def _added(root: Path) -> dict[str, datetime]:
    """Return when each entry was first committed, without those that came in before a shallow clone begins."""
    told = _git(root, "log", "--diff-filter=A", "--format=@%H %cI", "--name-only", "--", "catalog/entries")
    begins = _git(root, "rev-parse", "--git-path", "shallow")
    cut = set((root / begins).read_text().split()) if begins and (root / begins).is_file() else set()
    commit, moment = "", EPOCH
    found: dict[str, datetime] = {}
    for line in told.splitlines():  # the newest commit comes first, so an older addition replaces a newer one
        if line.startswith("@"):
            commit, _, said = line[1:].partition(" ")
            moment = datetime.fromisoformat(said).astimezone(UTC)
        elif line.endswith(".yaml") and commit in cut:  # it seems to add all that was there before
            found.pop(Path(line).stem, None)
        elif line.endswith(".yaml"):
            found[Path(line).stem] = moment
    return found


def _git(root: Path, *words: str) -> str:
    """Return what git says, or nothing outside a repository of its own."""
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
