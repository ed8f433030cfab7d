"""The citation graph that can be played with, by mouse and by keyboard, at desktop and phone width."""

import pytest

VIEWS = [(1280, "light", "http"), (390, "dark", "file")]
LABELS = """
() => {
  const cy = document.querySelector('.ee-canvas').eelit;
  return cy.nodes().not('.out').map(node => {
    const box = node.boundingBox({includeLabels: true, includeOverlays: false});
    return [node.id(), box.x1, box.y1, box.x2, box.y2];
  });
}
"""


@pytest.fixture(params=VIEWS, ids=lambda given: "-".join(map(str, given)))
def graph(request, open_page):
    width, scheme, over = request.param
    return lambda query="": open_page(f"graph.html{query}", width=width, scheme=scheme, over=over)


def status(page):
    return page.locator(".ee-explorer .ee-status").inner_text()


@pytest.mark.parametrize("layout", ["", "?layout=years"])
def test_no_label_lies_upon_another(open_page, layout):
    page = open_page(f"graph.html{layout}")
    boxes = page.evaluate(LABELS)
    assert len(boxes) >= 85
    hits = [
        (a[0], b[0])
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
    ]
    assert hits == []


def test_a_click_opens_a_card_with_links_and_relatives(graph):
    page = graph()
    place = page.evaluate(
        "() => { const cy = document.querySelector('.ee-canvas').eelit; const n = cy.getElementById('zhou2020pabee');"
        " cy.zoom(1); cy.center(n); const box = document.querySelector('.ee-canvas').getBoundingClientRect();"
        " const at = n.renderedPosition(); return [box.x + at.x, box.y + at.y]; }"
    )
    page.locator(".ee-canvas").scroll_into_view_if_needed()
    place = page.evaluate(
        "() => { const n = document.querySelector('.ee-canvas').eelit.getElementById('zhou2020pabee');"
        " const box = document.querySelector('.ee-canvas').getBoundingClientRect(); const at = n.renderedPosition();"
        " return [box.x + at.x, box.y + at.y]; }"
    )
    card = page.locator(".ee-card")
    for _ in range(5):  # a click before the picture is drawn is lost, for people too
        page.mouse.move(*place)
        page.mouse.click(*place)
        page.wait_for_timeout(300)
        if card.is_visible():
            break
    assert card.locator("h3 a").get_attribute("href") == "papers/zhou2020pabee.html"
    assert card.get_by_role("link", name="Method").get_attribute("href") == "methods/zhou2020pabee.html"
    assert "Shallow-Deep Networks" in card.inner_text()
    assert "PABEE" in status(page)
    card.get_by_role("button", name="Shallow-Deep Networks").click()
    assert card.locator("h3 a").get_attribute("href") == "papers/kaya2019sdn.html"


def test_search_and_arrows_by_keyboard(graph):
    page = graph()
    box = page.get_by_role("combobox", name="Find a work")
    box.focus()
    page.keyboard.type("deebert")
    assert box.get_attribute("aria-expanded") == "true"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert page.locator(".ee-card h3").inner_text() == "DeeBERT"
    page.locator(".ee-canvas").focus()
    page.keyboard.press("ArrowRight")
    moved = status(page)
    assert "DeeBERT" not in moved
    page.keyboard.press("Escape")
    assert page.locator(".ee-card").is_hidden()
    assert "none chosen" in status(page)
    zoom = "document.querySelector('.ee-canvas').eelit.zoom()"
    before = page.evaluate(zoom)
    page.keyboard.press("+")
    assert page.evaluate(zoom) > before
    page.keyboard.press("0")
    assert page.evaluate(zoom) == pytest.approx(before, rel=0.05)


def test_layout_colour_and_work_are_kept_in_the_address(open_page):
    page = open_page("graph.html")
    page.get_by_role("button", name="by year").click()
    page.get_by_label("Colour by").select_option("domain")
    page.get_by_role("combobox", name="Find a work").fill("branchynet")
    page.keyboard.press("Enter")
    query = page.evaluate("location.search")
    assert all(part in query for part in ("layout=years", "colour=domain", "work=teerapittayanon2016branchynet"))
    page.reload()
    assert page.locator("[data-layout=years]").get_attribute("aria-pressed") == "true"
    assert page.locator(".ee-card h3").inner_text() == "BranchyNet"
    columns = page.evaluate(
        "() => { const cy = document.querySelector('.ee-canvas').eelit;"
        " return ['zhou2020pabee', 'xin2020deebert', 'kaya2019sdn'].map(k => cy.getElementById(k).position().x); }"
    )
    assert columns[0] == columns[1] > columns[2]


def test_kinds_of_edges_can_be_hidden_and_recalled_ones_are_at_first(open_page):
    page = open_page("graph.html")
    shown = "kind => document.querySelector('.ee-canvas').eelit.edges(`[kind = '${kind}']`).not('.out').length"
    assert page.evaluate(shown, "unverified") == 0
    assert page.evaluate(shown, "cites") > 50
    page.locator(".ee-kinds input[value=cites]").uncheck()
    page.locator(".ee-kinds input[value=unverified]").check()
    assert page.evaluate(shown, "cites") == 0
    assert page.evaluate(shown, "unverified") > 50


def test_without_scripts_there_is_a_picture_and_a_table(open_page):
    page = open_page("graph.html", javascript=False)
    assert page.locator(".ee-graph").is_visible()
    assert page.locator(".ee-explorer").is_hidden()
    assert page.locator("#table").is_visible()
