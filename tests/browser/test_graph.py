"""The citation graph that can be played with, by mouse and by keyboard, at desktop and phone width."""

import re
from itertools import pairwise

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from browsing import SETTLED, settle, strike, until
from playwright.sync_api import expect

VIEWS = [(1280, "light", "http"), (390, "dark", "file")]
CY = "document.querySelector('.ee-canvas').eelit"
LABELS = f"""
() => {{
  const cy = {CY}, canvas = cy.container();
  const boxes = cy.nodes().not('.out').map(node => {{
    const box = node.renderedBoundingBox({{includeLabels: true, includeOverlays: false}});
    return [node.id(), box.x1, box.y1, box.x2, box.y2];
  }});
  const size = Math.min(...cy.nodes().not('.out').map(node => node.numericStyle('font-size')));
  return {{boxes, size: size * cy.zoom(), width: canvas.clientWidth, height: canvas.clientHeight}};
}}
"""
LINES = """
scope => Object.fromEntries([...document.querySelectorAll(`${scope} path.edge`)].map(path => {
  const line = getComputedStyle(path);
  return [path.classList[1], line.stroke.replaceAll(' ', '')];
}))
"""


def whole(seen):
    """Return the keys whose mark and label lie inside the canvas."""
    wide, high = seen["width"], seen["height"]
    return [key for key, x1, y1, x2, y2 in seen["boxes"] if min(x1, y1) >= 0 and x2 <= wide and y2 <= high]


def place_of(page, key):
    """Scroll to the canvas and return where a work stands on the screen."""
    page.locator(".ee-canvas").scroll_into_view_if_needed()
    settle(page)
    return page.evaluate(
        f"key => {{ const at = {CY}.getElementById(key).renderedPosition();"
        f" const box = {CY}.container().getBoundingClientRect(); return [box.x + at.x, box.y + at.y]; }}",
        key,
    )


def view(page):
    return page.evaluate(f"() => [{CY}.zoom(), {CY}.pan().x, {CY}.pan().y]")


@pytest.fixture(params=VIEWS, ids=lambda given: "-".join(map(str, given)))
def graph(request, open_page):
    width, scheme, over = request.param
    return lambda query="": open_page(f"graph.html{query}", width=width, scheme=scheme, over=over)


def status(page):
    return page.locator(".ee-explorer .ee-status").inner_text()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("layout", ["", "?layout=years"])
def test_labels_can_be_read_at_first_sight_and_none_lies_upon_another(open_page, layout, width):
    page = open_page(f"graph.html{layout}", width=width)
    seen = page.evaluate(LABELS)
    assert seen["size"] >= 10
    boxes = seen["boxes"]
    assert len(boxes) >= 85
    hits = [
        (a[0], b[0])
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
    ]
    assert hits == []
    assert len(whole(seen)) == len(boxes) if width == 1280 else len(whole(seen)) >= 12


def test_the_picture_fills_the_canvas(open_page):
    seen = open_page("graph.html").evaluate(LABELS)
    _, left, top, right, bottom = zip(*seen["boxes"], strict=True)
    assert (max(right) - min(left)) * (max(bottom) - min(top)) > 0.75 * seen["width"] * seen["height"]


def test_fit_shows_all_works_on_a_phone(open_page):
    page = open_page("graph.html", width=390)
    page.get_by_role("button", name="fit").click()
    seen = page.evaluate(LABELS)
    assert len(whole(seen)) == len(seen["boxes"])


@pytest.mark.parametrize("still", [True, False])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_chosen_work_is_brought_near_enough_to_be_read(open_page, width, still):
    page = open_page("graph.html", width=width, still=still)
    page.evaluate(f"void {CY}.zoom(0.2)")  # void: else the whole graph would be handed over
    page.get_by_role("combobox", name="Find a work").fill("bpnet")
    strike(page, "Enter")
    settle(page)
    seen = page.evaluate(LABELS)
    assert seen["size"] >= 10
    assert any("bpnet" in key for key in whole(seen))


def test_works_without_a_verified_edge_stand_together_below_the_others(open_page):
    page = open_page("graph.html")
    works = page.evaluate(
        f"() => {CY}.nodes().not('.head').map(node => [node.position().y,"
        " node.connectedEdges().not('[kind = \"unverified\"]').length])"
    )
    (head,) = page.evaluate(f"() => {CY}.nodes('.head').not('.out').map(node => node.position().y)")
    free = [y for y, edges in works if not edges]
    assert len(free) > 20
    assert max(y for y, edges in works if edges) < head < min(free)
    assert len(free) >= 6 * len(set(free)), "rows"


def test_the_wheel_scrolls_the_page_unless_a_key_is_held(open_page):
    page = open_page("graph.html")
    page.mouse.move(*place_of(page, "zhou2020pabee"))
    before, top = view(page), page.evaluate("scrollY")
    page.mouse.wheel(0, 200)
    until(page, lambda: page.evaluate("scrollY") > top + 100)
    assert view(page) == before
    page.mouse.move(*place_of(page, "zhou2020pabee"))
    until(page, lambda: not page.evaluate(f"{CY}.renderer().scrollingPage"))  # for as long the library keeps still
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    until(page, lambda: view(page)[0] > before[0] * 1.01)
    page.keyboard.up("Control")
    assert "Ctrl" in page.locator(".ee-hint").inner_text()


def test_a_mouse_moves_the_picture(open_page):
    page = open_page("graph.html")
    x, y = place_of(page, "zhou2020pabee")
    _, across, _ = view(page)
    page.mouse.move(x + 30, y - 22)
    page.mouse.down()
    page.mouse.move(x + 60, y - 22, steps=4)
    page.mouse.move(x + 130, y - 22, steps=4)
    page.mouse.up()
    until(page, lambda: view(page)[1] > across + 50)
    assert page.locator(".ee-card").is_hidden()


def drag(finger, x, y, dx, dy):
    """Touch a place, move the finger and lift it."""
    ways = [{"x": x + dx * i / 10, "y": y + dy * i / 10} for i in range(11)]
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": ways[:1]})
    for at in ways[1:]:
        finger.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [at]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_one_finger_scrolls_the_page_and_two_zoom(open_page):
    page = open_page("graph.html", width=390)
    finger = page.context.new_cdp_session(page)
    x, y = place_of(page, "zhou2020pabee")
    before, top = view(page), page.evaluate("scrollY")
    drag(finger, x, y, 0, -150)
    until(page, lambda: page.evaluate("scrollY") > top + 80)
    x, y = place_of(page, "zhou2020pabee")
    drag(finger, x, y, -80, 0)
    page.evaluate(SETTLED)
    assert view(page) == before
    assert page.locator(".ee-card").is_hidden(), "a finger that moves is no tap"
    page.evaluate(f"scrollTo(0, {top})")  # wherever the work stands, both fingers are on the screen
    x, y = place_of(page, "zhou2020pabee")
    finger.send("Input.synthesizePinchGesture", {"x": x, "y": y, "scaleFactor": 1.6, "gestureSourceType": "touch"})
    until(page, lambda: view(page)[0] > 1.3 * before[0])
    assert page.evaluate("visualViewport.scale") == 1
    x, y = place_of(page, "zhou2020pabee")
    page.touchscreen.tap(x, y)
    page.locator(".ee-card h2").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_edges_have_the_same_colours_with_and_without_scripts(open_page, scheme):
    page = open_page("graph.html", scheme=scheme)
    drawn = page.evaluate(
        f"() => Object.fromEntries({CY}.edges().map(e => [e.data('kind'), e.style('line-color').replaceAll(' ', '')]))"
    )
    still = open_page("graph.html", scheme=scheme, javascript=False).evaluate(LINES, ".ee-graph")
    if scheme == "dark":  # the scheme is chosen by a script; without one the page is light
        still = page.evaluate(LINES, ".ee-graph")
    assert drawn == still
    assert len(set(drawn.values())) == len(drawn) == 5


def test_without_scripts_works_that_nothing_connects_are_listed_below_the_picture(open_page):
    page = open_page("graph.html", javascript=False)
    links = "links => links.map(link => link.getAttribute('href') ?? link.getAttribute('xlink:href'))"
    drawn = page.locator(".ee-graph a").evaluate_all(links)
    listed = page.locator("p", has_text="Not yet connected").locator("a").evaluate_all(links)
    ends = page.locator(".ee-graph .edge").evaluate_all("edges => edges.flatMap(e => [e.dataset.a, e.dataset.b])")
    assert {re.sub(r".*/|\.html$", "", link) for link in drawn} == set(ends)
    assert listed
    assert not set(drawn) & set(listed)


def test_by_year_the_page_says_that_years_are_missing(open_page):
    page = open_page("graph.html?layout=years")
    assert "not to scale" in page.locator(".ee-hint").inner_text()
    page.get_by_role("button", name="by connection").click()
    assert "not to scale" not in page.locator(".ee-hint").inner_text()


@pytest.mark.parametrize(("width", "folded"), [(1280, False), (390, True)])
def test_legends_are_folded_on_a_phone(open_page, width, folded):
    page = open_page("graph.html", width=width)
    assert page.locator(".ee-kinds").is_hidden() == folded
    top = page.locator(".ee-canvas").bounding_box()["y"]
    assert top < 600, "the graph begins in the first view"
    if folded:
        page.get_by_text("Colours, edges and marks").click()
        assert page.locator(".ee-kinds").is_visible()


def test_the_card_has_headings_in_order_and_a_curve_with_numbers(open_page):
    page = open_page("graph.html?work=zhou2020pabee")
    curve = page.locator(".ee-mini")
    assert "full model's cost" in curve.get_attribute("aria-label")
    assert "100 %" in curve.text_content()
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run('.md-content', {runOnly: ['heading-order', 'svg-img-alt']})")
    assert found["violations"] == []


def test_a_click_opens_a_card_with_links_and_relatives(graph):
    page = graph()
    page.evaluate(f"void {CY}.zoom(1)")
    page.evaluate(f"void {CY}.center({CY}.getElementById('zhou2020pabee'))")
    page.mouse.click(*place_of(page, "zhou2020pabee"))
    card = page.locator(".ee-card")
    assert card.locator("h2 a").get_attribute("href") == "papers/zhou2020pabee.html"
    assert card.get_by_role("link", name="Method").get_attribute("href") == "methods/zhou2020pabee.html"
    assert "Shallow-Deep Networks" in card.inner_text()
    assert "PABEE" in status(page)
    card.get_by_role("button", name="Shallow-Deep Networks").click()
    assert card.locator("h2 a").get_attribute("href") == "papers/kaya2019sdn.html"


def test_search_and_arrows_by_keyboard(graph):
    page = graph()
    box = page.get_by_role("combobox", name="Find a work")
    box.focus()
    page.keyboard.type("deebert")
    assert box.get_attribute("aria-expanded") == "true"
    strike(page, "ArrowDown")
    strike(page, "ArrowUp")
    strike(page, "Enter")
    assert page.locator(".ee-card h2").inner_text() == "DeeBERT"
    page.locator(".ee-canvas").focus()
    strike(page, "ArrowRight")
    moved = status(page)
    assert "DeeBERT" not in moved
    strike(page, "Escape")
    assert page.locator(".ee-card").is_hidden()
    assert "none chosen" in status(page)
    strike(page, "0")
    before = view(page)[0]
    strike(page, "+")
    assert view(page)[0] > before
    strike(page, "0")
    assert view(page)[0] == pytest.approx(before, rel=0.05)


# Press a key that moves the picture, and another one at once or when the picture is on its way.
TWO_KEYS = f"""
late => new Promise(done => {{
  const canvas = document.querySelector('.ee-canvas'), from = {CY}.zoom();
  const press = key => canvas.dispatchEvent(new KeyboardEvent('keydown', {{key, bubbles: true}}));
  const second = () => {{ press('0'); done(); }};
  const look = () => {CY}.zoom() === from ? requestAnimationFrame(look) : second();
  press('ArrowRight');
  late ? look() : second();
}})
"""


@pytest.mark.parametrize("late", [False, True])
def test_what_one_asks_for_while_the_picture_moves_is_not_lost(open_page, late):
    page = open_page("graph.html", width=390)
    page.locator(".ee-canvas").focus()
    strike(page, "0")
    whole_picture = view(page)
    strike(page, "ArrowRight")
    settle(page)
    assert view(page)[0] > 1.2 * whole_picture[0], "it moves"
    strike(page, "Escape")
    strike(page, "0")
    page.evaluate(TWO_KEYS, late)
    settle(page)
    page.evaluate(SETTLED)  # a movement that was not stopped would begin now
    settle(page)
    assert view(page) == pytest.approx(whole_picture)


def test_layout_colour_and_work_are_kept_in_the_address(open_page):
    page = open_page("graph.html")
    page.get_by_role("button", name="by year").click()
    page.get_by_label("Colour by").select_option("domain")
    page.get_by_role("combobox", name="Find a work").fill("branchynet")
    strike(page, "Enter")
    kept = ("layout=years", "colour=domain", "work=teerapittayanon2016branchynet")
    until(page, lambda: all(part in page.evaluate("location.search") for part in kept))
    page.reload()
    assert page.locator("[data-layout=years]").get_attribute("aria-pressed") == "true"
    assert page.locator(".ee-card h2").inner_text() == "BranchyNet"
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


def test_edges_shown_are_kept_in_the_address(open_page):
    page = open_page("graph.html")
    page.locator(".ee-kinds input[value=cites]").uncheck()
    added = page.locator(".ee-kinds input[value=unverified]")
    added.press("Space")
    expect(added).to_be_checked()
    until(page, lambda: "edges=unverified" in page.evaluate("location.search"))
    page.reload()
    boxes = page.locator(".ee-kinds input")
    checked = {box.get_attribute("value"): box.is_checked() for box in boxes.all()}
    assert checked == {"cites": False, "builds": True, "compares": True, "other": True, "unverified": True}
    assert page.evaluate(f"() => {CY}.edges('[kind = \"cites\"]').not('.out').length") == 0
    for box in boxes.all():
        box.uncheck()
    until(page, lambda: "edges=none" in page.evaluate("location.search"))
    page.reload()
    assert not any(box.is_checked() for box in boxes.all())
    for kind in ("cites", "builds", "compares", "other"):
        page.locator(f".ee-kinds input[value={kind}]").check()
    assert page.evaluate("location.search") == "", "what is usual is not told"


def test_what_is_wrong_in_the_address_is_named_until_something_is_changed(graph):
    page = graph("?layout=year&colour=toString&edges=cites&edges=mentions&work=nobody2020")
    lost = page.locator(".ee-lost")
    for word in ("year is no layout", "toString is no facet", "mentions is no kind", "nobody2020 is no work"):
        assert word in lost.inner_text()
    assert page.locator("[data-layout=near]").get_attribute("aria-pressed") == "true"
    assert page.locator(".ee-kinds input[value=cites]").is_checked()
    assert not page.locator(".ee-kinds input[value=builds]").is_checked()
    page.get_by_role("button", name="by year").focus()
    strike(page, "Enter")
    assert lost.is_hidden()
    assert graph("?layout=years&colour=domain").locator(".ee-lost").is_hidden()


def headings(page):
    """Return each year that is shown, where its middle is and where its column is."""
    return page.evaluate(
        "() => { const cy = document.querySelector('.ee-canvas').eelit;"
        " const left = cy.container().getBoundingClientRect().x;"
        " return [...document.querySelectorAll('.ee-axis-years span')]"
        ".filter(year => year.style.visibility === 'visible')"
        ".map(year => { const box = year.getBoundingClientRect();"
        " const column = Number(year.dataset.x) * cy.zoom() + cy.pan().x;"
        " return [year.textContent, box.x - left + box.width / 2, column, box.x - left, box.right - left]; }); }"
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_years_stay_above_their_columns(open_page, width):
    page = open_page("graph.html?layout=years", width=width)
    until(page, lambda: headings(page))
    shown = headings(page)
    assert {"2020", "2022"} & {year for year, *_ in shown}
    assert len(shown) >= (12 if width == 1280 else 4)
    assert all(abs(middle - column) < 2 for _, middle, column, *_ in shown[1:-1])
    before = shown[0][0]
    page.evaluate(f"void {CY}.panBy({{x: -260, y: -300}})")
    until(page, lambda: headings(page)[0][0] > before)
    size = page.locator(".ee-canvas").bounding_box()
    assert page.locator(".ee-axis-years").bounding_box()["y"] < size["y"]
    for _, _, column, left, right in headings(page):
        assert left >= -1
        assert right <= size["width"] + 1
        assert left - 2 <= column <= right + 2
    page.get_by_role("button", name="fit").click()
    until(page, lambda: headings(page)[0][0] == "2010")
    shown = headings(page)
    assert all(one[4] < next_one[3] for one, next_one in pairwise(shown)), "none upon another"
    page.get_by_role("button", name="by connection").click()
    assert page.locator(".ee-axis-years").is_hidden()


@pytest.mark.parametrize("layout", ["", "?layout=years"])
def test_on_a_phone_nothing_is_cut_at_the_left_and_the_page_says_that_more_lies_outside(open_page, layout):
    page = open_page(f"graph.html{layout}", width=390)
    seen = page.evaluate(LABELS)
    assert [key for key, x1, _, x2, _ in seen["boxes"] if x1 < 0 < x2] == []
    outside = page.locator(".ee-outside")
    until(page, lambda: "works lie outside" in outside.inner_text())
    assert ("←" in outside.inner_text()) == bool(layout), "the years begin with the fullest"
    assert "↑" not in outside.inner_text()
    assert {"→", "↓"} <= set(outside.inner_text())
    page.get_by_role("button", name="fit").click()
    until(page, lambda: "outside" not in outside.inner_text())
    assert "zoom in" in outside.inner_text()
    page.locator(".ee-canvas").focus()
    for _ in range(4):
        strike(page, "+")
    until(page, lambda: "outside" in outside.inner_text())


NEAR = f"() => {CY}.nodes().not('.head').not('.far').map(node => node.id())"


@pytest.mark.parametrize("by_mouse", [True, False])
def test_a_chosen_work_is_shown_with_its_neighbours_beside_the_card(open_page, by_mouse):
    page = open_page("graph.html", still=True)
    page.get_by_role("combobox", name="Find a work").fill("deebert")
    if by_mouse:
        page.locator("#ee-graph-list li").first.click()
    else:
        strike(page, "Enter")
    near = set(page.evaluate(NEAR))
    assert len(near) > 12
    seen = page.evaluate(LABELS)
    assert near <= set(whole(seen))
    assert seen["size"] >= 10


def test_where_the_neighbours_find_no_room_the_work_is_in_the_middle_and_can_be_read(open_page):
    page = open_page("graph.html?layout=years", still=True)
    page.get_by_role("combobox", name="Find a work").fill("deebert")
    strike(page, "Enter")
    seen = page.evaluate(LABELS)
    assert seen["size"] >= 10
    near = set(page.evaluate(NEAR))
    assert "xin2020deebert" in whole(seen)
    cut = [key for key, x1, _, x2, _ in seen["boxes"] if key in near and (x1 < 0 < x2 or x1 < seen["width"] < x2)]
    assert cut == []


def test_the_card_tells_all_relatives_and_ends_the_idea_at_a_sentence(open_page):
    page = open_page("graph.html?work=xin2020deebert")
    card = page.locator(".ee-card")
    for title, key in (("Prior works", "prior"), ("Derivative works", "next")):
        count = page.evaluate(f"eelitGraph.nodes.find(node => node.key === 'xin2020deebert').{key}.length")
        assert count > 6
        part = card.locator("div", has=page.get_by_role("heading", name=f"{title} ({count})"))
        assert part.locator("li").count() == count
    more = card.get_by_role("link", name="More of the idea of DeeBERT")
    assert more.get_attribute("href") == "papers/xin2020deebert.html#idea"
    ideas = page.evaluate("eelitGraph.nodes.map(node => node.idea)")
    assert [idea for idea in ideas if idea[-1] not in '.?!"'] == []
    assert card.evaluate("card => card.clientHeight < card.scrollHeight"), "the rest is reached by scrolling"
    card.locator("li button").last.focus()
    assert page.evaluate("document.querySelector('.ee-card').scrollTop") > 0
    more.click()
    assert page.locator("h2#idea").is_visible()


def test_marks_are_drawn_as_the_legend_says(open_page):
    page = open_page("graph.html")
    drawn = dict(page.evaluate(f"() => {CY}.nodes().not('.head').map(node => [node.id(), node.style('shape')])"))
    told = dict(page.evaluate("eelitGraph.nodes.map(node => [node.key, node.shape])"))
    assert drawn == told
    assert set(told.values()) == {"diamond", "ellipse"}, "this site was built without a smoke test"


def test_without_scripts_there_is_a_picture_and_a_table(open_page):
    page = open_page("graph.html", javascript=False)
    assert page.locator(".ee-graph").is_visible()
    assert page.locator(".ee-explorer").is_hidden()
    assert page.locator("#table").is_visible()
    assert "…" not in page.locator(".ee-graph").text_content()
    wide = page.locator(".ee-graph .node").evaluate_all(
        "nodes => nodes.filter(node => { const box = node.querySelector('rect').getBBox();"
        " return [...node.querySelectorAll('text')].some(text => { const own = text.getBBox();"
        " return own.x < box.x || own.x + own.width > box.x + box.width || own.y < box.y"
        " || own.y + own.height > box.y + box.height; }); }).map(node => node.dataset.key)"
    )
    assert wide == [], "names stay in their boxes"
