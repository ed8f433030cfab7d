"""Axe finds no serious or critical fault on any kind of page: light and dark, on a desktop and a phone."""

import json

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from browsing import PRUNE, told

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
            for fault in page.evaluate(AXE[scheme])["violations"]:
                if fault["impact"] in ("serious", "critical"):
                    found |= {f"{path}: {fault['id']} {node['html'][:120]}": width for node in fault["nodes"][:3]}
    assert not found, told(found)
