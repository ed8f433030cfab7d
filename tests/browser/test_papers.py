"""The table of papers: filters, sorting and the address that holds both, by mouse and by keyboard, at both widths."""

import re
import shutil
from collections import Counter

import pytest
from browsing import strike, until
from playwright.sync_api import expect

PAPERS = "papers/index.html"
SHOWN = "#paper-table tbody tr:not([hidden])"
EACH = [
    pytest.mark.parametrize("over", ["http", "file"]),
    pytest.mark.parametrize("width", [1280, 390]),
    pytest.mark.parametrize("keyboard", [False, True], ids=["mouse", "keyboard"]),
]


def each(test):
    """Run a test in each way of using the table."""
    for mark in EACH:
        test = mark(test)
    return test


def shown(page):
    return page.locator("#paper-table tbody tr:visible").count()


def said(page):
    """Return how many works the status line says are shown."""
    return int(re.search(r"showing (?:all )?(\d+)", page.locator(".ee-status").inner_text())[1])


def use(page, target, keyboard, key):
    if keyboard:
        target.focus()
        strike(page, key)
    else:
        target.click()


def unfold(page, keyboard):
    """Open the filters, which on a phone are folded away at first."""
    if page.locator(".ee-filterbox").get_attribute("open") is None:
        use(page, page.locator(".ee-filterbox > summary"), keyboard, "Enter")


@each
def test_filters_narrow_and_the_address_keeps_them(open_page, over, width, keyboard):
    page = open_page(PAPERS, over=over, width=width)
    total = shown(page)
    assert total == said(page) > 50
    unfold(page, keyboard)
    facet = page.locator('.ee-facet[data-facet="policy"]')
    if facet.get_attribute("open") is None:
        use(page, facet.locator("summary"), keyboard, "Enter")
    use(page, facet.locator('input[value="patience"]'), keyboard, "Space")
    narrowed = shown(page)
    assert 0 < narrowed == said(page) < total
    expect(page).to_have_url(re.compile("policy=patience"))
    page.reload()
    assert shown(page) == narrowed
    unfold(page, keyboard)
    use(page, page.get_by_role("button", name="Clear all"), keyboard, "Enter")
    expect(page.locator(SHOWN)).to_have_count(total)
    expect(page).to_have_url(re.compile(r"index\.html$"))


@each
def test_sorting(open_page, over, width, keyboard):
    page = open_page(PAPERS, over=over, width=width)
    head = page.locator('th[data-sort="name"]')
    for direction in ("ascending", "descending"):
        use(page, head.get_by_role("button"), keyboard, "Enter")
        assert head.get_attribute("aria-sort") == direction
        names = page.locator("#paper-table tbody tr").evaluate_all("rows => rows.map((row) => row.dataset.name)")
        assert names == sorted(names, reverse=direction == "descending")
    assert page.locator("#paper-table th[aria-sort]").count() == 1


@pytest.mark.parametrize("direction", ["ascending", "descending"])
def test_works_without_a_term_come_last_and_terms_are_compared_one_by_one(open_page, direction):
    page = open_page(f"{PAPERS}?sort={'-' if direction == 'descending' else ''}placement")
    assert page.locator('th[data-sort="placement"]').get_attribute("aria-sort") == direction
    read = "rows => rows.map(row => [...row.cells[3].querySelectorAll('.ee-chip')].map(chip => chip.textContent))"
    terms = page.locator("#paper-table tbody tr").evaluate_all(read)
    filled = [list(map(str.lower, own)) for own in terms if own]
    assert 0 < len(filled) < len(terms)
    assert not any(terms[len(filled) :])
    assert filled == sorted(filled, reverse=direction == "descending")


def test_unknown_terms_in_the_address_are_named(open_page):
    page = open_page(f"{PAPERS}?policy=nonsense&policy=patience&role=wizard")
    status = page.locator(".ee-status")
    expect(status).to_contain_text("nonsense is no term of policy; wizard is no term of role; showing ")
    assert 0 < shown(page) < 30  # patience still counts
    page.get_by_label("runnable here").check()
    expect(status).not_to_contain_text("nonsense")


def test_where_no_work_fits_it_says_what_to_do(open_page):
    page = open_page(f"{PAPERS}?text=zzzzzz")
    expect(page.locator(".ee-status")).to_contain_text("showing 0 of ")
    expect(page.locator(".ee-status")).to_contain_text("no work fits; take away a filter")
    buttons = page.locator(".ee-export button")
    assert buttons.evaluate_all("found => found.every(button => button.disabled)")
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator(".ee-export button:disabled")).to_have_count(0)


def test_words_are_searched_while_one_types(open_page):
    page = open_page(PAPERS)
    total = shown(page)
    page.get_by_role("searchbox", name="Search", exact=True).last.fill("zhou patience")
    expect(page.locator(SHOWN)).not_to_have_count(total)
    assert shown(page) == said(page) < 9
    assert page.locator('#paper-table tr[data-name="pabee"]').is_visible()


def test_many_works_are_shown_in_two_steps(browser, site, tmp_path):
    """The rows of the real table stand three times in this one."""
    shutil.copytree(site / "assets", tmp_path / "assets")
    (tmp_path / "papers").mkdir()
    head, start, rest = (site / PAPERS).read_text(encoding="utf-8").partition('<tbody role="rowgroup">')
    rows, end, tail = rest.partition("</tbody>")
    (tmp_path / PAPERS).write_text(head + start + rows * 3 + end + tail, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / PAPERS).as_uri())
    total = rows.count("<tr ") * 3
    assert shown(page) == 200 < total
    assert page.locator(".ee-status").inner_text() == f"showing all {total}, the first 200 of them here"
    page.locator("th[data-sort='year']").get_by_role("button").click()  # the oldest first
    assert shown(page) == 200
    assert page.locator("#paper-table tbody tr:visible").first.get_attribute("data-year") < "2015"
    page.get_by_role("button", name=f"Show all {total}").click()
    assert shown(page) == total
    page.close()


# Which parts of the table a browser tells those who hear the page.
TOLD = ("table", "row", "rowheader", "columnheader", "cell")


@pytest.mark.parametrize("javascript", [True, False])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_table_is_one_for_those_who_hear_it(open_page, javascript, width):
    """Its rows are no boxes of a table, and those out of sight are laid out last."""
    page = open_page(PAPERS, javascript=javascript, width=width)
    rows, columns = page.locator("#paper-table tbody tr").count(), page.locator("#paper-table th:visible").count()
    columns -= rows
    client = page.context.new_cdp_session(page)

    def counted():
        nodes = client.send("Accessibility.getFullAXTree")["nodes"]
        roles = Counter(node["role"]["value"] for node in nodes if not node["ignored"])
        return tuple(roles[name] for name in TOLD)

    until(page, lambda: counted() == (1, rows + 1, rows, columns, rows * (columns - 1)))


def test_the_counts_that_stand_in_the_page_are_those_of_its_rows(open_page):
    """The script takes them as they are while nothing is asked."""
    page = open_page(PAPERS, javascript=False)
    rows = page.locator("#paper-table tbody tr").evaluate_all("rows => rows.map((row) => ({...row.dataset}))")
    counts = page.locator(".ee-filters .ee-check").evaluate_all(
        "labels => labels.map((label) => [label.querySelector('input').name, label.querySelector('input').value,"
        " Number(label.querySelector('.ee-count').textContent)])"
    )
    assert len(counts) > 50
    for name, value, count in counts:
        own = "runs" if name == "runnable" else name
        assert count == sum(value in row[own].split() for row in rows), (name, value)


def test_words_in_the_address_are_looked_for_once_the_words_are_there(open_page):
    page = open_page(f"{PAPERS}?text=zhou+patience")
    assert 0 < shown(page) == said(page) < 9


@pytest.mark.parametrize("width", [390, 800, 1280, 1920])
def test_no_cell_is_cut_and_all_columns_fit(open_page, width):
    """With the longest badge in each row: what sticks out of a grid cannot be scrolled to."""
    page = open_page(PAPERS, width=width)
    cut = page.evaluate(
        """() => {
          const table = document.querySelector("#paper-table");
          for (const badge of table.querySelectorAll(".ee-runs .ee-badge")) badge.textContent = "not run";
          const seen = (cell) => cell.offsetParent !== null;
          const cells = [...table.querySelectorAll("tr:not([hidden]) > *")].slice(0, 280).filter(seen);
          const badges = [...table.querySelectorAll("tr:not([hidden]) .ee-badge")].slice(0, 40).filter(seen);
          const right = (part) => part.getBoundingClientRect().right;
          return [
            cells.filter((cell) => cell.scrollWidth > cell.clientWidth + 1).map((cell) => cell.textContent),
            badges.filter((badge) => right(badge) > right(badge.closest("td, th")) + 1).map((badge) => badge.className),
            right(table) > innerWidth,
          ];
        }"""
    )
    assert cut == [[], [], False]


def test_on_a_phone_a_title_has_the_whole_width_and_no_word_is_broken(open_page):
    page = open_page(PAPERS, width=390)
    table = page.locator("#paper-table").bounding_box()
    for row in page.locator(SHOWN).all()[:8]:
        name, year = (row.locator(part).bounding_box() for part in ("th", "td.num"))
        assert name["width"] == pytest.approx(table["width"], abs=1)
        assert year["y"] >= name["y"] + name["height"] - 1
    assert page.locator(f"{SHOWN} th").first.evaluate("cell => getComputedStyle(cell).overflowWrap") == "break-word"
    heads = page.locator("#paper-table thead button:visible")
    assert heads.count() == 4
    assert all(box["x"] + box["width"] <= 390 for box in (head.bounding_box() for head in heads.all()))
    assert page.evaluate("document.documentElement.scrollHeight") < 170 * page.locator(SHOWN).count()
