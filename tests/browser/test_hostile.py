"""A hostile catalogue in a real browser: it shows as text and nothing of it runs, scripts that build pages included."""

import json
from collections import Counter

import pytest
from browsing import settle
from hostile import HOSTILE

START = " ".join(HOSTILE.split()).split("`code`")[0]  # as far as prose and titles are set alike
# Elements, handlers and links that only the hostile text could have brought.
BROUGHT = """() => [...document.querySelectorAll(
  '.md-content b, .md-content i:not([class]), [onclick], [onerror], a[href^="javascript:" i]')]
  .map((element) => element.outerHTML.slice(0, 120))"""


@pytest.fixture
def safe(open_page, hostile_site):
    """Return a function that opens a page of the hostile site, which brings nothing of its own however it is used."""
    pages = []

    def opened(path):
        pages.append(open_page(path, folder=hostile_site))
        return pages[-1]

    yield opened
    assert [page.evaluate(BROUGHT) for page in pages] == [[]] * len(pages)


def test_every_page_shows_it_as_text(open_page, hostile_site):
    page = open_page("index.html", folder=hostile_site, still=True)
    names = [path.relative_to(hostile_site).as_posix() for path in hostile_site.rglob("*.html")]
    shown = Counter()
    for name in (name for name in names if "methods/" not in name and name != "404.html"):  # methods are our own
        page.goto(f"{hostile_site.as_uri()}/{name}")
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            settle(page)
            shown[width] += START in " ".join(page.locator("body").inner_text().split())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
        assert page.evaluate(BROUGHT) == []
        for block in page.locator("script[type='application/ld+json']").all_text_contents():
            json.loads(block)
    assert min(shown.values()) >= 5


def test_the_table_filters_and_exports_it(safe):
    page = safe("papers/index.html")
    page.get_by_role("searchbox", name="Search", exact=True).last.fill("script")
    assert page.locator("#paper-table tbody tr:visible").count() >= 1
    titles = page.locator("span.Z3988").evaluate_all("spans => spans.map(span => span.title)")
    assert any("alert" in title for title in titles)
    page.locator(".ee-facet input[value='t']").first.check()
    assert START in " ".join(page.locator(".ee-active").inner_text().split())


def test_the_graph_finds_it_and_opens_its_card(safe):
    page = safe("graph.html?work=evil2020x")
    card = page.locator(".ee-card")
    card.wait_for()
    assert START in " ".join(card.inner_text().split())
