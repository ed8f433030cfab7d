"""Which state of the sources a site shows, and where it will stand: the same sources give the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
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
ADDRESS, REPOSITORY = "EELIT_SITE_URL", "EELIT_REPO_URL"


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Snapshot:
    """A state of the sources, named by a digest of what is in them."""

    id: str = ""
    moment: datetime = EPOCH  # of the last commit; of the newest file without a history
    version: str = ""
    address: str = ""  # where the site will stand, ending in a slash; empty if nobody said
    repository: str = ""  # where the sources stand, without a slash at the end; empty if nobody said
    added: dict[str, datetime] = field(default_factory=dict)  # key → when its entry came in, as far as history goes

    def blob(self, path: str, line: int | None = None) -> str:
        """Return the address of a source file (and line) on the repository's forge, or nothing if there is none."""
        if not self.repository:
            return ""
        return f"{self.repository}/blob/HEAD/{path}" + (f"#L{line}" if line else "")


def snapshot(root: Path) -> Snapshot:
    """Return the state of the checkout; addresses come from EELIT_SITE_URL and EELIT_REPO_URL."""
    files = sorted(path for pattern in SHOWN for path in root.glob(pattern))
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    address = os.environ.get(ADDRESS, "").strip()
    return Snapshot(
        id=digest.hexdigest(),
        moment=_moment(root, files),
        version=version("eelit"),
        address=f"{address.rstrip('/')}/" if address else "",
        repository=os.environ.get(REPOSITORY, "").strip().rstrip("/"),
        added=_added(root),
    )


def _moment(root: Path, files: Iterable[Path]) -> datetime:
    said = _git(root, "log", "-1", "--format=%cI")
    if said:
        return datetime.fromisoformat(said).astimezone(UTC)
    newest = max((path.stat().st_mtime for path in files), default=0.0)
    return datetime.fromtimestamp(int(newest), UTC)


def _added(root: Path) -> dict[str, datetime]:
    """Return when each entry was first committed; a shallow clone knows no further than its own depth."""
    told = _git(root, "log", "--diff-filter=A", "--format=@%cI", "--name-only", "--", "catalog/entries")
    moment, found = EPOCH, {}
    for line in told.splitlines():  # the newest commit comes first, so an older addition replaces a newer one
        if line.startswith("@"):
            moment = datetime.fromisoformat(line[1:]).astimezone(UTC)
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
