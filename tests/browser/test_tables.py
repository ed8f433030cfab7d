"""Tables at any width: what does not fit wraps, stands below, or says that there is more beside."""

from collections import Counter

import pytest
from playwright.sync_api import expect

CUT = """() => [...document.querySelectorAll("main .ee-badge")].filter((badge) => badge.offsetParent)
  .filter((badge) => badge.getBoundingClientRect().right
    > (badge.closest(".ee-scroll") ?? document.documentElement).getBoundingClientRect().right)
  .map((badge) => badge.textContent)"""
# The boxes of tables that scroll sideways, by whether something is hidden; and the shadow of each.
SHADES = """() => [...document.querySelectorAll("main .ee-scroll")].filter((box) => box.checkVisibility())
  .map((box) => [box.scrollWidth > box.clientWidth, getComputedStyle(box).boxShadow, box.textContent.slice(0, 60)])"""
NEUTRAL = """(badge) => {
  const shown = getComputedStyle(badge);
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
  const light = (...colours) => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const ground = light(shown.backgroundColor), text = light(shown.backgroundColor, shown.color);
  const page = light(getComputedStyle(document.body).backgroundColor);
  return [Math.max(ground, text) / Math.min(ground, text), ground === page];
}"""


UNFOLD = "for (const part of document.querySelectorAll('main details')) part.open = true"


@pytest.mark.parametrize("path", ["index.html", "methods/index.html"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_badge_is_cut(open_page, path, width):
    page = open_page(path, width=width)
    page.evaluate(UNFOLD)
    assert page.locator("main .ee-badge:visible").count() > 5
    assert page.evaluate(CUT) == []
    assert not any(hidden for hidden, *_ in page.evaluate(SHADES))


@pytest.mark.parametrize("width", [390, 1280])
def test_the_methods_are_a_table_for_those_who_hear_it(open_page, width):
    page = open_page("methods/index.html", width=width)
    rows = page.locator(".ee-methods tbody tr").count()
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = Counter(node["role"]["value"] for node in nodes if not node["ignored"])
    told = ("table", "row", "columnheader", "rowheader")
    assert [roles[name] for name in told] == [1, rows + 1, 7, rows]


def test_what_a_method_takes_fits_a_desktop(open_page):
    page = open_page("tracks/text.html")
    page.evaluate(UNFOLD)
    tables = page.locator(".ee-takes")
    assert tables.count() > 3
    for table in tables.all():
        box = table.locator("xpath=..")
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth")
        highest = table.locator("tbody tr").evaluate_all("rows => Math.max(...rows.map((row) => row.offsetHeight))")
        assert highest < 100  # three lines


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize(("path", "width"), [("taxonomy/gaps.html", 1280), ("tracks/text.html", 390)])
def test_an_edge_is_shaded_where_more_is_hidden(open_page, path, width, still, scheme):
    page = open_page(path, width=width, scheme=scheme, still=still)
    shades = page.evaluate(SHADES)
    assert any(hidden for hidden, *_ in shades)
    assert [said for hidden, shade, said in shades if (shade != "none") != hidden] == []
    box = page.locator(".ee-scroll:has(> .ee-named)").last
    before = box.evaluate("box => getComputedStyle(box).boxShadow")
    box.evaluate("box => { box.scrollLeft = box.scrollWidth }")
    expect(box).not_to_have_css("box-shadow", before)


@pytest.mark.parametrize(("path", "width"), [("taxonomy/gaps.html", 1280), ("compare.html", 390)])
def test_names_of_rows_stay_in_sight(open_page, path, width):
    page = open_page(path, width=width)
    table = page.locator(".ee-named:visible").last
    box = table.locator("xpath=..")
    box.evaluate("box => { box.scrollLeft = 300 }")
    left = box.bounding_box()["x"]
    for cell in (table.locator("tbody th").first, table.locator("thead tr").first.locator(":scope > *").first):
        assert cell.bounding_box()["x"] == pytest.approx(left, abs=1)
        assert cell.bounding_box()["width"] < width / 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_badge_without_a_colour_is_a_badge_too(open_page, scheme):
    page = open_page("tracks/text.html", scheme=scheme)
    page.evaluate(UNFOLD)
    badges = page.locator('.ee-badge:not([class*="--"]):visible')
    assert {"ablation", "holds in part", "not comparable"} <= set(badges.all_inner_texts())
    contrast, like_the_page = badges.first.evaluate(NEUTRAL)
    assert contrast >= 4.5
    assert not like_the_page
