"""How the tests find a browser, start it, and watch what a page does."""

import os
import shutil
from http.server import SimpleHTTPRequestHandler

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",  # a container's shared memory may be too small for it
]
MISSING = "no chromium was found: run tests/install_chromium.sh, or set CHROMIUM to the path of one"
WATCH = """addEventListener("securitypolicyviolation", (event) => console.error(
  `policy breached: ${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`))"""

# Two frames: what a page does when its width changes has been done.
SETTLED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
# Rows after the first ones are like them; axe looks at each, which takes long.
PRUNE = """document.querySelectorAll("tbody > tr:nth-child(n+6), .ee-works > li:nth-child(n+6), .ee-graph a")
  .forEach((row, index) => index % 8 && row.remove())"""


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
