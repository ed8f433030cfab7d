"""The table of papers: filters, sorting and the address that holds both, by mouse and by keyboard, at both widths."""

import re

import pytest
from playwright.sync_api import expect

PAPERS = "papers/index.html"
SHOWN = "#paper-table tbody tr:not([hidden])"
EACH = [
    pytest.mark.parametrize("over", ["http", "file"]),
    pytest.mark.parametrize("width", [1280, 390]),
    pytest.mark.parametrize("keyboard", [False, True], ids=["mouse", "keyboard"]),
]


def each(test):
    """Run a test in each way of using the table."""
    for mark in EACH:
        test = mark(test)
    return test


def shown(page):
    return page.locator("#paper-table tbody tr:visible").count()


def said(page):
    """Return how many works the status line says are shown."""
    return int(re.search(r"showing (?:all )?(\d+)", page.locator(".ee-status").inner_text())[1])


def use(page, target, keyboard, key):
    if keyboard:
        target.focus()
        page.keyboard.press(key)
    else:
        target.click()


def unfold(page, keyboard):
    """Open the filters, which on a phone are folded away at first."""
    if page.locator(".ee-filterbox").get_attribute("open") is None:
        use(page, page.locator(".ee-filterbox > summary"), keyboard, "Enter")


@each
def test_filters_narrow_and_the_address_keeps_them(open_page, over, width, keyboard):
    page = open_page(PAPERS, over=over, width=width)
    total = shown(page)
    assert total == said(page) > 50
    unfold(page, keyboard)
    facet = page.locator('.ee-facet[data-facet="policy"]')
    if facet.get_attribute("open") is None:
        use(page, facet.locator("summary"), keyboard, "Enter")
    use(page, facet.locator('input[value="patience"]'), keyboard, "Space")
    narrowed = shown(page)
    assert 0 < narrowed == said(page) < total
    assert "policy=patience" in page.url
    page.reload()
    assert shown(page) == narrowed
    unfold(page, keyboard)
    use(page, page.get_by_role("button", name="Clear all"), keyboard, "Enter")
    expect(page.locator(SHOWN)).to_have_count(total)
    assert "?" not in page.url


@each
def test_sorting(open_page, over, width, keyboard):
    page = open_page(PAPERS, over=over, width=width)
    head = page.locator('th[data-sort="name"]')
    for direction in ("ascending", "descending"):
        use(page, head.get_by_role("button"), keyboard, "Enter")
        assert head.get_attribute("aria-sort") == direction
        names = page.locator("#paper-table tbody tr").evaluate_all("rows => rows.map((row) => row.dataset.name)")
        assert names == sorted(names, reverse=direction == "descending")
    assert page.locator("#paper-table th[aria-sort]").count() == 1


def test_words_are_searched_while_one_types(open_page):
    page = open_page(PAPERS)
    total = shown(page)
    page.get_by_role("searchbox", name="Search", exact=True).last.fill("zhou patience")
    expect(page.locator(SHOWN)).not_to_have_count(total)
    assert shown(page) == said(page) < 9
    assert page.locator('#paper-table tr[data-name="pabee"]').is_visible()
