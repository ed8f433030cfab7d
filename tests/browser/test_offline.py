"""The site from disk, with the network off: nothing is lost."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from browsing import search, strike

from eelit.site.generator.bundle import bundle
from eelit.site.generator.faults import SiteFault


def found(page, words):
    strike(page, "/")
    return search(page, words).evaluate_all("found => found.map(link => link.href)")


@pytest.mark.parametrize("path", ["index.html", "methods/index.html", "taxonomy/policy.html"])
@pytest.mark.parametrize("over", ["file", "http"])
def test_search_finds_pages(open_page, path, over):
    page = open_page(path, over=over)
    assert any("papers/zhou2020pabee.html" in link for link in found(page, "patience"))
    page.locator(".md-search-result__link").first.press("Enter")
    page.wait_for_url("**/papers/*.html**")


def test_tables_are_no_hits_and_their_pages_are_found_by_title(open_page):
    page = open_page("index.html", over="file")
    hits = [link.partition("?")[0] for link in found(page, "patience")]
    assert not any(link.endswith(("methods/index.html", "papers/index.html", "taxonomy/gaps.html")) for link in hits)
    for words, path in (("methods", "methods/index.html"), ("gap map", "taxonomy/gaps.html")):
        page = open_page("index.html", over="file")
        assert any(path in link for link in found(page, words)), words


def test_the_table_filters_from_disk(open_page):
    page = open_page("papers/index.html", over="file")
    page.locator("details[data-facet=policy] input[value=patience]").check()
    assert page.locator("#paper-table tbody tr:not([hidden])").count() < page.locator("#paper-table tbody tr").count()


def test_the_bundle_opens_from_disk(open_page, site, tmp_path):
    packed = bundle(site, tmp_path)
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert "index.html" in (unpacked / "README.txt").read_text(encoding="utf-8")
    page = open_page("index.html", folder=unpacked)
    assert found(page, "confidence")


def test_the_same_site_gives_the_same_bundle(site, tmp_path):
    first, second = (bundle(site, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_without_a_site_there_is_no_bundle(tmp_path):
    with pytest.raises(SiteFault, match="holds no built site; `eelit site build` makes one"):
        bundle(tmp_path, tmp_path)
    words = [
        str(Path(sys.executable).with_name("eelit")),
        "site",
        "bundle",
        "--site",
        str(tmp_path),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
