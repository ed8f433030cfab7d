"""The last touch to the built pages, which only the builder's theme could have given them."""

from __future__ import annotations

from pathlib import Path

from eelit.site.generator import policy
from eelit.site.generator.proofread import NOT_FOUND_PAGE


def finish(site: Path) -> None:
    """Give every page its policy; nothing may change a page's scripts afterwards."""
    trusted = policy.known((site / NOT_FOUND_PAGE).read_text(encoding="utf-8"))
    for path in sorted(site.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        path.write_text(policy.guarded(text, path.relative_to(site).as_posix(), trusted), encoding="utf-8")
