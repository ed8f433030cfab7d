"""What a page looks like, read off its boxes and its picture; no picture is kept to compare with, as fonts differ.

What is asked holds with any font and on any processor: nothing sticks out sideways, what one can turn is there, has ink
in its box and lies under no other part, and the page has no high band in which nothing is.
"""

import io

import numpy as np
import pytest
from browsing import settle, told, until
from PIL import Image
from playwright.sync_api import expect

WIDTHS = (1280, 390)
PICTURE = 1600  # pixels from the top that are looked at: pages go on in the same way below
PAPER = 700  # CSS pixels: the width of A4 without its margins of 12 mm
BLANK = 200  # pixels; the highest band without ink is a third as high
# What is meant to be seen and turned: not what the page folds or hides by attribute, not the theme's own. On a phone
# the table of papers has fewer columns; on a desktop the key of the graph is not folded.
MEANT = """
  const away = "[hidden], details:not([open]) > :not(summary), .ee-network--still, .md-clipboard, [class*=md-code__]";
  const narrow = innerWidth < 720;
  const meant = [...document.querySelectorAll(".md-content :is(input, select, textarea, button, summary)")]
    .filter((element) => !element.closest(away) && !element.matches(narrow ? ".ee-wide *" : ".ee-keys > summary"));
  const name = (element) => element.outerHTML.slice(0, 120);
"""
LAYOUT = (
    "() => {"
    + MEANT
    + """
  const faults = [], boxes = [];
  // The part of a box that the parts around it let through; those that scroll let all through.
  const seen = (element) => {
    let { left, top, right, bottom } = element.getBoundingClientRect();
    for (let part = element.parentElement; part && part !== document.body; part = part.parentElement) {
      const style = getComputedStyle(part), frame = part.getBoundingClientRect();
      const cut = (axis) => ["hidden", "clip"].includes(style[axis]);
      if (cut("overflowX")) [left, right] = [Math.max(left, frame.left), Math.min(right, frame.right)];
      if (cut("overflowY")) [top, bottom] = [Math.max(top, frame.top), Math.min(bottom, frame.bottom)];
    }
    return { element, left, top, right, bottom };
  };
  for (const element of meant) {
    const { width, height } = element.getBoundingClientRect(), box = seen(element);
    const shown = element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    if (!shown || width < 5 || height < 5) faults.push(`not shown: ${name(element)}`);
    else if (Math.max(0, box.right - box.left) * Math.max(0, box.bottom - box.top) < 0.5 * width * height)
      faults.push(`cut off: ${name(element)}`);
    else boxes.push(box);
  }
  boxes.forEach((one, i) => boxes.slice(i + 1).forEach((two) => {
    const wide = Math.min(one.right, two.right) - Math.max(one.left, two.left);
    const high = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
    const nested = one.element.contains(two.element) || two.element.contains(one.element);
    if (wide > 2 && high > 2 && !nested) faults.push(`upon another: ${name(one.element)} and ${name(two.element)}`);
  }));
  if (document.documentElement.scrollWidth > innerWidth)
    faults.push(...[...document.querySelectorAll("main *")]
      .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
      .filter((element) => !element.closest(".ee-scroll, pre"))
      .slice(0, 3).map((element) => `wider than the page: ${name(element)}`));
  const place = ({ left, top, right, bottom }) => [left, top + scrollY, right, bottom + scrollY];
  const article = place(document.querySelector(".md-content article").getBoundingClientRect());
  return [faults, boxes.map((box) => [name(box.element), place(box)]), article];
}"""
)
COVERED = (
    "() => {"
    + MEANT
    + """
  return meant.filter((element) => element.checkVisibility()).flatMap((element) => {
    element.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
    const { left, top, width, height } = element.getBoundingClientRect();
    const hit = document.elementFromPoint(left + width / 2, top + height / 2);
    if (hit && (element.contains(hit) || hit.closest("label")?.control === element)) return [];
    return [`under ${hit ? name(hit) : "nothing"}: ${name(element)}`];
  });
}"""
)


def part(picture, box):
    """Return what a box ``(left, top, right, bottom)`` holds of a picture ``[H, W]``: whole pixels inside."""
    left, top, right, bottom = box
    return picture[max(0, int(np.ceil(top))) : int(bottom), max(0, int(np.ceil(left))) : int(right)]


def highest_blank(picture):
    """Return how many rows in a row of a picture ``[H, W]`` have the brightness of its corner and no other."""
    inked = np.flatnonzero((picture != picture[0, 0]).any(axis=1))
    return int(np.diff(np.concatenate([[-1], inked, [len(picture)]])).max()) - 1


def faults_of(page, width):
    """Return what is wrong with the looks of a page that is at rest at its top."""
    faults, boxes, article = page.evaluate(LAYOUT)
    height = page.evaluate("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, PICTURE)}
    shot = page.screenshot(full_page=True, clip=clip, animations="disabled")
    picture = np.asarray(Image.open(io.BytesIO(shot)).convert("L"))
    for name, box in boxes:
        inside = part(picture, box)
        if box[3] < len(picture) and box[2] < width and (inside == inside[:1, :1]).all():
            faults.append(f"no ink in {name}")
    if (blank := highest_blank(part(picture, article))) > BLANK:
        faults.append(f"a band of {blank} pixels is blank")
    return faults + page.evaluate(COVERED)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_shows_what_it_has(open_page, served, kinds, width):
    page = open_page("index.html", width=width, still=True)
    found = []
    for path in kinds:
        page.goto(served + path)
        settle(page)
        found += [f"{path}: {fault}" for fault in faults_of(page, width)]
    assert not found, told(found)


def test_nothing_is_cut_off_on_paper(open_page, served, kinds):
    page = open_page("index.html", width=PAPER, still=True)
    page.emulate_media(media="print")
    wide = []
    for path in kinds:
        page.goto(served + path)
        settle(page)
        page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        if (width := page.evaluate("document.documentElement.scrollWidth")) > PAPER:
            wide.append(f"{path}: {width} pixels")
    assert not wide, told(wide)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_filters_the_papers_is_there_by_name(open_page, width):
    page = open_page("papers/index.html", width=width)
    form = page.get_by_role("form", name="Filter the papers")
    if width == 390:
        page.locator(".ee-filterbox > summary").click()
    for role, name in (("searchbox", "Search"), ("spinbutton", "From"), ("spinbutton", "to"), ("button", "Clear all")):
        control = form.get_by_role(role, name=name, exact=True)
        expect(control).to_be_visible()
        assert control.bounding_box()["width"] > 40
    for name in ("From", "to"):
        form.get_by_role("spinbutton", name=name, exact=True).fill("2021")
    years = page.locator("#paper-table tbody tr:visible td.num")
    until(page, lambda: set(years.all_inner_texts()) == {"2021"})


YEARS = "document.querySelector('.ee-years')"
MISTAKES = {
    "hidden by a style": (f"{YEARS}.style.display = 'none'", "not shown: "),
    "of no size": (
        f"{YEARS}.querySelector('input').style.cssText = 'width: 0; height: 0; padding: 0; border: 0'",
        "not shown: ",
    ),
    "transparent": (f"{YEARS}.style.opacity = 0", "not shown: "),
    "cut off": (f"Object.assign({YEARS}.style, {{height: '1px', overflow: 'hidden'}})", "cut off: "),
    "under another part": (
        f"Object.assign({YEARS}.appendChild(document.createElement('div')).style, {{position: 'absolute', inset: 0}});"
        f"{YEARS}.style.position = 'relative'",
        "under <div",
    ),
    "upon each other": (f"{YEARS}.style.marginTop = '-40px'", "upon another: "),
    "without ink": (
        f"{YEARS}.querySelector('input').style.cssText = 'border-color: transparent; background: none';"
        f"{YEARS}.querySelector('input').placeholder = ''",
        'no ink in <input type="number"',
    ),
    "a hole": ("document.querySelector('.ee-browse').style.marginTop = '500px'", "a band of "),
    "too wide": ("document.querySelector('.ee-results').style.width = '2000px'", "wider than the page: "),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_seen(open_page, mistake):
    page = open_page("papers/index.html", still=True)
    done, said = MISTAKES[mistake]
    page.evaluate(f"() => {{ {done} }}")
    settle(page)
    assert any(fault.startswith(said) for fault in faults_of(page, 1280)), faults_of(page, 1280)
