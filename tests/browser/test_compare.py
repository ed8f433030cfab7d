"""Curves and the page that compares methods, by mouse and by keyboard."""

import re

import pytest
from playwright.sync_api import expect

SCHEMES = [(1280, "light", "http"), (390, "dark", "file")]


@pytest.fixture(params=SCHEMES, ids=lambda given: "-".join(map(str, given)))
def compare(request, open_page):
    width, scheme, over = request.param
    return lambda query="": open_page(f"compare.html{query}", width=width, scheme=scheme, over=over)


def drawn(page):
    return page.locator(".ee-compared:visible .ee-vega svg")


def test_choosing_draws_curves_and_turns_the_table(compare):
    page = compare()
    boxes = page.locator(".ee-pick input[name=m]")
    whole = page.locator(".ee-compare-table")
    assert whole.is_visible()
    first, second = boxes.nth(0), boxes.nth(1)
    first.check()
    second.focus()
    page.keyboard.press("Space")  # by keyboard
    assert page.locator(".ee-status").first.inner_text().startswith("comparing 2 of ")
    drawn(page).first.wait_for()
    names = [box.locator("xpath=..").inner_text().strip() for box in (first, second)]
    assert page.locator(".ee-beside thead a").all_inner_texts() == names
    assert whole.is_hidden()
    lines = page.locator(".ee-compared:visible .ee-vega svg path[aria-roledescription='line mark']")
    assert lines.count() == 2
    first.uncheck()
    second.uncheck()
    assert whole.is_visible()


def test_the_figures_beside_each_other_are_those_of_the_whole_table(compare):
    page = compare()
    row = page.locator(".ee-compare-table tbody tr[data-id]").first
    told = [cell.text_content() for cell in row.locator("td").all()]
    page.locator(f".ee-pick input[value='{row.get_attribute('data-id')}']").check()
    assert [cell.text_content() for cell in page.locator(".ee-beside tbody td").all()] == told


def test_the_address_keeps_the_choice(open_page):
    page = open_page("compare.html")
    box = page.locator(".ee-pick input[name=m]").nth(2)
    wanted = box.get_attribute("value")
    box.check()
    assert "m=" in page.evaluate("location.search")
    page.reload()
    assert page.locator(".ee-pick input:checked").evaluate_all("found => found.map(box => box.value)") == [wanted]
    page.locator(".ee-pick button").click()
    expect(page).to_have_url(re.compile(r"compare\.html$"))


def test_a_key_in_the_address_means_all_its_variants(open_page):
    page = open_page("compare.html?m=zhou2020pabee")
    chosen = page.locator(".ee-pick input:checked").evaluate_all("found => found.map(box => box.value)")
    assert len(chosen) > 1
    assert all(value.startswith("zhou2020pabee:") for value in chosen)
    assert "one picture for each kind" in page.locator(".ee-status").first.inner_text()  # classification, regression
    expect(page.locator(".ee-compared:not([hidden]) .ee-vega svg")).to_have_count(2)


def test_without_scripts_everything_is_in_the_table(open_page):
    page = open_page("compare.html", javascript=False)
    assert page.locator(".ee-compare-table").is_visible()
    assert page.locator(".ee-pick").is_hidden()
    assert page.locator(".ee-static svg").first.is_visible()


@pytest.mark.parametrize(("width", "scheme", "over"), SCHEMES)
def test_a_methods_curve_is_drawn_with_the_rules_it_has_to_face(open_page, width, scheme, over):
    page = open_page("methods/zhou2020pabee.html", width=width, scheme=scheme, over=over)
    figure = page.locator(".ee-chart").first
    figure.locator(".ee-vega svg").wait_for()
    assert figure.locator(".ee-static").is_hidden()
    lines = figure.locator("path[aria-roledescription='line mark']")
    names = figure.locator(".ee-choice label").all_inner_texts()
    assert {"static exit", "max-confidence"} < {name.strip() for name in names}
    assert lines.count() == len(names)
    figure.locator(".ee-choice input").last.focus()
    page.keyboard.press("Space")
    expect(lines).to_have_count(len(names) - 1)


def test_a_point_tells_its_setting_cost_and_quality(open_page):
    page = open_page("methods/zhou2020pabee.html")
    point = page.locator(".ee-chart").first.locator("path[aria-roledescription='point']").first
    point.wait_for()
    point.evaluate("mark => mark.scrollIntoView({block: 'center'})")
    point.hover(force=True)  # another curve's mark may lie upon it
    tip = page.locator(".ee-tip")
    tip.wait_for()
    assert "quality" in tip.inner_text() or "accuracy" in tip.inner_text()
    assert "cost: " in tip.inner_text()


def test_without_scripts_the_static_curve_stays(open_page):
    page = open_page("methods/zhou2020pabee.html", javascript=False)
    assert page.locator(".ee-chart .ee-static svg").first.is_visible()
