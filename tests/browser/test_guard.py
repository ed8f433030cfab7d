"""What the other browser tests rely on: the guard sees what a page must not do, and a browser is there."""

import browsing
import pytest

POLICY = """<meta http-equiv="Content-Security-Policy" content="script-src 'nonce-a'; img-src http:">"""
PAGE = f"""<!doctype html><meta charset="utf-8">{POLICY}<script>document.title = "ran"</script>
<script nonce="a">console.error("a word"); setTimeout(() => missing(), 0)</script><img src="http://127.0.0.2:1/x.png">"""


@pytest.mark.parametrize("over", ["http", "file"])
def test_a_plain_page_is_silent(open_page, over):
    assert "eelit" in open_page("index.html", over=over).title()


def test_faults_are_seen(browser, tmp_path):
    (tmp_path / "bad.html").write_text(PAGE, encoding="utf-8")
    page = browser.new_page()
    guard = browsing.Guard(page, f"{tmp_path.as_uri()}/")
    page.goto(f"{tmp_path.as_uri()}/bad.html")
    page.wait_for_timeout(100)
    page.close()
    found = "\n".join(guard.faults)
    for fault in (
        "console: a word",
        "exception: missing",
        "policy breached: script-src",
        "asks for http://127.0.0.2:1/x",
    ):
        assert fault in found


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
