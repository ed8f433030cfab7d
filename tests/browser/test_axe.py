"""Axe finds no serious or critical fault on any kind of page: light and dark, on a desktop and a phone."""

import json

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from browsing import AROUND, PRUNE, search, settle, strike, told
from playwright.sync_api import expect

WIDTHS = (1280, 390)
WHOLE = "guide/reading.html"  # the page whose navigation, search and footer, alike on all, are looked at
SETTINGS = {"resultTypes": ["violations"], "preload": False}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}  # what a scheme can change
AXE = {
    "light": f"axe.run(document, {json.dumps(SETTINGS)})",
    "dark": f"axe.run(document, {json.dumps(SETTINGS | COLOURS)})",
}


def test_axe_finds_no_serious_fault(open_page, served, kinds):
    page = open_page("index.html", still=True)
    assert WHOLE in kinds
    found = {}
    for path in kinds:
        page.goto(served + path)
        settle(page)
        if path != WHOLE:
            page.evaluate(AROUND)
        page.evaluate(PRUNE)
        page.evaluate(AXE_SCRIPT)
        for scheme, run in AXE.items():
            if scheme == "dark":
                page.get_by_title("Switch to dark mode").click()
                expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "slate")
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                settle(page)
                for fault in page.evaluate(run)["violations"]:
                    if fault["impact"] in ("serious", "critical"):
                        said = [f"{path}, {scheme}: {fault['id']} {node['html'][:120]}" for node in fault["nodes"][:3]]
                        found |= dict.fromkeys(said, width)
        page.evaluate("localStorage.clear()")  # where the scheme is kept
    assert not found, told(found)


def ask(page):
    page.locator(".md-search__input").click()
    search(page, "patience")


def look_up(page):
    page.get_by_label("Find a work").fill("pabee")
    strike(page, "Enter")
    page.locator(".ee-card").wait_for()


def compare(page):
    page.locator(".ee-pick input[name=m]").first.check()
    page.locator(".ee-compared:visible .ee-vega svg").first.wait_for()


USED = {
    "papers/index.html?policy=patience&policy=entropy&runnable=yes": None,
    "papers/index.html?text=nothingatall": None,
    "guide/reading.html": ask,
    "graph.html": look_up,
    "compare.html": compare,
}


@pytest.mark.parametrize("scheme", AXE)
@pytest.mark.parametrize("path", USED)
def test_axe_finds_no_serious_fault_in_a_page_that_is_used(open_page, path, scheme):
    page = open_page(path, scheme=scheme, still=True)
    if USED[path]:
        USED[path](page)
        settle(page)
    page.evaluate(PRUNE)
    page.evaluate(AXE_SCRIPT)
    faults = [fault for fault in page.evaluate(AXE[scheme])["violations"] if fault["impact"] in ("serious", "critical")]
    assert not faults, told({f"{fault['id']} {node['html'][:120]}": 0 for fault in faults for node in fault["nodes"]})
