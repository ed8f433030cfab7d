"""What data sets and pretrained models exist, where they come from, and under which terms (`manifest.toml`, typed).

Every file is pinned by the sha256 of its own content, never by the package around it, so that package versions may
differ and a file from upstream is as good as one from a registry.
"""

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Kind = Literal["data", "model"]
Client = Literal["pip", "apt", "npm", "https"]


@dataclass(frozen=True)
class InnerFile:
    """One file as it lies in the cache: its name, sha256 (hex) and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Source:
    """One place an item can be had from.

    `members` maps names in the cache to paths inside the package or archive, or below `url`. A path ending in `.gz`
    whose name does not is decompressed. A path with a wildcard joins all matching files, in order of name, each after
    a line `== NAME`.
    """

    kind: Client
    members: dict[str, str]
    download: int  # bytes, about
    package: str = ""  # for pip, apt, npm
    version: str = ""  # the version looked at; apt takes what the user's release has
    url: str = ""  # for https: a folder (ending in a slash), or an archive
    archive: Literal["", "zip", "tar"] = ""  # for https: what the url is

    def __str__(self) -> str:
        if self.kind == "https":
            return f"upstream {self.url.rstrip('/')}"
        return f"{self.kind} package {self.package} {self.version}".strip()


@dataclass(frozen=True)
class Item:
    """A data set or a pretrained model, with everything a user must know before taking it.

    `files` pins every file any source gives; the item is complete when all files of one source are there.
    """

    name: str
    title: str
    version: str
    kind: Kind
    licence: str
    terms: str
    non_commercial: bool
    citation: str
    files: dict[str, InnerFile]
    sources: tuple[Source, ...]

    @property
    def download(self) -> int:
        """Bytes to download from the first source, about."""
        return self.sources[0].download

    @property
    def size(self) -> int:
        """Bytes in the cache after fetching from the first source."""
        return sum(self.files[name].size for name in self.sources[0].members)


class UnknownItem(KeyError):
    """No item of that name; the message suggests the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


@cache
def _by_name() -> dict[str, Item]:
    raw = tomllib.loads(files("eelit.methods.data").joinpath("manifest.toml").read_text(encoding="utf-8"))
    return {entry["name"]: _item(entry) for entry in raw["item"]}


def _item(entry: dict[str, Any]) -> Item:
    inner = {name: InnerFile(name, **pinned) for name, pinned in entry.pop("files").items()}
    sources = tuple(Source(**source) for source in entry.pop("sources"))
    unpinned = sorted({name for source in sources for name in source.members} - set(inner))
    if unpinned:
        raise ValueError(f"manifest.toml, {entry['name']}: no sha256 for {', '.join(unpinned)}; add it under files")
    return Item(**entry, files=inner, sources=sources)


def items() -> list[Item]:
    """All items, in the order of the manifest."""
    return list(_by_name().values())


def get(name: str) -> Item:
    """The item of that name, or `UnknownItem` with a suggestion."""
    known = _by_name()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise UnknownItem(f"no data called {name!r}: {hint}")
