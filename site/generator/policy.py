"""The Content-Security-Policy of a page: what the browser may load and run, and nothing else.

Scripts come from the site's own files. The few inline scripts of the theme are let through by their hashes, and they
are known: what also stands on the page for addresses not found, which holds nothing of the catalogue. Any other inline
script, which text of the catalogue might have brought along, fails the build and would not run.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html import escape

from eelit.site.generator.faults import SiteFault

START = '<meta charset="utf-8">'
META = '<meta http-equiv="Content-Security-Policy" content="{}">'
SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script\s*>", re.DOTALL | re.IGNORECASE)
TYPE = re.compile(r"\btype=[\"']?([^\"'\s>]+)", re.IGNORECASE)
EXECUTED = {"", "module", "text/javascript", "application/javascript"}
OWN_PLACE = re.compile(r'new URL\("[^"]*",')  # the theme's first script says how deep in the site its page lies
DIRECTIVES = (
    "default-src 'none'; script-src {}; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'"
)


def inline_scripts(text: str) -> list[str]:
    """Return the scripts that stand in a page and are run; blocks of data are not among them."""
    return [
        body
        for attributes, body in SCRIPT.findall(text)
        if not re.search(r"\ssrc=", attributes) and _type(attributes) in EXECUTED
    ]


def _type(attributes: str) -> str:
    found = TYPE.search(attributes)
    return found[1].lower() if found else ""


def known(text: str) -> set[str]:
    """Return the inline scripts of a page that holds only what the theme writes, wherever in the site it lies."""
    return {_anywhere(script) for script in inline_scripts(text)}


def _anywhere(script: str) -> str:
    return OWN_PLACE.sub('new URL("",', script)


def policy(scripts: list[str]) -> str:
    """Return the policy of a page with these inline scripts."""
    hashes = (b64encode(sha256(script.encode()).digest()).decode() for script in scripts)
    return DIRECTIVES.format(" ".join(["'self'", *dict.fromkeys(f"'sha256-{value}'" for value in hashes)]))


def guarded(text: str, name: str, trusted: set[str]) -> str:
    """Return the page with its policy. Raises `SiteFault` for an inline script that is not the theme's."""
    scripts = inline_scripts(text)
    for script in scripts:
        if _anywhere(script) not in trusted:
            raise SiteFault(
                f"{name} has an inline script that the theme did not write ({script[:60]!r}), and none may run it; "
                'put it into a file, or data into <script type="application/json">'
            )
    head, start, rest = text.partition(START)
    if not start:
        raise SiteFault(f"{name} does not start with {START}, after which its Content-Security-Policy belongs")
    return head + start + META.format(escape(policy(scripts), quote=True).replace("&#x27;", "'")) + rest
