"""Curves and the page that compares methods, by mouse and by keyboard."""

import re
from itertools import pairwise

import pytest
from browsing import settle, strike
from playwright.sync_api import expect

SCHEMES = [(1280, "light", "http"), (390, "dark", "file")]


@pytest.fixture(params=SCHEMES, ids=lambda given: "-".join(map(str, given)))
def compare(request, open_page):
    width, scheme, over = request.param
    return lambda query="": open_page(f"compare.html{query}", width=width, scheme=scheme, over=over)


CHOSEN = ".ee-track:has(.ee-pick input:checked) .ee-compared:visible"
"""The pictures of what is chosen: a track on which nothing is shows all its curves."""


def drawn(page):
    """Return the pictures, once they are those of all that has been chosen."""
    settle(page)
    return page.locator(".ee-compared:visible .ee-vega svg")


def test_choosing_draws_curves_and_turns_the_table(compare):
    page = compare()
    boxes = page.locator(".ee-pick input[name=m]")
    text = page.locator(".ee-track").first
    whole = text.locator(".ee-compare-table")
    assert whole.is_visible()
    first, second = boxes.nth(0), boxes.nth(1)
    first.check()
    second.focus()
    strike(page, "Space")  # by keyboard
    assert page.locator(".ee-status").first.inner_text().startswith("comparing 2 of ")
    drawn(page).first.wait_for()
    names = [box.locator("xpath=..").inner_text().strip() for box in (first, second)]
    assert text.locator(".ee-beside thead a").all_inner_texts() == names
    assert whole.is_hidden()
    lines = page.locator(".ee-compared:visible .ee-vega svg path[aria-roledescription='line mark']")
    assert lines.count() == 2
    first.uncheck()
    second.uncheck()
    assert whole.is_visible()
    assert page.locator(".ee-compared .ee-static:visible").count() == page.locator(".ee-compared").count()
    assert page.locator(".ee-walk:visible").count() == 0


def test_the_figures_beside_each_other_are_those_of_the_whole_table(compare):
    page = compare()
    row = page.locator(".ee-compare-table tbody tr[data-id]").first
    told = [cell.text_content() for cell in row.locator("td").all()]
    page.locator(f".ee-pick input[value='{row.get_attribute('data-id')}']").check()
    beside = [cell.text_content() for cell in page.locator(".ee-beside tbody td").all()]
    assert beside[-len(told) :] == told
    assert len(beside) - len(told) == 3  # idea, exit rule, training


def test_the_address_keeps_the_choice(open_page):
    page = open_page("compare.html")
    box = page.locator(".ee-pick input[name=m]").nth(2)
    wanted = box.get_attribute("value")
    box.check()
    assert "m=" in page.evaluate("location.search")
    page.reload()
    assert page.locator(".ee-pick input:checked").evaluate_all("found => found.map(box => box.value)") == [wanted]
    page.locator(".ee-pick button").first.click()
    expect(page).to_have_url(re.compile(r"compare\.html$"))


def test_a_key_in_the_address_means_all_its_variants(open_page):
    page = open_page("compare.html?m=zhou2020pabee")
    chosen = page.locator(".ee-pick input:checked").evaluate_all("found => found.map(box => box.value)")
    assert len(chosen) > 1
    assert all(value.startswith("zhou2020pabee:") for value in chosen)
    assert "one picture for each kind" in page.locator(".ee-status").first.inner_text()  # classification, regression
    expect(page.locator(".ee-compared:not([hidden]) .ee-vega svg")).to_have_count(2)


def test_what_methods_do_stands_above_their_figures(open_page):
    page = open_page("compare.html?m=deebert&m=pabee:classification")
    beside = page.locator(".ee-beside:visible").first
    heads = beside.locator("tbody th").all_inner_texts()
    assert heads[:4] == ["Idea", "Exit rule", "Training", "fidelity"]
    names = beside.locator("thead th").all_inner_texts()
    rule = beside.locator("tbody tr").nth(1).locator("td").all_inner_texts()
    said = dict(zip(names, rule, strict=True))
    assert "softmax" in said["DeeBERT"]
    assert "patience" in said["PABEE, classification"]


def looks(page, names):
    """Return how the lines of these curves are drawn: colour and dash of the line, colour and form of the points."""
    svg = page.locator(".ee-compared:visible .ee-vega svg").first
    found = {}
    for name in names:
        line = svg.locator(f"path[aria-roledescription='line mark'][aria-label='{name}']")
        mark = svg.locator(f"path[aria-roledescription='point'][aria-label*='curve: {name};']").first
        look = [line.get_attribute("stroke"), line.get_attribute("stroke-dasharray")]
        found[name] = (*look, mark.get_attribute("fill"), mark.get_attribute("d"))
    return found


def test_few_curves_take_the_looks_that_differ_most_and_many_keep_their_own(open_page):
    page = open_page("compare.html?m=deebert&m=pabee:classification")
    drawn(page).first.wait_for()
    swatch = page.locator(f"{CHOSEN} .ee-lines li:visible .ee-line")
    dash = "lines => lines.map(line => getComputedStyle(line).strokeDasharray)"
    for names in (["DeeBERT", "PABEE, classification"], ["DeeBERT", "PABEE, classification", "RomeBERT, SD only"]):
        for name in names:
            page.locator(".ee-pick").first.get_by_label(name, exact=True).check()
        expect(drawn(page).locator("[aria-roledescription='line mark']")).to_have_count(len(names))
        few = looks(page, names)
        for parts in zip(*few.values(), strict=True):
            assert len(set(parts)) == len(names)  # colour, dash and form: each differs
        assert few["DeeBERT"][1] in {None, "1,0"}  # a whole line
        assert len(set(swatch.evaluate_all(dash))) == len(names)
    boxes = page.locator(".ee-pick fieldset").first.locator("input")
    for box in boxes.all():
        box.check()
    lines = drawn(page).locator("[aria-roledescription='line mark']")
    expect(lines).to_have_count(boxes.count())
    every = looks(page, lines.evaluate_all("lines => lines.map(line => line.ariaLabel)"))
    assert len(every) == boxes.count() > 12  # more than the palette has colours
    own = "i => getComputedStyle(document.body).getPropertyValue(`--ee-plot-${i % 12}`).trim()"
    names = page.locator(f"{CHOSEN} .ee-lines li").all_inner_texts()
    assert [every[name][0] for name in names] == [page.evaluate(own, i) for i in range(len(names))]
    assert len({look[:2] for look in every.values()}) == len({look[2:] for look in every.values()}) == len(every)


def test_the_swatch_has_the_colour_of_the_curve(open_page):
    page = open_page("compare.html?m=deebert")
    drawn(page).first.wait_for()
    swatch = page.locator(f"{CHOSEN} .ee-lines li:visible")
    assert swatch.all_inner_texts() == ["DeeBERT"]
    shown = swatch.locator(".ee-line").evaluate("line => getComputedStyle(line).stroke")
    line = page.locator(".ee-compared:visible [aria-roledescription='line mark']")
    assert line.evaluate("line => getComputedStyle(line).stroke") == shown


@pytest.mark.parametrize("javascript", [True, False])
def test_with_nothing_chosen_the_picture_has_a_legend_of_all_curves(open_page, javascript):
    page = open_page("compare.html", javascript=javascript)
    figure = page.locator(".ee-compared").first
    lines = figure.locator(".ee-static svg .ee-line")
    swatches = figure.locator(".ee-lines li:visible .ee-swatch .ee-line")
    assert swatches.count() == lines.count() > 12
    read = "lines => lines.map(line => getComputedStyle(line).stroke + getComputedStyle(line).strokeDasharray)"
    assert swatches.evaluate_all(read) == lines.evaluate_all(read)
    assert len(set(lines.evaluate_all(read))) == lines.count()


@pytest.mark.parametrize(
    ("query", "chosen"),
    [
        ("m=pabee&m=deebert", ["xin2020deebert", "zhou2020pabee:classification", "zhou2020pabee:regression"]),
        ("m=PABEE:Regression", ["zhou2020pabee:regression"]),
        ("m=XIN2020DEEBERT", ["xin2020deebert"]),
        ("m=sledgehammer", ["schwartz2020right:calibrated", "schwartz2020right:uncalibrated"]),  # an alias
    ],
)
def test_the_address_takes_the_names_of_the_command_line(open_page, query, chosen):
    page = open_page(f"compare.html?{query}")
    found = page.locator(".ee-pick input:checked").evaluate_all("found => found.map(box => box.value)")
    assert sorted(found) == chosen


def test_what_the_address_asks_for_in_vain_is_named(open_page):
    page = open_page("compare.html?m=calm&m=nonsense&m=pabee:third&m=deebert")
    status = page.locator(".ee-status").first
    for said in ("no result of calm on any track", "no work is called nonsense", "no result of pabee:third"):
        expect(status).to_contain_text(said)
    expect(status).to_contain_text("comparing 1 of ")
    page.locator(".ee-pick input[name=m]").first.check()
    expect(status).not_to_contain_text("nonsense")


def test_calibration_and_claims_stand_beside_each_other_too(open_page):
    page = open_page("compare.html?m=deebert&m=cats")
    heads = page.locator(".ee-beside tbody th").all_inner_texts()
    assert "calibration error of each exit" in heads
    row = page.locator(".ee-track").first.locator(".ee-beside tbody tr").last
    assert row.locator("th").inner_text() == "claims of its paper"
    assert re.search(r"methods/schuster2021cats\.html#verdicts$", row.locator("a").first.evaluate("link => link.href"))
    keys = page.locator(".ee-claimed tbody:visible").evaluate_all("found => found.map(body => body.dataset.key)")
    assert sorted(keys) == ["schuster2021cats", "xin2020deebert"]
    page.locator(".ee-pick button").first.click()
    expect(page.locator(".ee-claimed tbody[hidden]")).to_have_count(0)


def test_the_picker_is_in_alphabetical_order(open_page):
    page = open_page("compare.html")
    for group in page.locator(".ee-pick fieldset:not([disabled])").all():
        names = [name.strip() for name in group.locator("label").all_inner_texts()]
        assert names == sorted(names, key=str.casefold)
    assert page.locator(".ee-pick label").first.evaluate("label => getComputedStyle(label).breakInside") == "avoid"


def test_without_scripts_everything_is_in_the_table(open_page):
    page = open_page("compare.html", javascript=False)
    assert all(table.is_visible() for table in page.locator(".ee-compare-table").all())
    assert not any(form.is_visible() for form in page.locator(".ee-pick").all())
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
    strike(page, "Space")
    expect(lines).to_have_count(len(names) - 1)


def test_a_point_tells_its_setting_cost_and_quality(open_page):
    page = open_page("methods/zhou2020pabee.html")
    point = page.locator(".ee-chart").first.locator("path[aria-roledescription='point']").first
    point.wait_for()
    point.evaluate("mark => mark.scrollIntoView({block: 'center'})")
    settle(page)
    point.hover(force=True)  # another curve's mark may lie upon it
    tip = page.locator(".ee-tip")
    tip.wait_for()
    assert "quality" in tip.inner_text() or "accuracy" in tip.inner_text()
    assert "cost: " in tip.inner_text()


def test_the_arrow_keys_walk_along_the_points(open_page):
    page = open_page("methods/zhou2020pabee.html")
    figure = page.locator(".ee-chart").first
    figure.locator(".ee-vega svg").wait_for()
    frame, said = figure.get_by_role("group", name="accuracy against cost"), figure.locator("[aria-live=polite]")
    frame.focus()
    walked = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "End", "Home", "ArrowLeft", "ArrowUp"):
        strike(page, key)
        walked.append(said.inner_text())
    starts = ["PABEE, classification, patience 0", "PABEE, classification, patience 1", "static exit, exit 2"]
    starts += ["static exit, exit 6", "static exit, exit 1", "static exit, exit 1", "PABEE, classification, patience 0"]
    for told, start in zip(walked, starts, strict=True):
        assert re.fullmatch(rf"{start}, accuracy 0\.\d{{4}}, cost \d+\.\d%", told), told
    assert page.locator(".ee-tip").inner_text().startswith("curve: PABEE, classification\nsetting: patience 0\n")
    strike(page, "Escape")
    expect(page.locator(".ee-tip")).to_be_hidden()


# How many pictures of vega have come into the page.
PICTURES = """window.pictures = 0;
new MutationObserver((changes) => {
  const came = changes.flatMap(({ addedNodes }) => [...addedNodes]);
  window.pictures += came.filter((node) => node.localName === "svg" && node.closest(".ee-vega")).length;
}).observe(document, { childList: true, subtree: true })"""


def test_a_chart_is_drawn_once(open_page):
    page = open_page("methods/zhou2020pabee.html")
    page.add_init_script(PICTURES)
    page.reload()
    settle(page)
    assert page.evaluate("pictures") == page.locator(".ee-vega").count() > 0
    page.set_viewport_size({"width": 390, "height": 844})
    settle(page)
    assert page.evaluate("pictures") == 2 * page.locator(".ee-vega").count()


def test_the_ring_stands_on_the_point_that_is_told(open_page):
    page = open_page("methods/zhou2020pabee.html", width=390)
    figure = page.locator(".ee-chart").first
    figure.locator(".ee-vega svg").wait_for()
    figure.locator(".ee-walk").focus()
    for _ in range(3):
        strike(page, "ArrowRight")
    middle = "mark => (({x, y, width, height}) => [x + width / 2, y + height / 2])(mark.getBoundingClientRect())"
    point = figure.locator("path[aria-label*='curve: PABEE, classification; setting: patience 2;']")
    assert figure.locator(".ee-ring").evaluate(middle) == pytest.approx(point.evaluate(middle), abs=1)


@pytest.mark.parametrize("path", ["methods/zhou2020pabee.html", "tracks/text.html"])
def test_no_point_hides_its_setting_and_the_table_below_has_them_all(open_page, path):
    page = open_page(path)
    for figure in page.locator(".ee-chart").all():
        figure.locator(".ee-vega svg").wait_for()
        labels = figure.locator("path[aria-roledescription='point']").evaluate_all(
            "marks => marks.map(mark => mark.ariaLabel)"
        )
        assert labels
        assert not [label for label in labels if not re.search(r"setting: [^;]", label)]
        rows = figure.locator(".ee-points tbody tr")
        assert rows.count() == len(labels)
        assert all(rows.locator("td:nth-last-child(3)").all_text_contents())


@pytest.mark.parametrize("width", [1280, 390])
def test_numbers_of_an_axis_stand_apart(open_page, width):
    page = open_page("compare.html?m=pabee&m=deebert&m=lear", width=width)
    charts = page.locator(CHOSEN)
    expect(charts.locator(".ee-vega svg")).to_have_count(charts.count())
    for svg in charts.locator(".ee-vega svg").all():
        boxes = svg.locator(".role-axis-label text").evaluate_all(
            "texts => texts.map(text => text.getBoundingClientRect().toJSON())"
        )
        lowest = max(box["y"] for box in boxes)
        across = sorted((box["left"], box["right"]) for box in boxes if abs(box["y"] - lowest) < 2)
        assert len(across) > 2
        assert all(after[0] - before[1] >= 10 for before, after in pairwise(across)), across
        assert across[-1][1] <= width


def test_without_scripts_the_static_curve_stays(open_page):
    page = open_page("methods/zhou2020pabee.html", javascript=False)
    assert page.locator(".ee-chart .ee-static svg").first.is_visible()
