"""The built site as one zip that opens from disk."""

from __future__ import annotations

import os
import zipfile
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from eelit.catalog.faults import writing
from eelit.site.generator.build import MARK
from eelit.site.generator.faults import SiteFault

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file inside, so that the same site gives the same zip: the earliest that the format knows."""
README = """\
eelit, the early-exit literature, runnable: the whole site, for reading offline.

Unpack it and open index.html in a browser. Everything works from disk: the filters of the papers, the graph, the
curves, the search. Nothing is loaded from elsewhere.
"""


def bundle(site: Path, folder: Path) -> Path:
    """Write ``eelit-site-VERSION.zip`` into the folder and return it. Raises `SiteFault` if no site is there."""
    if not (site / MARK).is_file():
        raise SiteFault(f"{site} holds no built site; `eelit site build` makes one")
    name = f"eelit-site-{version('eelit')}"
    target = folder / f"{name}.zip"
    with writing(target, "choose another folder with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as aside:
            try:
                _pack(site, name, aside)
                aside.close()  # what a full disk refuses may only be told now
                os.chmod(aside.name, 0o644)
                os.replace(aside.name, target)
            except BaseException:
                Path(aside.name).unlink()
                raise
    return target


def _pack(site: Path, name: str, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        _add(packed, f"{name}/README.txt", README.encode())
        for path in sorted(path for path in site.rglob("*") if path.is_file()):
            _add(packed, f"{name}/{path.relative_to(site).as_posix()}", path.read_bytes())


def _add(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    packed.writestr(entry, content)
