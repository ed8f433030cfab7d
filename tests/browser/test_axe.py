"""Axe finds no serious or critical fault on any kind of page: light and dark, on a desktop and a phone."""

import json

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from browsing import PRUNE, SETTLED, told

WIDTHS = (1280, 390)
SETTINGS = {"resultTypes": ["violations"], "preload": False}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}  # what a scheme can change
AXE = {
    "light": f"axe.run(document, {json.dumps(SETTINGS)})",
    "dark": f"axe.run(document, {json.dumps(SETTINGS | COLOURS)})",
}


@pytest.mark.parametrize("scheme", AXE)
def test_axe_finds_no_serious_fault(open_page, served, kinds, scheme):
    page = open_page("index.html", scheme=scheme, still=True)
    found = {}
    for path in kinds.values():
        page.goto(served + path)
        page.evaluate(PRUNE)
        page.evaluate(AXE_SCRIPT)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate(SETTLED)
            for fault in page.evaluate(AXE[scheme])["violations"]:
                if fault["impact"] in ("serious", "critical"):
                    found |= {f"{path}: {fault['id']} {node['html'][:120]}": width for node in fault["nodes"][:3]}
    assert not found, told(found)


def search(page):
    page.get_by_role("textbox", name="Search").fill("patience")
    page.locator(".md-search-result__link").first.wait_for()


def look_up(page):
    page.get_by_label("Find a work").fill("pabee")
    page.keyboard.press("Enter")
    page.locator(".ee-card").wait_for()


def compare(page):
    page.locator(".ee-pick input[name=m]").first.check()
    page.locator(".ee-compared:visible .ee-vega svg").first.wait_for()


USED = {
    "papers/index.html?policy=patience&policy=entropy&runnable=yes": None,
    "papers/index.html?text=nothingatall": None,
    "guide/reading.html": search,
    "graph.html": look_up,
    "compare.html": compare,
}


@pytest.mark.parametrize("scheme", AXE)
@pytest.mark.parametrize("path", USED)
def test_axe_finds_no_serious_fault_in_a_page_that_is_used(open_page, path, scheme):
    page = open_page(path, scheme=scheme, still=True)
    if USED[path]:
        USED[path](page)
    page.evaluate(PRUNE)
    page.evaluate(AXE_SCRIPT)
    faults = [fault for fault in page.evaluate(AXE[scheme])["violations"] if fault["impact"] in ("serious", "critical")]
    assert not faults, told({f"{fault['id']} {node['html'][:120]}": 0 for fault in faults for node in fault["nodes"]})
