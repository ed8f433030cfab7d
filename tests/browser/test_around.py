"""Getting around the site: navigation, search and the dark mode, by mouse and by keyboard, at both widths."""

import re

import pytest
from browsing import search, strike
from playwright.sync_api import expect

KEYBOARD = pytest.mark.parametrize("keyboard", [False, True], ids=["mouse", "keyboard"])
WIDTH = pytest.mark.parametrize("width", [1280, 390])
SCHEME = "document.body.dataset.mdColorScheme"


def press(page, target, keyboard, key="Enter"):
    """Use a control with the mouse or the keyboard."""
    if keyboard:
        target.focus()
        strike(page, key)
    else:
        target.click()


@KEYBOARD
def test_tabs_lead_to_pages(open_page, keyboard):
    page = open_page("index.html")
    assert not page.get_by_role("button", name="Navigation").is_visible(), "the drawer is for narrow screens"
    for name, title in (("Papers", "Papers"), ("Methods", "Methods"), ("Taxonomy", "Taxonomy")):
        press(page, page.locator(".md-tabs").get_by_role("link", name=name, exact=True), keyboard)
        page.wait_for_url(f"**/{name.lower()}/**")
        assert title in page.locator("h1").inner_text()
        assert page.locator(".md-tabs__item--active").inner_text() == name


@KEYBOARD
def test_the_drawer_of_a_phone(open_page, keyboard):
    page = open_page("papers/zhou2020pabee.html", width=390)
    button = page.get_by_role("button", name="Navigation")
    assert button.get_attribute("aria-expanded") == "false"
    assert not page.locator(".md-sidebar--primary").get_by_role("link", name="Methods").is_visible()
    press(page, button, keyboard)
    assert button.get_attribute("aria-expanded") == "true"
    if keyboard:
        assert page.evaluate("document.activeElement.closest('.md-sidebar--primary') !== null")
        strike(page, "Escape")
        assert button.get_attribute("aria-expanded") == "false"
        assert button.evaluate("element => element === document.activeElement")
        press(page, button, keyboard)
    press(page, page.locator(".md-sidebar--primary label.md-nav__link", has_text="Taxonomy"), keyboard)
    outer = page.locator(".md-sidebar--primary").get_by_role("link", name="Methods")
    outer.wait_for(state="hidden")
    press(page, page.locator(".md-sidebar--primary label.md-nav__title", has_text="Taxonomy"), keyboard)
    outer.wait_for(state="visible")
    press(page, outer, keyboard)
    page.wait_for_url("**/methods/index.html")


def test_leaving_the_drawer_closes_it(open_page):
    page = open_page("index.html", width=390)
    button = page.get_by_role("button", name="Navigation")
    press(page, button, keyboard=True)
    page.locator("article a").first.focus()
    assert button.get_attribute("aria-expanded") == "false"


@WIDTH
@KEYBOARD
def test_search_finds_a_paper(open_page, width, keyboard):
    page = open_page("index.html", width=width)
    if keyboard:
        strike(page, "/")
    else:
        page.locator('label.md-header__button[for="__search"]' if width == 390 else ".md-search__input").click()
    hits = search(page, "PABEE")
    if keyboard:
        strike(page, "ArrowDown")
        expect(hits.first).to_be_focused()
        strike(page, "Enter")
    else:
        hits.first.click()
    page.wait_for_url("**/*zhou2020pabee.html*")


@WIDTH
@KEYBOARD
@pytest.mark.parametrize("over", ["http", "file"])
def test_dark_mode_is_chosen_and_kept(open_page, width, keyboard, over):
    page = open_page("index.html", width=width, over=over)
    assert page.evaluate(SCHEME) == "default"
    if keyboard:
        press(page, page.get_by_role("radio", name="Switch to dark mode"), keyboard)
    else:
        page.get_by_title("Switch to dark mode").click()
    expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "slate")
    page.goto(page.url.replace("index.html", "papers/index.html"))
    assert page.evaluate(SCHEME) == "slate"


def test_the_scheme_of_the_machine_is_taken(open_page):
    assert open_page("index.html", scheme="dark").evaluate(SCHEME) == "slate"


def test_skipping_to_the_content(open_page):
    page = open_page("papers/index.html")
    strike(page, "Tab")
    strike(page, "Enter")
    expect(page).to_have_url(re.compile("#papers$"))


def test_the_search_index_is_fetched_when_one_searches(open_page):
    """It is the largest file of the site, and most who read a page never search."""
    page = open_page("index.html")
    fetched = "() => performance.getEntriesByType('resource').filter(one => one.name.includes('search_index')).length"
    assert page.evaluate(fetched) == 0
    page.locator(".md-search__input").click()
    assert search(page, "PABEE").count()
    assert page.evaluate(fetched) == 1


def test_an_address_that_asks_finds(open_page):
    page = open_page("index.html?q=PABEE")
    expect(page.locator(".md-search-result__link").first).to_be_visible()


def test_a_wrong_address_leads_on(open_page, served):
    page = open_page("404.html")
    links = page.locator("main a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert "/papers/index.html" in links or any(link.endswith("papers/index.html") for link in links)
