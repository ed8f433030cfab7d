"""The last touch to the built pages: what only the builder's theme could have written, mended, and the policy."""

from __future__ import annotations

import re
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

CONTENTS = '<nav class="ee-contents"'
"""A list of a page's own headings, which a template leaves empty since it does not know them all."""
HEADING = re.compile(r'<h2\b[^>]*?\bid="([^"]+)"[^>]*>(.*?)(?:<a class="headerlink".*?)?</h2>', re.DOTALL)

HYPHEN = re.compile(
    r"<!--.*?-->|<(script|style|pre|code|textarea)\b.*?</\1\s*>|<[^>]*>|(?<![^\s(,;:=≥≤±>])-(?=[\d.∞])",
    re.DOTALL | re.IGNORECASE,
)
"""A hyphen before a number that it joins to nothing; tags and code are found first, to be left alone."""


def finish(site: Path) -> None:
    """Give every page our own scripts and its policy; nothing may change a page's scripts afterwards."""
    trusted = policy.known((site / NOT_FOUND_PAGE).read_text(encoding="utf-8"))
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        text = path.read_text(encoding="utf-8").replace(HOSTED_SHIM, relpath(OWN_SHIM, dirname(name) or "."))
        text = with_minus_signs(with_contents(text.replace(NAMELESS, NAMED)))
        path.write_text(policy.guarded(text, name, trusted), encoding="utf-8")


def with_contents(text: str) -> str:
    """Return the page with its list of contents filled in, if it has one: a link to each heading of second rank."""
    before, mark, rest = text.partition(CONTENTS)
    if not mark:
        return text
    links = "".join(f'<li><a href="#{place}">{said.strip()}</a></li>' for place, said in HEADING.findall(rest))
    return before + mark + rest.replace("></nav>", f"><ul>{links}</ul></nav>", 1)


def with_minus_signs(text: str) -> str:
    """Return the page with true minus signs before its numbers, but in code."""
    return HYPHEN.sub(lambda found: "\N{MINUS SIGN}" if found[0] == "-" else found[0], text)
