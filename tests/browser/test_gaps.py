"""The gap map: the same numbers as the command line, cells that lead to their works."""

import json

import pytest
from browsing import strike


@pytest.mark.parametrize(("width", "scheme", "over"), [(1280, "light", "http"), (390, "dark", "file")])
def test_a_way_of_training_is_chosen_by_keyboard_and_a_cell_leads_to_its_works(open_page, width, scheme, over):
    page = open_page("taxonomy/gaps.html", width=width, scheme=scheme, over=over)
    choice = page.locator("#ee-gap-training")
    before = page.locator("#ee-gap-status").inner_text()
    choice.focus()
    choice.select_option("joint")
    assert page.locator("#ee-gap-status").inner_text() != before
    cell = page.locator(".ee-gaps td a").first
    count = int(cell.locator(".ee-sum").inner_text())
    cell.focus()
    strike(page, "Enter")
    page.wait_for_url("**/papers/index.html?**")
    assert page.locator("#paper-table tbody tr:not([hidden])").count() == count
    assert "training=joint" in page.url


def test_page_and_command_line_say_the_same(open_page, eelit, database, monkeypatch):
    monkeypatch.setenv("EELIT_DB", str(database))
    page = open_page("taxonomy/gaps.html?training=joint")
    shown = (
        page.locator(".ee-gaps")
        .first.locator("td[data-cell]")
        .evaluate_all("cells => cells.map(c => [c.dataset.cell, Number(c.querySelector('.ee-sum')?.textContent || 0)])")
    )
    told = json.loads(eelit("gaps", "--training", "joint", "--format", "json").stdout)["cells"]
    assert dict(shown) == {f"{cell['placement']} {cell['policy']}": len(cell["works"]) for cell in told}


def test_without_scripts_the_map_shows_all(open_page):
    page = open_page("taxonomy/gaps.html", javascript=False)
    assert page.locator(".ee-gaps").first.is_visible()
    assert page.locator(".ee-gap-choice").is_hidden()
