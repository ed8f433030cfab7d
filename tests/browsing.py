"""How the tests find a browser, start it, choose pages of the site, and watch what a page does."""

import os
import re
import shutil
from collections import defaultdict
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler

from lxml import html
from playwright.sync_api import Error, expect

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",  # a container's shared memory may be too small for it
    "--disable-smooth-scrolling",  # a turn of the wheel is one step, not a movement that a test would look at half way
]
MISSING = "no chromium was found: run tests/install_chromium.sh, or set CHROMIUM to the path of one"
# What an event alone tells is noted: breaches of the policy, and whether the page still scrolls.
WATCH = """addEventListener("securitypolicyviolation", (event) => console.error(
  `policy breached: ${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
addEventListener("scroll", () => { window.scrolls = true; });
addEventListener("scrollend", () => { window.scrolls = false; });"""

# Two frames: what a page does when its width changes or it was scrolled has been done.
SETTLED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
# Axe and the walk with the keyboard look at every element, which takes long. What consists of nothing but kinds of
# elements that stand before it goes, unless it is the first of its name in its place. They are of a kind if they and
# those they stand in have the same names, classes, roles, types and attributes. Cells and what names others stay.
PRUNE = """() => {
  const kinds = new Map([[document.body, ""]]);
  const told = ({ name, value }) => (["class", "role", "type"].includes(name) ? `${name}=${value}` : name);
  function kind(element) {
    if (!kinds.has(element)) {
      const own = `${element.localName} ${[...element.attributes].map(told).sort()}`;
      kinds.set(element, `${kind(element.parentElement)} > ${own}`);
    }
    return kinds.get(element);
  }
  const stay = "td, th, thead *, dt, dd, input, label[for], caption, legend";
  const seen = new Set();
  const isKnown = (element) => seen.has(kind(element));
  const mayGo = (element) => !element.matches(stay) && [element, ...element.querySelectorAll("*")].every(isKnown);
  (function sift(parent) {
    const names = new Set();
    for (const element of [...parent.children]) {
      if (names.has(element.localName) && mayGo(element)) element.remove();
      else {
        names.add(element.localName);
        seen.add(kind(element));
        sift(element);
      }
    }
  })(document.body);
}"""
# Hides what the theme puts around the content of each page, but for the header with its switches.
AROUND = """() => [...document.querySelectorAll(".md-tabs, .md-sidebar, .md-search, .md-footer")]
  .forEach((part) => { part.style.display = "none"; })"""
TAG = re.compile(r"<([a-z][a-z0-9]*)((?:\s[^<>]*)?)>")


def parts(text):
    """Return the kinds of elements of a page, told apart by name, class and role, and the number of its elements."""
    kinds, tags = set(), TAG.findall(text)
    for name, attributes in tags:
        given = dict(re.findall(r'(?<![\w-])(class|role)="?([^">]*)', attributes))
        kinds |= {(name, given.get("role", ""), word) for word in given.get("class", "").split() or [""]}
    return kinds, len(tags)


def one_of_each(pages):
    """Choose from pages (name below the site → text) one of each type and the widest of each.

    A page that the navigation names is a type of its own; the others of a folder are one. The widest has the most
    elements, the one beside it the fewest. More are chosen until each kind of element of any page is in one of them.
    """
    links = (link.get("href") for link in html.fromstring(pages["index.html"]).find_class("md-nav__link"))
    named = {link for link in links if link}
    found = {name: parts(text) for name, text in sorted(pages.items())}
    types = defaultdict(list)
    for name in sorted(found, key=lambda name: found[name][1]):
        folder, slash, _ = name.rpartition("/")
        types[folder if slash and name not in named else name].append(name)
    chosen = list(dict.fromkeys(name for alike in types.values() for name in (alike[0], alike[-1])))
    missing = set().union(*(kinds for kinds, _ in found.values())).difference(*(found[name][0] for name in chosen))
    while missing:
        chosen.append(max(found, key=lambda name: len(found[name][0] & missing)))
        missing -= found[chosen[-1]][0]
    return chosen


def chromium():
    """Return the path of a browser, or None."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


def is_required():
    """Return whether tests fail, and are not skipped, where there is no browser."""
    return bool(os.environ.get("CI") or os.environ.get("EELIT_REQUIRE_BROWSER"))


class Quiet(SimpleHTTPRequestHandler):
    """Serve files without a word."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would make a browser wait for small files
    wbufsize = -1

    def log_message(self, *words):
        """Say nothing."""


class Guard:
    """What one page does that it must not do; `base` is the address below which all that it loads must lie."""

    def __init__(self, page, base):
        self.seen, self.base = {}, base
        page.context.add_init_script(WATCH)
        page.on("console", lambda said: said.type == "error" and self.note(f"console: {said.text}"))
        page.on("pageerror", lambda error: self.note(f"exception: {error}"))
        page.on("dialog", lambda dialog: (self.note(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", self.look_at)

    def look_at(self, request):
        """Note a request that leaves the site."""
        if not request.url.startswith((self.base, "data:", "blob:", "about:")):
            self.note(f"asks for {request.url}")

    def note(self, fault):
        """Note a fault; one that comes again and again counts once."""
        self.seen[fault[:240]] = None

    @property
    def faults(self):
        """All faults so far."""
        return list(self.seen)


def told(found):
    """Return faults for people: some of them, if there are many."""
    return "\n".join([*list(found)[:12], f"{len(found)} in all"])


def until(page, holds, seconds=30):
    """Wait until something holds; playwright's own way puts a script into the page, which the pages' policy refuses."""
    for _ in range(seconds * 20):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"did not come within {seconds} seconds")


def strike(page, key):
    """Press a key, and wait until the page has met it, which the browser may do a moment later than it says so."""
    page.keyboard.press(key)
    with suppress(Error):  # the key led to another page
        page.evaluate(SETTLED)


def settle(page):
    """Wait until the page has been laid out, its charts are drawn and nothing scrolls or moves any more."""
    page.evaluate(SETTLED)
    moving = "() => window.scrolls || document.querySelector('[aria-busy=true], [data-moves]') !== null"
    until(page, lambda: not page.evaluate(moving))


def search(page, words):
    """Type into the search, which has the focus, and return its hits.

    It reads its field when a key is released: a single one is, once it is ready, so that no hit is one of half a word.
    """
    expect(page.locator(".md-search__input")).to_be_focused()
    expect(page.locator(".md-search-result__meta")).to_have_text("Type to start searching")
    page.keyboard.insert_text(words[:-1])
    page.keyboard.press(words[-1])
    hits = page.locator(".md-search-result__link")
    hits.first.wait_for()
    return hits
