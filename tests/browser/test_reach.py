"""Every kind of page can be used by anybody: the keyboard reaches all, and nothing is out of sight."""

import pytest
from browsing import PRUNE, settle, strike, told

WIDTHS = (1280, 390)
# Focus all that the Tab key would reach and tell which of them does not show it, or lies where no one sees it.
FOCUS = """() => {
  const look = (element) => [element, element.nextElementSibling, ...element.children, element.closest("form")]
    .filter(Boolean).map((shown) => getComputedStyle(shown))
    .map((style) => [style.outlineStyle, style.outlineWidth, style.stroke, style.strokeWidth].join()).join(";");
  const controls = "a[href], button, input:not([type=radio]:not(:checked)), select, textarea, summary, [tabindex]";
  const faults = new Set();
  for (const element of document.querySelectorAll(controls)) {
    if (element.tabIndex < 0 || element.disabled || !element.checkVisibility({visibilityProperty: true})) continue;
    document.activeElement.blur();
    const before = look(element);
    element.focus();
    if (document.activeElement !== element) continue;
    const name = element.outerHTML.slice(0, 90);
    if (look(element) === before) faults.add("focus not shown: " + name);
    const box = element.getBoundingClientRect();
    if (box.right <= 0 || box.left >= innerWidth) faults.add("focus out of sight: " + name);
  }
  return [...faults];
}"""
WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("main *")]
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".ee-scroll, pre"))
  .slice(0, 3).map((element) => element.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("width", WIDTHS)
def test_the_keyboard_reaches_and_shows_everything(open_page, served, kinds, width):
    page = open_page("index.html", width=width, still=True)
    found = []
    for path in kinds:
        page.goto(served + path)
        settle(page)
        page.evaluate(PRUNE)
        strike(page, "Tab")  # the browser shows the focus from now on
        found += [f"{path}: {fault}" for fault in page.evaluate(FOCUS)]
    assert not found, told(found)


def test_no_page_is_wider_than_a_small_screen(open_page, served, kinds):
    """320 CSS pixels are a phone, and a desktop of 1,280 pixels at four times its size."""
    page = open_page("index.html", width=320)
    found = []
    for path in kinds:
        page.goto(served + path)
        settle(page)
        found += [f"{path}: {fault}" for fault in page.evaluate(WIDE)]
    assert not found, told(found)


def test_pages_from_disk_are_silent(open_page, site, kinds):
    page = open_page("index.html", over="file")
    for path in kinds:
        if path != "404.html":  # its addresses start at the root of a server
            page.goto(f"{site.as_uri()}/{path}")
            settle(page)
            assert page.locator("h1").first.is_visible()


def test_pages_can_be_read_without_scripts(open_page, served, kinds):
    page = open_page("index.html", javascript=False)
    for path in kinds:
        page.goto(served + path)
        assert page.locator("main h1").first.is_visible()
        assert not page.locator("main form:visible").count()


@pytest.mark.parametrize(("still", "moves"), [(True, False), (False, True)])
def test_motion_only_for_those_who_like_it(open_page, still, moves):
    page = open_page("papers/index.html", still=still)
    durations = """() => [...document.querySelectorAll("*")].map((e) => getComputedStyle(e))
      .map((style) => Math.max(parseFloat(style.transitionDuration), parseFloat(style.animationDuration)))"""
    assert (max(page.evaluate(durations)) > 0.01) is moves


@pytest.mark.parametrize("width", WIDTHS)
def test_a_walk_with_the_tab_key_has_an_end(open_page, width):
    page = open_page("index.html", width=width)
    most = page.locator("a[href], button, input, select, summary, [tabindex='0']").count() + 10
    seen = []
    for _ in range(most):
        strike(page, "Tab")
        seen.append(page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
        if seen[-1].startswith("<body"):
            break
    assert len(seen) < most
    assert len(seen) == len(set(seen)), "the walk comes back to where it was"
    assert sum("eelit" in element or "href" in element for element in seen) > 12


def test_long_pages_list_their_contents(open_page, served):
    page = open_page("methods/zhou2020pabee.html")
    for path in ("methods/zhou2020pabee.html", "tracks/text.html"):
        page.goto(served + path)
        listed = page.locator(".ee-contents a").evaluate_all("links => links.map(link => link.hash.slice(1))")
        following = page.locator("main .ee-contents ~ h2")  # what was found stands above them
        assert listed == following.evaluate_all("heads => heads.map(head => head.id)")
        assert len(listed) > 3


def test_on_paper_a_method_takes_few_pages(open_page, served, kinds):
    """The longest of them too, which is among those that show all that pages consist of: searches on two tracks."""
    page = open_page("index.html")
    methods = [path for path in kinds if path.startswith("methods/") and path != "methods/index.html"]
    counts = {}
    for path in methods:
        page.goto(served + path)
        counts[path] = page.pdf(format="A4").count(b"/Type /Page\n")
    assert len(counts) > 1
    assert all(1 < count <= 14 for count in counts.values()), counts
