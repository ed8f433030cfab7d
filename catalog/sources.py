"""Where the sources of the catalogue lie: in a checkout, or inside the installed package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from eelit.catalog.faults import Unavailable

ROOT_VARIABLE = "EELIT_ROOT"
HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass(frozen=True)
class Sources:
    """The files that the catalogue is made from."""

    bibliography: Path
    citations: Path
    taxonomy: Path
    entries: Path
    methods: Path

    def entry(self, key: str) -> Path:
        """Return where the entry of this key belongs."""
        return self.entries / f"{key}.yaml"


def checkout() -> str | None:
    """Return the root of the checkout, or None if eelit was installed from a wheel.

    Raises `Unavailable` if EELIT_ROOT names no folder.
    """
    if override := os.environ.get(ROOT_VARIABLE):
        root = os.path.abspath(override)
        if not os.path.isdir(root):
            raise Unavailable(
                f"{ROOT_VARIABLE} is {root}, which is no folder; set it to a checkout's root, or unset it"
            )
        return root
    parent = os.path.dirname(HERE)
    return parent if os.path.isfile(os.path.join(parent, "pyproject.toml")) else None


def as_text(path: str) -> str:
    """Return a path as text that can be stored and printed, whatever bytes it is made of."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def sources() -> Sources:
    """Return the sources of the checkout, or those that were installed. Raises `Unavailable` if it is no checkout."""
    root = checkout()
    if root is not None:
        for folder in ("bib", os.path.join("catalog", "entries")):
            if not os.path.isdir(os.path.join(root, folder)):
                raise Unavailable(
                    f"{root} is no checkout of eelit (it has no folder {folder}); set {ROOT_VARIABLE} to one"
                )
        bib, catalog, methods = (Path(root, room) for room in ("bib", "catalog", "methods"))
    else:
        bib, catalog, methods = (_installed(room) for room in ("eelit.bib", "eelit.catalog", "eelit.methods"))
    return Sources(
        bibliography=bib / "early-exit.bib",
        citations=bib / "citations.csv",
        taxonomy=catalog / "taxonomy.yaml",
        entries=catalog / "entries",
        methods=methods / "papers",
    )


def _installed(package: str) -> Path:
    """Return the folder of a package without importing it (`eelit.methods` might load torch)."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed; install eelit again")
    return Path(next(iter(spec.submodule_search_locations)))
