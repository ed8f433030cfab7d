"""What programs find on the site, read by the programs' own libraries."""

import json
import os
import re
import subprocess
import sys
import urllib.parse
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import bibtexparser
import extruct
import feedparser
import jsonschema
import pytest
import rispy
from citeproc import Citation, CitationItem, CitationStylesBibliography, CitationStylesStyle, formatter
from citeproc.source.json import CiteProcJSON
from lxml import html
from pybtex.database import parse_string

from eelit.bib.read import read_bibliography
from eelit.catalog.schema import Entry
from eelit.catalog.sources import sources
from eelit.methods.harness import registry
from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator import feeds, linked
from eelit.site.generator.collection import Work
from eelit.site.generator.snapshot import Snapshot, snapshot
from eelit.site.generator.twins import plain

ADDRESS = "https://example.org/eelit/"
RECORDS = read_bibliography(sources().bibliography).records
METHODS = registry.keys()


@pytest.fixture(scope="module")
def site(tmp_path_factory, build_site):
    """Return a site that knows where it will stand."""
    folder = tmp_path_factory.mktemp("addressed")
    build_site(folder, ADDRESS.rstrip("/"), "https://example.org/forge/eelit/")
    return folder / "site"


@pytest.fixture(scope="module")
def page(site):
    return lambda path: html.parse(site / path).getroot()


def load(site, path):
    return json.loads((site / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("key", ["zhou2020pabee", "huang2018msdnet", "phuong2019distillation"])
def test_highwire_tags_say_what_the_record_says(page, key):
    record = RECORDS[key]
    tags = [(m.get("name"), m.get("content")) for m in page(f"papers/{key}.html").iterfind(".//meta[@name]")]
    said = [(name, content) for name, content in tags if name.startswith("citation_")]
    assert all(content.strip() for _, content in said)
    assert [c for n, c in said if n == "citation_author"] == [author.inverted for author in record.authors]
    once = {name: content for name, content in said if name != "citation_author"}
    assert len(once) == len(said) - len(record.authors)
    assert once["citation_title"] == record.title
    assert once["citation_publication_date"] == str(record.year)
    assert once.get("citation_doi", "") == record.doi
    assert once["citation_abstract_html_url"] == f"{ADDRESS}papers/{key}.html"
    assert record.venue in (once.get("citation_conference_title"), once.get("citation_journal_title"), "")


def test_every_paper_page_has_its_tags(site):
    for key, record in RECORDS.items():
        text = (site / f"papers/{key}.html").read_text(encoding="utf-8")
        assert text.count('<meta name="citation_author"') == len(record.authors), key
        assert text.count('<meta name="citation_title"') == 1


def test_pdfs_are_the_originals_and_only_where_an_identifier_says_so(site):
    found = re.findall(
        r'name="citation_pdf_url" content="([^"]+)"', "".join(p.read_text() for p in site.glob("papers/*.html"))
    )
    assert found
    homes = ("https://aclanthology.org/", "https://arxiv.org/pdf/", "https://openreview.net/pdf?id=")
    assert all(address.startswith(homes) for address in found)


def test_lists_carry_one_coins_per_work(page):
    spans = page("papers/index.html").findall(".//span[@class='Z3988']")
    assert len(spans) == len(RECORDS)
    by_title = {record.title: record for record in RECORDS.values()}
    for span in spans:
        fields = urllib.parse.parse_qs(span.get("title"), strict_parsing=True)
        (title,) = fields.get("rft.atitle") or fields["rft.btitle"]
        record = by_title[title]
        assert fields["ctx_ver"] == ["Z39.88-2004"]
        assert fields["rft.au"] == [str(author) for author in record.authors]
        assert fields["rft.date"] == [str(record.year)]
        assert fields["rft.aulast"] == [record.authors[0].family]
        assert fields.get("rft_id", [""])[0].removeprefix("info:doi/") == (
            record.doi or dict(record.links()).get(next((label for label, _ in record.links()), ""), "")
        )


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("papers/zhou2020pabee.html", "ScholarlyArticle"),
        ("methods/zhou2020pabee.html", "SoftwareSourceCode"),
        ("taxonomy/policy.html", "DefinedTermSet"),
        ("index.html", "Dataset"),
        ("tracks/text.html", "Dataset"),
    ],
)
def test_structured_data_are_read_by_a_metadata_reader(site, path, kind):
    (graph,) = extruct.extract((site / path).read_text(encoding="utf-8"), syntaxes=["json-ld"])["json-ld"]
    assert graph["@context"] == "https://schema.org"
    nodes = {node["@id"]: node for node in graph["@graph"]}
    node = nodes[ADDRESS + path]
    assert node["@type"] == kind
    assert all(value not in (None, "", []) for value in node.values())
    if kind == "ScholarlyArticle":
        record = RECORDS["zhou2020pabee"]
        assert [author["name"] for author in node["author"]] == [str(author) for author in record.authors]
        assert {"@id": f"{ADDRESS}taxonomy/policy.html#patience"} in node["about"]
        assert node["workExample"] == {"@id": f"{ADDRESS}methods/zhou2020pabee.html"}
    if kind == "SoftwareSourceCode":
        assert node["isBasedOn"] == {"@id": f"{ADDRESS}papers/zhou2020pabee.html"}
        assert node["codeRepository"] == "https://example.org/forge/eelit/blob/HEAD/methods/papers/zhou2020pabee.py"


def test_structured_data_say_that_the_list_of_authors_goes_on():
    entry = Entry(
        key="zhou2020pabee", short_name="PABEE", role="early-exit", domain=["language"], idea="It stops.", sources=["-"]
    )
    whole = RECORDS[entry.key]
    for record, said in ((whole, None), (replace(whole, et_al=True), f"{', '.join(map(str, whole.authors))}, et al.")):
        (node,) = linked.paper(SimpleNamespace(methods={}), Work(entry, record), ADDRESS)
        assert node["creditText"] == said
        assert len(node["author"]) == len(whole.authors)


def test_what_the_catalogue_offers_for_download_is_there(site):
    (graph,) = extruct.extract((site / "index.html").read_text(encoding="utf-8"), syntaxes=["json-ld"])["json-ld"]
    for download in graph["@graph"][0]["distribution"]:
        assert (site / download["contentUrl"].removeprefix(ADDRESS)).stat().st_size > 0


def test_every_document_follows_its_schema_and_names_its_snapshot(site):
    folder, checked, snapshots = site / "api" / "v1", 0, set()
    kinds = {"index.json": "index", "terms.json": "terms", "graph.json": "graph"}
    folders = {"papers": "paper", "methods": "method", "runs": "runs", "tracks": "track"}
    for path in folder.rglob("*.json"):
        inside = path.relative_to(folder)
        if inside.parts[0] == "schema":
            jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))
            continue
        schema = load(
            site, f"api/v1/schema/{kinds.get(inside.name) if len(inside.parts) == 1 else folders[inside.parts[0]]}.json"
        )
        document = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(document)
        snapshots.add((document["snapshot_id"], document["generated_at"], document["schema_version"]))
        checked += 1
    assert checked == 3 + len(RECORDS) + len(METHODS) + 1 + len(TRACKS)
    assert len(snapshots) == 1


def test_a_document_that_misses_a_field_does_not_follow_its_schema(site):
    document = load(site, "api/v1/papers/zhou2020pabee.json")
    del document["entry"]["idea"]
    with pytest.raises(jsonschema.ValidationError, match="idea"):
        jsonschema.validate(document, load(site, "api/v1/schema/paper.json"))


def test_the_index_leads_to_pages_and_documents(site):
    index = load(site, "api/v1/index.json")
    assert [line["key"] for line in index["works"]]
    assert {line["key"] for line in index["works"]} == set(RECORDS)
    for line in index["works"]:
        assert (site / line["page"]).is_file()
        document = load(site, line["json"])
        assert document["key"] == line["key"]
        assert (site / document["markdown"]).is_file()
    assert set(index["methods"]) == set(METHODS)


@pytest.mark.parametrize("name", ["feed.xml", "feed-runs.xml"])
def test_feeds_are_well_formed_for_a_feed_reader(site, name):
    feed = feedparser.parse((site / name).read_bytes())
    assert not feed.bozo
    assert feed.version == "atom10"
    assert feed.feed.title
    assert feed.feed.updated_parsed
    assert any(link.rel == "self" and link.href == ADDRESS + name for link in feed.feed.links)


def test_a_shallow_clone_does_not_call_old_works_new(tmp_path):
    """Its first commit seems to add every entry."""

    def git(*words, cwd):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=cwd, check=True)

    whole, shallow = tmp_path / "whole", tmp_path / "shallow"
    (whole / "catalog/entries").mkdir(parents=True)
    git("init", "-q", cwd=whole)
    for key in ("old2019", "middle2020", "new2021"):
        (whole / f"catalog/entries/{key}.yaml").write_text(key)
        git("add", ".", cwd=whole)
        git("commit", "-q", "-m", key, cwd=whole)
    git("clone", "-q", "--depth", "2", whole.as_uri(), str(shallow), cwd=tmp_path)
    assert set(snapshot(whole).added) == {"old2019", "middle2020", "new2021"}
    assert set(snapshot(shallow).added) == {"new2021"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", "https://forge.org/o/r/blob/HEAD/bib/a.bib#L7"),
        ("{repository}/src/commit/{commit}/{path}#L{line}", "https://forge.org/o/r/src/commit/c0ffee/bib/a.bib#L7"),
    ],
)
def test_the_link_to_a_source_line_follows_the_forge(pattern, expected):
    shown = Snapshot(repository="https://forge.org/o/r", commit="c0ffee", **({"source": pattern} if pattern else {}))
    assert shown.blob("bib/a.bib", 7) == expected
    assert shown.blob("bib/a.bib") == expected.partition("#")[0]
    assert Snapshot().blob("bib/a.bib", 7) == ""


def test_the_feed_of_works_has_the_newest_works_with_a_date_each(site):
    feed = feedparser.parse((site / "feed.xml").read_bytes())
    keys = {entry.id.rpartition(":")[2] for entry in feed.entries}
    assert keys <= set(RECORDS)
    assert len(keys) == len(feed.entries) == min(feeds.ENTRIES, len(RECORDS))
    assert all(entry.updated_parsed and entry.link.startswith(ADDRESS) for entry in feed.entries)
    times = [entry.updated_parsed for entry in feed.entries]
    assert times == sorted(times, reverse=True)


def test_the_whole_bibliography_is_read_by_others(site):
    text = (site / "bibliography.bib").read_text(encoding="utf-8")
    assert set(parse_string(text, "bibtex").entries) == set(RECORDS)
    library = bibtexparser.parse_string(text)
    assert not library.failed_blocks
    assert {entry.key for entry in library.entries} == set(RECORDS)
    ris = rispy.loads((site / "bibliography.ris").read_bytes().decode())
    assert [entry["id"] for entry in ris] == list(load_keys(site))
    for entry in ris:
        assert entry["authors"] == [author.inverted for author in RECORDS[entry["id"]].authors]


def load_keys(site):
    return (line["key"] for line in load(site, "api/v1/index.json")["works"])


def test_a_citation_processor_sets_every_item(site):
    items = json.loads((site / "bibliography.json").read_text(encoding="utf-8"))
    style = CitationStylesStyle("harvard-cite-them-right", validate=False)
    bibliography = CitationStylesBibliography(style, CiteProcJSON(items), formatter.plain)
    for item in items:
        bibliography.register(Citation([CitationItem(item["id"])]))
    said = [str(entry) for entry in bibliography.bibliography()]
    assert len(said) == len(RECORDS)
    by_key = dict(zip(bibliography.keys, said, strict=True))
    assert "Zhou" in by_key["zhou2020pabee"]
    assert "2020" in by_key["zhou2020pabee"]


def test_llms_txt_leads_to_twins_that_say_what_the_pages_say(site):
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# eelit\n\n> ")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all((site / link).is_file() for link in links)
    assert {f"papers/{key}.md" for key in RECORDS} | {f"methods/{key}.md" for key in METHODS} <= set(links)
    twin = (site / "papers/zhou2020pabee.md").read_text(encoding="utf-8")
    assert twin.startswith(f"# {RECORDS['zhou2020pabee'].title}\n")
    assert "@inproceedings{zhou2020pabee" in twin
    for link in re.findall(r"\]\(([^):]+\.md)\)", twin):
        assert (site / "papers" / link).resolve().is_file(), link


def test_twins_and_documents_of_methods_hold_what_was_measured_and_judged(site):
    twin = (site / "methods/zhou2020pabee.md").read_text(encoding="utf-8")
    document = load(site, "api/v1/methods/zhou2020pabee.json")
    track = load(site, "api/v1/tracks/text.json")
    own = [row for row in track["rows"] if row["key"] == "zhou2020pabee" and not row["rule"]]
    assert document["measured"] == {"text": own}
    assert document["measured"]["text"][0]["settings"]["epochs"] == "1.0"
    assert f"{document['measured']['text'][0]['full']['mean']:.4f}" in twin.partition("## Measured on the track")[2]
    verdicts = [verdict for trial in document["claims"] for verdict in trial["verdicts"]]
    assert {v["name"] for v in verdicts} == {v["name"] for v in track["verdicts"] if v["key"] == "zhou2020pabee"}
    assert all(plain(verdict["statement"]) in twin for verdict in verdicts)
    paper = (site / "papers/zhou2020pabee.md").read_text(encoding="utf-8")
    for title in ("What it claims to gain", "Prior works", "Derivative works", "Code by others", "Errata"):
        assert f"## {title}" in paper


@pytest.mark.parametrize("name", ["taxonomy/policy.html", "methods/index.html", "graph.html"])
def test_lists_of_works_offer_each_work_once_to_reference_managers(page, name):
    spans = [e.get("title") for e in page(name).iterfind(".//span[@class='Z3988']")]
    assert len(spans) == len(set(spans)) > 10


def test_pages_name_their_feed_and_their_twin(page):
    links = {(e.get("type"), e.get("href")) for e in page("papers/zhou2020pabee.html").iterfind(".//link[@type]")}
    assert ("application/atom+xml", "../feed.xml") in links
    assert ("text/markdown", "zhou2020pabee.md") in links
    assert (
        page("papers/zhou2020pabee.html").find(".//link[@rel='canonical']").get("href")
        == f"{ADDRESS}papers/zhou2020pabee.html"
    )


def test_the_site_map_has_every_page_with_its_whole_address(site):
    found = set(re.findall(r"<loc>([^<]+)</loc>", (site / "sitemap.xml").read_text(encoding="utf-8")))
    pages = {f"{ADDRESS}{p.relative_to(site).as_posix()}" for p in site.rglob("*.html") if p.name != "404.html"}
    assert {unescape(address) for address in found} == pages
    assert f"Sitemap: {ADDRESS}sitemap.xml" in (site / "robots.txt").read_text()


# What programs read, made anew in a process of its own: sets are in another order there.
AGAIN = """
import sys
from pathlib import Path
from eelit.catalog.sources import checkout, sources
from eelit.site.generator import machines
from eelit.site.generator.collection import gather
from eelit.site.generator.reports import read_reports
from eelit.site.generator.snapshot import snapshot

folder = Path(sys.argv[1])
collection = gather(sources(), read_reports(folder / "none")[0])
collection.snapshot = snapshot(Path(checkout()))
print(machines.write(collection, folder))
"""


def test_without_an_address_nothing_pretends_to_know_it(built_site):
    assert "<loc>" not in (built_site / "sitemap.xml").read_text()  # the theme asks for the file
    page = (built_site / "papers/zhou2020pabee.html").read_text(encoding="utf-8")
    assert "citation_abstract_html_url" not in page


def test_the_same_sources_give_the_same_files(built_site, tmp_path):
    environment = os.environ | {"EELIT_SITE_URL": "", "EELIT_REPO_URL": ""}
    words = [sys.executable, "-c", AGAIN, tmp_path]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == int(done.stdout) > 300
    for path in written:
        assert path.read_bytes() == (built_site / path.relative_to(tmp_path)).read_bytes(), path
