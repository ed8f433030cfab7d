"""The site as a whole, built from the real catalogue; and what a hostile catalogue cannot do to it."""

import errno
import json
import re
import resource
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import extruct
import feedparser
import lxml.html
import markdown
import pytest
import yaml
from hostile import HOSTILE

from eelit.bib.citations import NUMBERS
from eelit.catalog.faults import NotWritten
from eelit.catalog.load import load
from eelit.catalog.schema import FACETS, Entry
from eelit.catalog.sources import sources
from eelit.methods.families.split import SplitMethod
from eelit.methods.harness import conformance, registry, smoke
from eelit.site.generator import build as building
from eelit.site.generator import place, proofread
from eelit.site.generator.build import build
from eelit.site.generator.collection import Work, gather
from eelit.site.generator.faults import SiteBusy, SiteFault
from eelit.site.generator.reports import read_reports

ROOT = Path(__file__).parents[1]
FULL_URL = ("http://", "https://", "//")


class Reader(HTMLParser):
    """Visible text, and the tags with their attributes, as a browser would take them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def site(built_site):
    return built_site


def test_the_site_is_built_without_torch(built_site):
    assert (built_site.parent / "heavy.txt").read_text() == ""


def read(site, page):
    return Reader((site / page).read_text(encoding="utf-8"))


def test_every_work_has_a_page_and_a_row(site):
    keys = {path.stem for path in sources().entries.glob("*.yaml")}
    assert {path.stem for path in (site / "papers").glob("*.html")} == keys | {"index"}
    rows = [attrs for tag, attrs in read(site, "papers/index.html").tags if tag == "tr" and "data-name" in attrs]
    assert len(rows) == len(keys) == 125


def test_every_method_has_a_page_with_its_deviations(site):
    assert {path.stem for path in (site / "methods").glob("*.html")} == {*registry.keys(), "index"}
    for key in registry.keys():  # noqa: SIM118  # a function of the registry, not a dictionary
        info, page = registry.describe(key), read(site, f"methods/{key}.html")
        items = (site / f"methods/{key}.html").read_text(encoding="utf-8").partition('class="ee-deviations"')[2]
        assert info.deviations, f"{key} declares none"
        assert items.partition("</ol>")[0].count("<li>") == len(info.deviations)
        for setting in info.settings:
            assert setting.name in page.text
        assert f"eelit run {key}" in page.text
        assert "not run in this build" in page.text


def test_home_tells_true_numbers(site):
    text = read(site, "index.html").text
    assert "125 works" in text
    assert f"methods that run {len(registry.keys())}" in text
    assert "passed their last smoke test 0" in text
    assert "was not part of this build" in text


def test_whoever_says_that_what_is_skipped_is_not_computed_names_the_exception(site):
    """Of a network divided between a device and the cloud, the cost is the device's, with a set price for sending."""
    assert {info.key for info in registry.described()[0] if isinstance(registry.get(info.key), SplitMethod)} == {
        "bajpai2023splitee"
    }
    for name in ("README.md", "CITATION.cff", "methods/engine/records.py"):
        assert "between a device and the cloud" in " ".join((ROOT / name).read_text(encoding="utf-8").split())
    for path in ("index.html", "methods/index.html", "tracks/text.html"):
        links = [
            given.get("href", "") for tag, given in Reader((site / path).read_text(encoding="utf-8")).tags if tag == "a"
        ]
        assert any(link.endswith("guide/reading.html#cost") for link in links), path
    cost = Reader((site / "guide/reading.html").read_text(encoding="utf-8")).text.partition("How cost is counted")[2]
    assert "that was not done, with one exception. SplitEE divides" in cost


def test_the_guide_tells_the_numbers_that_hold(site):
    told = Reader((site / "guide/reading.html").read_text(encoding="utf-8")).text
    lists = (ROOT / "bib" / "reference-lists.csv").read_text(encoding="utf-8").count(",yes,")
    assert f"complete reference lists could be read for {NUMBERS[lists]} works only" in told
    assert f"at least {conformance.ERRORS:g} standard errors above" in told
    assert f"by more than {smoke.TOLERANCE:g} from that run" in told


@pytest.mark.parametrize(
    ("kind", "awaited"), [("method", True), ("system", True), ("survey", False), ("analysis", False)]
)
def test_only_what_could_be_run_awaits_a_method(kind, awaited):
    entry = Entry(
        key="doe2027plain", short_name="P", role="context", kind=kind, domain=["vision"], idea="I.", sources=["-"]
    )
    assert ("no method to run yet" in Work(entry, None).without_method) == awaited


def test_every_page_has_one_tab(site):
    for path in site.rglob("*.html"):
        active = path.read_text(encoding="utf-8").count("md-tabs__item--active")
        assert active == (path.name != "404.html"), path.relative_to(site)


def test_facts_of_a_paper(site):
    page = read(site, "papers/zhou2020pabee.html")
    for said in (
        "Wangchunshu Zhou",
        "NeurIPS 2020",
        "@inproceedings{zhou2020pabee",
        "Recalled, not verified",
        "JetRunner",
    ):
        assert said in page.text
    links = {attrs.get("href") for tag, attrs in page.tags if tag == "a"}
    assert {"../taxonomy/policy.html#patience", "kaya2019sdn.html", "../methods/zhou2020pabee.html"} <= {
        link.replace("../papers/", "") if link else link for link in links
    }


def test_works_that_build_upon_a_work_are_its_derivative_works(site):
    read_on = read(site, "papers/zhou2020pabee.html").text.partition("Where to read on")[2]
    derivative = read_on.partition("Derivative works")[2].partition("Similar works")[0]
    for name in ("ConsistentEE", "PF-BERxiT", "PCEE-BERT", "Past-Future"):
        assert name in derivative
    assert "cited together by" in read_on.partition("Derivative works")[0]


def test_unverified_relations_stand_apart(site):
    loaded = load(sources())
    for key, entry in loaded.entries.items():
        recalled = [relation for relation in entry.relations if relation.evidence == "unverified"]
        if recalled:
            assert "Recalled, not verified" in read(site, f"papers/{key}.html").text


def test_errata_are_all_listed(site):
    html = (site / "guide/errata.html").read_text(encoding="utf-8")
    errors = [error for entry in load(sources()).entries.values() if entry.seed for error in entry.seed.errors]
    assert html.count("<tr>") == len(errors) + 1


def test_terms_have_anchors_and_count_narrower_works(site):
    loaded = load(sources())
    for facet in FACETS:
        ids = {attrs["id"] for _, attrs in read(site, f"taxonomy/{facet}.html").tags if "id" in attrs}
        assert set(loaded.terms(facet)) <= ids
    collection = gather(sources(), read_reports(None)[0])
    patience, agreement = (collection.terms["policy"][term].works for term in ("patience", "agreement"))
    assert "zhou2020pabee" in patience
    assert set(patience) < set(agreement)


def test_commands_are_all_documented(site):
    ids = {attrs["id"] for _, attrs in read(site, "guide/commands.html").tags if "id" in attrs}
    assert {"eelit-find", "eelit-run", "eelit-data-fetch", "eelit-site-build"} <= ids


def test_graph_can_be_downloaded(site):
    graph = json.loads((site / "graph.json").read_text(encoding="utf-8"))
    assert len(graph["nodes"]) == 125
    assert (site / "graph.graphml").read_text(encoding="utf-8").startswith("<?xml") or (
        site / "graph.graphml"
    ).stat().st_size
    picture = read(site, "graph.html")
    nodes = {attrs["data-key"] for tag, attrs in picture.tags if tag == "a" and "data-key" in attrs}
    assert nodes == {end for edge in graph["edges"] for end in (edge["source"], edge["target"])}
    assert picture.text.count("a missing edge proves nothing") == 1


def test_labels_of_the_graph_do_not_overlap(site):
    boxes = [attrs for tag, attrs in read(site, "graph.html").tags if tag == "rect" and attrs.get("rx") == "4"]
    places = [(float(box["x"]), float(box["y"])) for box in boxes]
    width, height = float(boxes[0]["width"]), float(boxes[0]["height"])
    for index, (x, y) in enumerate(places):
        for other_x, other_y in places[index + 1 :]:
            assert abs(x - other_x) >= width or abs(y - other_y) >= height


def test_nothing_is_loaded_from_elsewhere(site):
    assert proofread.faults(site) == []
    for path in site.rglob("*.html"):
        for tag, attrs in Reader(path.read_text(encoding="utf-8")).tags:
            address = attrs.get("src") or (attrs.get("href") if tag in ("link", "use", "image") else None) or ""
            if attrs.get("rel") != "canonical":
                assert not address.startswith(FULL_URL), f"{path.name} loads {address}"


def test_proofreading_finds_faults(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#gone">x</a><a href="c.html">y</a><img src="https://x.org/i.png">')
    (tmp_path / "b.html").write_text('<p id="here">')
    (tmp_path / "s.css").write_text("@import 'https://x.org/s.css';")
    found = " ".join(proofread.faults(tmp_path))
    for fault in ("b.html#gone", "c.html, which does not exist", "loads https://x.org/i.png", "s.css loads"):
        assert fault in found


def test_builders_cannot_empty_our_sources():
    """Without `site_dir` both MkDocs and Zensical take `site`, which holds our sources, and empty it."""
    text = re.sub(r"!ENV \[[A-Z_]+, (.*)\]", r"\1", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config = yaml.safe_load(text)
    assert config["site_dir"] == "build/site"
    assert config["docs_dir"] == "build/docs"
    assert config["strict"] is True
    assert config["theme"]["font"] is False
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert "/build/" in ignored
    assert not {"site", "/site", "site/", "/site/"} & set(ignored)


@pytest.mark.parametrize("folder", ["site", ".", "..", "catalog/entries", "build"])
def test_output_never_replaces_sources(folder):
    with pytest.raises(SiteFault, match="holds sources"):
        build(out=ROOT / folder)


def test_output_never_replaces_strange_files(tmp_path):
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(SiteFault, match="something else"):
        build(out=tmp_path)
    assert (tmp_path / "letter.txt").exists()


MAKER = """
import sys, time
from pathlib import Path
from eelit.site.generator import place

site, edition, slowly = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
print("imported", flush=True)
while True:
    with place.aside(site) as folder:
        for number in range(100):
            file = folder / "site" / f"{number // 10}" / f"{number}.html"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(edition)
            time.sleep(slowly)
        place.put(folder / "site", site)
    if not slowly:
        break
"""


def maker(site, edition, slowly):
    """Start a process that makes a site of a hundred pages over and over, or once if it need not be slow."""
    child = subprocess.Popen([sys.executable, "-c", MAKER, site, edition, str(slowly)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"imported\n"
    return child


def editions(site):
    """Return how many pages there are, and which editions they are of."""
    pages = list(site.rglob("*.html"))
    return len(pages), {page.read_text() for page in pages}


def test_a_build_that_is_killed_leaves_a_whole_site_and_blocks_no_other(tmp_path):
    site = tmp_path / "site"
    maker(site, "first", 0).wait()
    assert editions(site) == (100, {"first"})
    for moment in (0.001, 0.004, 0.009, 0.03, 0.05, 0.07):
        with maker(site, "killed", 0.0001) as child:
            time.sleep(moment)
            child.kill()
        count, found = editions(site)
        assert (count, len(found)) == (100, 1), moment
    maker(site, "last", 0).wait()
    assert editions(site) == (100, {"last"})
    assert {path.name for path in tmp_path.iterdir()} == {"site", ".site.lock"}


@pytest.mark.parametrize("old", [None, "old"])
def test_where_folders_cannot_be_exchanged_the_next_build_mends_what_was_interrupted(tmp_path, monkeypatch, old):
    site, rename = tmp_path / "site", Path.rename

    def killed_at(moment):
        """Put a new site in place by two renames, of which the second or the clearing up never comes."""
        with place.aside(site) as folder, monkeypatch.context() as patch:
            (folder / "site").mkdir()
            (folder / "site" / "new.html").touch()
            patch.setattr(place, "_exchanged", lambda *_: False)
            steps = iter(range(9))
            patch.setattr(Path, "rename", lambda *given: rename(*given) if next(steps) < moment else 1 / 0)
            patch.setattr(place.shutil, "rmtree", lambda *given, **_: None)
            place.put(folder / "site", site)

    for moment in (0, 1):
        if old:
            site.mkdir(exist_ok=True)
            (site / "old.html").touch()
        with pytest.raises(ZeroDivisionError) if old or not moment else monkeypatch.context():
            killed_at(moment)
        with place.aside(site):
            found = {path.name for path in site.rglob("*.html")}
        assert found == ({"old.html"} if old else {"new.html"} if moment else set())
    killed_at(2)
    with place.aside(site):
        assert {path.name for path in site.rglob("*.html")} == {"new.html"}
        assert {path.name for path in tmp_path.iterdir()} == {"site", ".site.lock", ".site.new"}


def test_two_builds_at_once_are_one_too_many(tmp_path):
    site = tmp_path / "site"
    with maker(site, "slow", 0.05) as child:
        time.sleep(0.3)
        with pytest.raises(SiteBusy, match=r"another build of .*site is under way; wait"), place.aside(site):
            pass
        child.kill()
    with place.aside(site):
        assert not site.exists()


@pytest.fixture
def small_site(tmp_path, monkeypatch):
    """Return a function that builds a site of one page as `build` does; whatever it is given replaces the builder."""
    monkeypatch.setattr(building, "gather", lambda *_: type("Collection", (), {})())
    monkeypatch.setattr(building, "snapshot", lambda *_: None)
    monkeypatch.setattr(building.pages, "write", lambda *_: 1)
    monkeypatch.setattr(building.machines, "write", lambda *_: None)

    def built(name, builder):
        monkeypatch.setattr(building, "run_builder", lambda root, docs, site: builder(site))
        return build(out=tmp_path / name)

    return built


def writes(text):
    """Return a builder that writes a page, and what marks a site."""

    def builder(site):
        (site / "assets").mkdir(parents=True)
        (site / "assets" / "eelit.css").touch()
        (site / "index.html").write_text(text)

    return builder


def test_a_build_that_fails_leaves_the_site_that_was_there(tmp_path, small_site):
    def full(site):
        writes("half")(site)
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted(site):
        writes("half")(site)
        raise KeyboardInterrupt

    small_site("site", writes("old"))
    with pytest.raises(NotWritten, match=r"site cannot be written \(no space left on device\); make room on its disk"):
        small_site("site", full)
    with pytest.raises(KeyboardInterrupt):
        small_site("site", interrupted)
    with pytest.raises(SiteFault, match=r"not put in place, since index\.html links to gone\.html"):
        small_site("site", writes('<a href="gone.html">x</a>'))
    assert (tmp_path / "site/index.html").read_text() == "old"
    small_site("site", writes("new"))
    assert (tmp_path / "site/index.html").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"site", ".site.lock"}


def test_a_site_goes_into_an_empty_folder_and_to_any_name(tmp_path, small_site):
    for name in ("empty", "a?b", "100%", "a#b", "\udcff", "deep/er"):
        (tmp_path / name).mkdir(parents=True)
        assert small_site(name, writes("new")) == tmp_path / name
        assert (tmp_path / name / "index.html").read_text() == "new"


def test_a_disk_without_room_is_named_by_site_build(tmp_path, small_site):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(NotWritten, match=rf"{tmp_path}/site cannot be written \(file too large\)") as fault:
            small_site("site", writes("x" * 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert fault.value.code == 5


def test_our_own_folder_is_replaced_whatever_a_killed_builder_left_there(tmp_path):
    left = tmp_path / "build" / "site" / "half.html"
    left.parent.mkdir(parents=True)
    left.touch()
    assert building._safe(tmp_path, left.parent) == left.parent
    other = tmp_path / "build" / "other"
    left.parent.rename(other)
    with pytest.raises(SiteFault, match="something else"):
        building._safe(tmp_path, other)


def test_outside_a_checkout_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("EELIT_ROOT", str(tmp_path))
    with pytest.raises(SiteFault, match=r"checkout; clone the repository and run `make site`"):
        build()


def plain(text):
    """Return text on one line, as it is read."""
    return " ".join(text.split())


def test_hostile_text_reaches_programs_whole(hostile_site):
    said = plain(HOSTILE)
    page = (hostile_site / "papers/evil2020x.html").read_text(encoding="utf-8")
    tags = [m.get("content") for m in lxml.html.fromstring(page).iterfind(".//meta[@name='citation_author']")]
    assert [plain(tag) for tag in tags] == [f"{said}, {said}"]
    (graph,) = extruct.extract(page, syntaxes=["json-ld"])["json-ld"]
    (work,) = graph["@graph"]
    assert plain(work["alternateName"]) == said
    document = json.loads((hostile_site / "api/v1/papers/evil2020x.json").read_text(encoding="utf-8"))
    assert plain(document["entry"]["idea"]) == said
    feed = feedparser.parse((hostile_site / "feed.xml").read_bytes(), sanitize_html=False)
    assert not feed.bozo
    assert any(said in plain(entry.title) for entry in feed.entries)
    items = json.loads((hostile_site / "bibliography.json").read_text(encoding="utf-8"))
    assert any(item["title"].startswith(HOSTILE) for item in items)


def test_hostile_text_means_nothing_in_markdown(hostile_site):
    twin = (hostile_site / "papers/evil2020x.md").read_text(encoding="utf-8").partition("## BibTeX")[0]
    html = markdown.markdown(twin)
    tags = {tag for tag, _ in Reader(html).tags}
    assert tags <= {"h1", "h2", "p", "ul", "li", "code", "a"}
    assert not any(str(attrs.get("href", "")).startswith("javascript:") for _, attrs in Reader(html).tags)


@pytest.mark.parametrize(
    ("page", "times"),
    [("papers/evil2020x.html", 24), ("papers/index.html", 2), ("taxonomy/policy.html", 4), ("guide/errata.html", 2)],
)
def test_hostile_text_is_only_text(hostile_site, page, times):
    found = read(hostile_site, page)
    assert found.text.count(" ".join(HOSTILE.split()).split("`code`")[0]) >= times
    assert sum(tag == "title" and not attrs for tag, attrs in found.tags) == 1
    inline = [attrs for tag, attrs in found.tags if tag == "script" and "src" not in attrs and "type" not in attrs]
    assert len(inline) <= 4  # Material's own
    assert any(attrs.get("http-equiv") == "Content-Security-Policy" for _, attrs in found.tags)
    for tag, attrs in found.tags:
        assert tag != "b"
        assert not any(name.startswith("on") for name in attrs)
        for name in ("href", "src"):
            assert not (attrs.get(name) or "").strip().lower().startswith("javascript:")


def test_hostile_text_survives_whole(hostile_site):
    text = read(hostile_site, "papers/evil2020x.html").text
    backticks = HOSTILE.replace("`code`", "code")
    assert " ".join(HOSTILE.split()) in text  # the title, which is not prose
    assert " ".join(backticks.split()).split("$")[0] in text  # prose, where backticks mark code
    assert "49" not in text.partition("long long")[0]


def test_search_index_holds_no_markup_of_ours(hostile_site):
    index = json.loads((hostile_site / "search/search_index.json").read_text(encoding="utf-8"))
    assert index["docs"]
    for entry in index["docs"]:
        assert "<script" not in entry["title"] + entry["text"]


def test_search_finds_works_by_what_people_call_them_and_without_accents(site):
    docs = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))["docs"]
    found = {doc["location"]: doc["text"] for doc in docs}
    for key in ("schuster2022calm", "bae2023free", "kim2023bild"):
        assert all(words in found[f"papers/{key}.html"] for words in ("LLM", "large language model", "early exit"))
    assert "LLM" not in found["papers/huang2018msdnet.html"]
    assert "smieja" in found["papers/wolczyk2021ztw.html"]
    assert "LLM" in found["taxonomy/domain.html#text-generation"]
    assert "<p hidden>" in (site / "papers/wolczyk2021ztw.html").read_text(encoding="utf-8")


def test_search_finds_sentences_not_controls_or_pictures(site):
    found = {
        doc["location"]: doc["text"] for doc in json.loads((site / "search/search_index.json").read_text())["docs"]
    }
    assert len(found["papers/index.html"]) < 500  # no terms of the filters, no rows
    assert "ABAAA" not in found["taxonomy/policy.html#patience"]  # letters of the picture
    for page in ("graph.html", "compare.html", "taxonomy/gaps.html", "methods/index.html"):
        assert len(found[page]) < 1500, page
    charts = [
        text
        for where, text in found.items()
        if re.match(r"(tracks/text|methods/zhou2020pabee)\.html#(group|measured)", where)
    ]
    assert charts
    assert all(len(text) < 100 for where, text in found.items() if "tracks/text.html#group" in where)  # no figures
    assert len(found["taxonomy/gaps.html#every"]) < 300
    assert "passed" not in found["index.html#this-build"]
    assert not any("20%40%60%" in text for text in charts)  # labels of axes
