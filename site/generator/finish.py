"""The last touch to the built pages: what only the builder's theme could have written, mended, and the policy."""

from __future__ import annotations

from os.path import dirname, relpath
from pathlib import Path

from eelit.site.generator import policy
from eelit.site.generator.proofread import NOT_FOUND_PAGE

HOSTED_SHIM = "https://unpkg.com/iframe-worker/shim"
OWN_SHIM = "assets/offline-worker.js"
"""What lets the search work in pages opened from disk: the theme names a host, the site has a script of its own."""

# The theme's search box calls itself a dialogue without a name for a screen reader to read out.
NAMELESS = ' data-md-component="search" role="dialog">'
NAMED = ' data-md-component="search" role="dialog" aria-label="Search">'


def finish(site: Path) -> None:
    """Give every page our own scripts and its policy; nothing may change a page's scripts afterwards."""
    trusted = policy.known((site / NOT_FOUND_PAGE).read_text(encoding="utf-8"))
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        text = path.read_text(encoding="utf-8").replace(HOSTED_SHIM, relpath(OWN_SHIM, dirname(name) or "."))
        path.write_text(policy.guarded(text.replace(NAMELESS, NAMED), name, trusted), encoding="utf-8")
