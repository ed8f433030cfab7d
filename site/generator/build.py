"""Build the site: gather, write the pages into build/docs, run the builder, check what it made, put it in place."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from eelit.catalog.faults import writing
from eelit.catalog.sources import checkout, sources
from eelit.site.generator import machines, pages, place, proofread
from eelit.site.generator.collection import gather
from eelit.site.generator.faults import SiteFault
from eelit.site.generator.finish import finish
from eelit.site.generator.reports import read_reports
from eelit.site.generator.snapshot import snapshot

Progress = Callable[[str], None]
MARK = Path("assets", "eelit.css")  # a folder that holds it was written by us and may be replaced


def silent(message: str) -> None:
    """Report no progress."""


def build(*, smoke_reports: Path | None = None, out: Path | None = None, progress: Progress = silent) -> Path:
    """Build the whole site and return its folder.

    ``smoke_reports`` is the folder that `eelit smoke` wrote (default: build/smoke), ``out`` where the site goes
    (default: build/site, with the pages' Markdown beside it in build/docs). The site that was there before stays until
    the new one is whole. Raises `SiteFault` outside a checkout, for a catalogue that cannot be read, for a page that is
    broken and while another build goes on, `NotWritten` if the disk is full.
    """
    root = _root()
    site = _safe(root, out or root / "build" / "site")
    start = time.perf_counter()
    with writing(site, "build it elsewhere; what was there before is left as it was"), place.aside(site) as folder:
        reports, unreadable = read_reports(smoke_reports or root / "build" / "smoke")
        for message in unreadable:
            progress(message)
        collection = gather(sources(), reports)
        collection.snapshot = snapshot(root)
        docs = _emptied(root / "build" / "docs") if out is None else folder / "docs"
        count = pages.write(collection, docs, root)
        progress(f"{count} pages written in {time.perf_counter() - start:.1f} s")
        made = folder / "site"
        run_builder(root, docs, made)
        machines.write(collection, made)
        _demand_whole(made)
        place.put(made, site)
    progress(f"site built in {time.perf_counter() - start:.1f} s")
    return site


def serve(*, smoke_reports: Path | None = None, port: int = 8000, progress: Progress = silent) -> None:
    """Build the site and show it on this machine until interrupted."""
    site = build(smoke_reports=smoke_reports, progress=progress)
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        progress(f"http://127.0.0.1:{server.server_port}/ (stop with Ctrl-C)")
        server.serve_forever()


def _root() -> Path:
    root = checkout()
    if root is None or not Path(root, "mkdocs.yml").is_file():
        raise SiteFault("the site is built from a checkout; clone the repository and run `make site` there")
    return Path(root).resolve()


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _demand_whole(site: Path) -> None:
    faults = proofread.faults(site)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise SiteFault(f"the site was built, but not put in place, since {faults[0]}{more}")


def _safe(root: Path, out: Path) -> Path:
    """Return the output folder if replacing it can harm nothing."""
    site = out.resolve()
    inside = site.is_relative_to(root) and not site.is_relative_to(root / "build")
    if inside or root.is_relative_to(site) or site == root / "build":
        raise SiteFault(
            f"{out} holds sources, and a site would replace them; choose a folder below build/ or elsewhere"
        )
    own = site.is_dir() and (site == root / "build" / "site" or (site / MARK).exists() or not any(site.iterdir()))
    if site.exists() and not own:
        raise SiteFault(f"{out} holds something else than a site, which would replace it; choose another folder")
    return site


def run_builder(root: Path, docs: Path, site: Path) -> None:
    """Run MkDocs strictly, and finish its pages. Raises `SiteFault` with its warnings."""
    os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")  # Material's notice about a release that we do not use
    from mkdocs.commands.build import build as build_pages
    from mkdocs.config import load_config
    from mkdocs.exceptions import MkDocsException

    with _warnings() as warnings:
        try:
            build_pages(load_config(str(root / "mkdocs.yml"), docs_dir=str(docs), site_dir=str(site), strict=True))
        except MkDocsException as error:
            said = "; ".join(warnings) or str(error)
            raise SiteFault(f"MkDocs did not build the site: {said}") from error
    finish(site)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what MkDocs warns of, instead of printing it."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("mkdocs"), Collect(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
