"""Tables of methods are sorted and filtered, and the many curves of a track are shown by kind."""

import re

import pytest
from browsing import settle, strike
from playwright.sync_api import expect

SHOWN = [(1280, "light", "http"), (390, "dark", "file")]
METHODS = ".ee-methods tbody tr"


@pytest.mark.parametrize(("width", "scheme", "over"), SHOWN)
def test_methods_are_filtered_by_keyboard_and_the_address_keeps_it(open_page, width, scheme, over):
    page = open_page("methods/index.html", width=width, scheme=scheme, over=over)
    every, shown = page.locator(METHODS).count(), page.locator(f"{METHODS}:visible")
    expect(page.locator(".ee-sifted")).to_have_text(f"showing all {every} methods")
    choice = page.get_by_label("Exit policy")
    choice.focus()
    choice.select_option("patience")
    expect(shown).not_to_have_count(every)
    assert all("patience" in row.get_attribute("data-family").split() for row in shown.all())
    said = re.search(r"\((\d+)\)", choice.locator("option[value=patience]").inner_text())[1]
    expect(page.locator(".ee-sifted")).to_have_text(f"showing {said} of {every} methods")
    page.get_by_role("searchbox", name="Name").fill("pabee")
    expect(shown).to_have_count(1)
    if over == "http":
        assert page.evaluate("location.search") == "?name=pabee&family=patience"
        page.reload()
        expect(shown).to_have_count(1)
    page.get_by_role("searchbox", name="Name").fill("nothing of this name")
    expect(page.locator(".ee-sifted")).to_contain_text("none fits")
    page.locator("button.md-button[type=reset]").click()
    expect(shown).to_have_count(every)


def values(page, rows, index):
    cells = f"rows => rows.map(row => row.cells[{index}].dataset.value ?? row.cells[{index}].textContent.trim())"
    return page.locator(rows).evaluate_all(cells)


def numbers(found):
    """Return the numbers among the values, all of which must come before what is none."""
    known = [float(value) for value in found if value]
    assert not any(found[len(known) :])
    return known


def test_a_click_on_a_head_sorts_and_the_form_says_so(open_page):
    page = open_page("methods/index.html")
    head = page.get_by_role("columnheader", name="Gain over max-confidence")
    head.get_by_role("button").focus()
    strike(page, "Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    expect(page.get_by_label("Sort by")).to_have_value("-gain")
    gains = numbers(values(page, METHODS, 5))
    assert gains == sorted(gains, reverse=True)
    strike(page, "Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert numbers(values(page, METHODS, 5)) == sorted(gains)
    page.get_by_label("Sort by").select_option("name")
    names = [name.lower() for name in values(page, METHODS, 0)]
    assert names == sorted(names)
    page.get_by_label("Sort by").select_option("")
    assert page.locator(".ee-methods [aria-sort]").count() == 0


def test_on_a_phone_methods_are_sorted_by_the_form(open_page):
    page = open_page("methods/index.html", width=390)
    assert page.locator(".ee-methods .ee-sort").count() == 0  # out of sight there
    page.get_by_label("Sort by").select_option("-speed-up")
    found = numbers(values(page, METHODS, 4))
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(("width", "scheme", "over"), SHOWN)
def test_rows_of_a_leaderboard_are_sorted_and_filtered(open_page, width, scheme, over):
    page = open_page("tracks/text.html", width=width, scheme=scheme, over=over)
    table = page.locator(".ee-ranks").first
    rows = ".ee-ranks >> nth=0 >> tbody tr"
    table.get_by_role("button", name="area").click()
    areas = numbers(values(page, rows, 5))
    assert areas == sorted(areas, reverse=True)
    page.get_by_label("Task").select_option("regression")
    groups = page.locator(".ee-group")
    assert 0 < page.locator(".ee-group:visible").count() < groups.count()
    for group in groups.all():  # a heading goes with what it heads
        assert page.locator(f"#{group.get_attribute('data-heading')}").is_visible() == group.is_visible()


def test_a_row_that_is_folded_or_filtered_away_is_shown_to_whom_its_address_leads(open_page):
    page = open_page("tracks/images.html")
    folded = page.locator("details .ee-ranks tbody tr").last
    assert not folded.is_visible()
    anchor = folded.get_attribute("id")
    page.get_by_role("searchbox", name="Name").fill("nothing of this name")
    page.evaluate(f"location.hash = '{anchor}'")
    expect(folded).to_be_in_viewport()


def drawn(page):
    settle(page)
    return page.locator(".ee-chart").first.locator(".ee-vega path[aria-roledescription='line mark']")


@pytest.mark.parametrize(("width", "scheme", "over"), SHOWN)
def test_curves_are_shown_by_kind_and_baselines_stay(open_page, width, scheme, over):
    page = open_page("tracks/images.html", width=width, scheme=scheme, over=over)
    figure = page.locator(".ee-chart").first
    figure.locator(".ee-vega svg").wait_for()
    every = figure.locator(".ee-lines [data-curve]").count()
    fixed = figure.locator(".ee-lines [data-kind='']").count()
    assert fixed == 2
    expect(drawn(page)).to_have_count(every)
    buttons = figure.get_by_role("group", name="Curves shown, by kind")
    buttons.get_by_role("button", name="none", exact=True).click()
    expect(drawn(page)).to_have_count(fixed)
    learned = buttons.get_by_role("button", name=re.compile("^Learned rule"))
    learned.focus()
    strike(page, "Space")
    expect(learned).to_have_attribute("aria-pressed", "true")
    count = int(re.search(r"\((\d+)\)", learned.inner_text())[1])
    expect(drawn(page)).to_have_count(fixed + count)
    figure.get_by_text("Choose single curves").click()
    figure.locator(".ee-choice input:checked").first.uncheck()
    expect(learned).to_have_attribute("aria-pressed", "mixed")
    expect(drawn(page)).to_have_count(fixed + count - 1)
    buttons.get_by_role("button", name="all", exact=True).click()
    expect(drawn(page)).to_have_count(every)


@pytest.mark.parametrize("path", ["tracks/images.html", "tracks/images-plain.html", "tracks/text.html"])
def test_a_leaderboard_opens_with_what_was_found_and_is_not_endless(open_page, path):
    page = open_page(path)
    assert page.locator("main h2").first.inner_text().strip("¶\n ") == "What was found"
    assert page.evaluate("document.documentElement.scrollHeight") < 14_000


def test_without_scripts_all_rows_are_there_and_no_form(open_page):
    page = open_page("methods/index.html", javascript=False)
    assert page.locator(f"{METHODS}:visible").count() == page.locator(METHODS).count()
    assert not page.locator(".ee-sift").is_visible()
