"""What the other browser tests rely on: the guard sees what a page must not do, and a browser is there."""

import browsing
import pytest

POLICY = """<meta http-equiv="Content-Security-Policy" content="script-src 'nonce-a'; img-src http:">"""
PAGE = f"""<!doctype html><meta charset="utf-8">{POLICY}<script>document.title = "ran"</script>
<script nonce="a">console.error("a word"); setTimeout(() => missing(), 0); alert("hello")</script><img src="http://127.0.0.2:1/x.png">"""


@pytest.mark.parametrize("over", ["http", "file"])
def test_a_plain_page_is_silent(open_page, over):
    assert "eelit" in open_page("index.html", over=over).title()


def test_faults_are_seen(browser, tmp_path):
    (tmp_path / "bad.html").write_text(PAGE, encoding="utf-8")
    page = browser.new_page()
    guard = browsing.Guard(page, f"{tmp_path.as_uri()}/")
    page.goto(f"{tmp_path.as_uri()}/bad.html")
    for fault in (
        "console: a word",
        "exception: missing",
        "policy breached: script-src",
        "asks for http://127.0.0.2:1/x",
        "dialog: hello",
    ):
        browsing.until(page, lambda: fault in "\n".join(guard.faults))  # noqa: B023  # asked at once
    page.close()


def test_where_a_browser_is_looked_for(monkeypatch):
    monkeypatch.setenv("CHROMIUM", "/opt/chromium")
    assert browsing.chromium() == "/opt/chromium"
    monkeypatch.delenv("CHROMIUM")
    monkeypatch.setenv("PATH", "/nowhere")
    assert browsing.chromium() is None
    for name in ("CI", "EELIT_REQUIRE_BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert not browsing.is_required()
    monkeypatch.setenv("CI", "true")
    assert browsing.is_required()


def test_pages_are_chosen_so_that_no_type_and_no_kind_of_element_is_missed():
    links = "".join(f'<a class="md-nav__link" href="{name}.html">' for name in ("index", "guide/a", "guide/b"))
    pages = {
        f"papers/{name}.html": "<main>" + "<p>" * count for name, count in [("a", 9), ("b", 1), ("c", 2), ("d", 2)]
    }
    pages |= {"index.html": links, "guide/a.html": "<main>", "guide/b.html": "<main>", "404.html": "<main>"}
    usual = ["404.html", "guide/a.html", "guide/b.html", "papers/b.html", "index.html", "papers/a.html"]
    assert sorted(browsing.one_of_each(pages)) == sorted(usual)
    pages["papers/c.html"] += '<p class="ee-note">'
    pages["papers/d.html"] += '<p class="ee-note"><p class="x ee-note" role="note">'
    assert browsing.one_of_each(pages)[len(usual) :] == ["papers/d.html"]
    pages["new/one.html"] = "<main>"
    assert "new/one.html" in browsing.one_of_each(pages)


def test_every_kind_of_element_of_the_site_is_on_a_chosen_page(pages, kinds):
    every, chosen = (set().union(*(browsing.parts(pages[name])[0] for name in names)) for names in (pages, kinds))
    assert every == chosen
    assert len(kinds) < len(pages) / 3


def test_one_of_each_kind_of_element_stays(browser):
    page = browser.new_page()
    rows = "<tr><td>1<td>2" * 4 + '<tr class="x"><td><b>8</b>' + "<tr><td>" * 3 + "<tr><td><b>9</b>" * 2
    lists = f"<ul>{'<li><a href=x>y</a>' * 9}<li><a>z</a><li>w</ul><ul><li>v</ul><ul class=x><li>u<li>t</ul>"
    page.set_content(f"<table><tbody>{rows}</table>{lists}")
    page.evaluate(browsing.PRUNE)
    stay = {"ul": 2, "ul.x li": 1, "li": 3, "li a[href]": 1, "li a:not([href])": 1, "tr": 3, "tr.x b": 1, "td": 4}
    assert {part: page.locator(part).count() for part in stay} == stay
    page.close()
