"""A real browser (Debian's chromium) that looks at the real site, over http and from disk.

Every page opened here must be silent: a console error, an exception, a breach of its Content-Security-Policy or a
request that leaves the site fails the test that opened it.
"""

import threading
from contextlib import ExitStack
from functools import partial
from http.server import ThreadingHTTPServer

import pytest
from browsing import FLAGS, MISSING, Guard, Quiet, chromium, is_required, one_of_each, settle
from playwright.sync_api import expect, sync_playwright

HEIGHTS = {390: 844, 320: 640}
expect.set_options(timeout=30_000)  # as long as a page may take on a busy machine


@pytest.fixture(scope="session")
def browser():
    """Return the browser, one for each process that runs tests."""
    path = chromium()
    if path is None:
        (pytest.fail if is_required() else pytest.skip)(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(built_site):
    """Return the folder of the built site."""
    return built_site


@pytest.fixture(scope="session")
def pages(site):
    """Return the text of every page by its name below the site."""
    return {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


@pytest.fixture(scope="session")
def kinds(pages):
    """Return the names of pages that show between them all that pages of the site consist of."""
    return one_of_each(pages)


@pytest.fixture(scope="session")
def served(site):
    """Return the address of the site on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def open_page(browser, served, site):
    """Return a function that opens a page of the site and returns playwright's page, at rest; its faults fail the test.

    ``path`` is below the site (query and fragment may follow), ``over`` is "http" or "file" (then the network is off),
    ``still`` asks for no motion, ``folder`` is another site than the real one, from disk.
    """
    guards, stack = [], ExitStack()

    def opened(path, *, width=1280, scheme="light", over="http", javascript=True, still=False, folder=None):
        from_disk = over == "file" or folder is not None
        base = f"{(folder or site).as_uri()}/" if from_disk else served
        context = browser.new_context(
            viewport={"width": width, "height": HEIGHTS.get(width, 900)},
            color_scheme=scheme,
            java_script_enabled=javascript,
            reduced_motion="reduce" if still else "no-preference",
            has_touch=width < 600,
            offline=from_disk,
        )
        stack.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(30_000)
        guards.append((path, Guard(page, base)))
        page.goto(base + path, wait_until="load")
        if javascript:
            settle(page)
        return page

    with stack:
        yield opened
    faults = [f"{path}: {fault}" for path, guard in guards for fault in guard.faults]
    assert not faults, "\n".join(faults)
