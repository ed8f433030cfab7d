"""The Content-Security-Policy: on every page, first in its head, strict, and with the right hashes."""

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from eelit.site.generator import policy
from eelit.site.generator.faults import SiteFault

PAGE = '<!doctype html>\n<meta charset="utf-8">\n<title>x</title>\n{}\n'


class Scripts(HTMLParser):
    """Inline scripts, and the attributes that a strict policy forbids, as a parser sees them."""

    def __init__(self, text):
        super().__init__()
        self.inline, self.forbidden, self.first, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.first.append((tag, given))
        self.inside = tag == "script" and "src" not in given and "json" not in given.get("type", "")
        self.forbidden += [name for name in given if name == "style" or name.startswith("on")]
        self.forbidden += [tag] if tag in ("style", "base") else []

    def handle_data(self, data):
        if self.inside:
            self.inline.append(data)

    def handle_endtag(self, tag):
        self.inside = False


def directives(content):
    return {words[0]: words[1:] for words in (part.split() for part in content.split(";"))}


def check(text):
    found = Scripts(text)
    assert found.forbidden == []
    names = [tag for tag, _ in found.first]
    meta = next(attrs for tag, attrs in found.first if attrs.get("http-equiv") == "Content-Security-Policy")
    assert names[names.index("head") + 1 : names.index("head") + 3] == ["meta", "meta"]
    assert found.first[names.index("head") + 2][1] is meta
    given = directives(meta["content"])
    assert given["default-src"] == given["base-uri"] == given["form-action"] == ["'none'"]
    hashes = {f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in found.inline}
    assert set(given["script-src"]) == {"'self'"} | hashes
    assert given["style-src"] == ["'self'"]
    assert "unsafe" not in meta["content"]
    assert not re.search(r"https?:|\*", meta["content"])


def test_every_page_has_a_strict_policy(built_site):
    pages = sorted(built_site.rglob("*.html"))
    assert len(pages) > 100
    for path in pages:
        check(path.read_text(encoding="utf-8"))


def test_only_scripts_that_are_run_are_hashed():
    theme = """<script>__md_scope=new URL("..",location)</script>"""
    data = """<script type="application/ld+json">{"a": "x"}</script><script src="a.js"></script>"""
    trusted = policy.known(PAGE.format(theme.replace("..", "/")))
    done = policy.guarded(PAGE.format(theme + data), "a.html", trusted)
    check(done.replace("<!doctype html>", "<head>"))
    assert done.count("sha256-") == 1
    assert done.index("Content-Security-Policy") < done.index("<title>")


@pytest.mark.parametrize(
    "script",
    [
        "<script>alert(1)</script>",
        "<SCRIPT type=module>alert(1)</SCRIPT >",
        "<script type='text/javascript' defer>alert(1)\n</script>",
        "<script\n>alert(1)</script\n>",
    ],
)
def test_a_strange_script_fails_the_build(script):
    with pytest.raises(SiteFault, match=r"a\.html has an inline script that the theme did not write"):
        policy.guarded(PAGE.format(script), "a.html", {"other()"})


def test_a_page_without_a_place_for_the_policy_fails_the_build():
    with pytest.raises(SiteFault, match=r"a\.html does not start with"):
        policy.guarded("<title>x</title>", "a.html", set())
