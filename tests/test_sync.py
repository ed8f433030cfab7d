"""`eelit sync`: citations with evidence from those who tell of them; nothing is lost, however often it is killed."""

import csv
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import killing
import pytest
import requests_cache
import scholarly
from scholarly import Server, Work

from eelit.bib.citations import read_citations, read_reference_lists
from eelit.bib.read import read_bibliography
from eelit.catalog.doctor import findings
from eelit.catalog.load import load
from eelit.catalog.sources import sources as sources_of_root

ROOT = Path(__file__).parent.parent
EELIT = Path(sys.executable).with_name("eelit")
KEYS = ("adams2018first", "baker2020second", "clark2021third", "davis2022fourth", "evans2023fifth")
TITLES = (
    "Where Networks May Stop: a First Study", "Stopping Twice in One Sentence", "A Third Way of Leaving Networks Early",
    "Fourfold Exits for Pictures and Speech", "The Fifth Exit is the Last One to Take",
)  # fmt: skip
OUTSIDE = {"unstructured": "Nobody N. What could not be matched. 2015."}
"""A reference to a work that is none of ours."""


def world():
    """Return five works: the last three cite earlier ones, each seen by other services."""
    doi = [f"10.1234/w{i}" for i in range(5)]
    people = [[("Ada", key[:5].capitalize())] for key in KEYS]
    years = [int(key[5:9]) for key in KEYS]
    works = [Work(f"W{i}", TITLES[i], people[i], years[i], doi[i]) for i in range(5)]
    works[1].doi, works[1].arxiv = "", "2001.00001"  # a preprint: Crossref does not know it
    works[2].cites = ["W0", "W1"]
    works[2].loose = [{"unstructured": f"Baker A. {TITLES[1]}. ICLR 2020."}, OUTSIDE]
    works[3].cites = ["W0", "W2"]
    works[3].loose = [{"key": "nothing is told"}]
    works[4].cites, works[4].loose = ["W3"], [OUTSIDE]
    works[4].said = {"openalex": {"cites": []}}  # an empty list is no list
    return works


def written(root, works):
    """Write a small catalogue of these works below a root."""
    for folder in ("bib", "catalog/entries", "methods/papers"):
        (root / folder).mkdir(parents=True)
    shutil.copy(ROOT / "catalog" / "taxonomy.yaml", root / "catalog")
    records = []
    for key, work in zip(KEYS, works, strict=False):
        family, given = work.authors[0][1], work.authors[0][0]
        ids = f"doi = {{{work.doi}}}" if work.doi else f"eprint = {{{work.arxiv}}},\n  archiveprefix = {{arXiv}}"
        fields = f"author = {{{family}, {given}}},\n  title = {{{work.title}}},\n  year = {{{work.year}}},\n  {ids}"
        records.append(f"@misc{{{key},\n  {fields}\n}}\n")
    (root / "bib/early-exit.bib").write_text("\n".join(records), encoding="utf-8")
    known = f"{KEYS[2]},{KEYS[0]},https://read.by/hand page 3,bibliography\n"
    (root / "bib/citations.csv").write_text(f"citing_key,cited_key,evidence,kind\n{known}", encoding="utf-8")
    (root / "bib/reference-lists.csv").write_text("key,complete,source,references\n", encoding="utf-8")
    return root


@pytest.fixture
def server():
    made = Server(world())
    yield made
    made.close()


@pytest.fixture
def root(server, tmp_path, monkeypatch):
    monkeypatch.setenv("EELIT_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EELIT_MIRROR", server.address)
    monkeypatch.delenv("EELIT_OFFLINE", raising=False)
    return written(tmp_path / "root", world())


def edges(root):
    found = read_citations(root / "bib/citations.csv")
    assert found.problems == []
    return {(edge.citing[:5], edge.cited[:5]): edge.evidence for edge in found.edges}


def sources(root):
    return {path.name: path.read_bytes() for path in sorted((root / "bib").iterdir())}


def test_edges_name_who_tells_of_them_where_and_when(root, server, eelit):
    found = eelit("sync", "--citations")
    assert found.exit_code == 0, found.stderr
    told = edges(root)
    assert set(told) == {
        ("clark", "adams"),
        ("clark", "baker"),
        ("davis", "adams"),
        ("davis", "clark"),
        ("evans", "davis"),
    }
    assert told["clark", "adams"] == "https://read.by/hand page 3", "what was read is left as it is"
    for part in told["clark", "baker"].split("; "):
        address, _, rest = part.partition(" (")
        assert address.startswith("https://api.")
        assert address.endswith(f" by way of {server.address}")
        assert rest.rstrip(")")[-10:-6] in ("2026", "2027", "2028", "2029")
    assert [name in told["clark", "baker"] for name in ("OpenAlex", "Crossref", "Semantic Scholar")] == [True] * 3
    assert "OpenAlex" not in told["evans", "davis"]
    lines = (root / "bib/citations.csv").read_text().splitlines()
    assert lines == [lines[0], *sorted(lines[1:])]
    assert "wrote " in found.stderr
    assert "+++ " in found.stdout


def test_what_a_mirror_told_is_found_by_the_doctor(root, server, eelit):
    server.works["W1"].doi = ""
    bib = root / "bib/early-exit.bib"
    bib.write_text(bib.read_text().replace("doi = {10.1234/w0}", "eprint = {1801.00001}"), encoding="utf-8")
    server.works["W0"].arxiv = "1801.00001"
    assert eelit("sync", "--citations", "--metadata").exit_code == 0
    assert f", by way of {server.address}: doi from " in bib.read_text()
    told = [each for each in findings(load(sources_of_root())) if each.rule == "mirror"]
    files = Counter(Path(each.path).name for each in told)
    assert files == {"citations.csv": 4, "reference-lists.csv": 5, "early-exit.bib": 1}
    lines = (root / "bib/citations.csv").read_text().splitlines()
    assert all("by way of" in lines[each.line - 1] for each in told if each.path.endswith("citations.csv"))


def test_complete_lists_are_told_from_partial_ones(root, server, eelit):
    found = eelit("sync", "--citations")
    rows = [line.split() for line in found.stdout.partition("LISTS OF REFERENCES")[2].splitlines()]
    assert [KEYS[2], "yes", "3"] in rows
    assert [KEYS[3], "no", "3"] in rows
    lists = read_reference_lists(root / "bib/reference-lists.csv")
    assert lists.problems == []
    assert lists.complete == [KEYS[2], KEYS[4]], "of the fourth one reference says nothing; the others' are partial"
    assert set(lists.lines) == set(KEYS)
    rows = {row["key"]: row for row in csv.DictReader((root / "bib/reference-lists.csv").open())}
    assert rows[KEYS[2]]["references"] == "3"
    assert "(Crossref, 20" in rows[KEYS[2]]["source"]
    assert rows[KEYS[2]]["source"].endswith("; no more at OpenAlex, Semantic Scholar)")


@pytest.mark.parametrize(
    "said",
    [
        {"crossref": {"cites": ["W0"], "loose": [OUTSIDE, OUTSIDE]}},
        {"crossref": {"loose": [{"unstructured": f"Baker A. {TITLES[1]}. ICLR 2020."}]}},
        {"openalex": {"cites": []}, "semanticscholar": {"cites": [], "unmatched": 0}},
    ],
    ids=["a work is lacking", "fewer than elsewhere", "nobody else gives a list"],
)
def test_a_deposited_list_is_not_complete_because_it_says_so(root, server, eelit, said):
    server.works["W2"].said = said
    eelit("sync", "--citations", KEYS[2])
    lists = read_reference_lists(root / "bib/reference-lists.csv")
    assert list(lists.lines) == [KEYS[2]]
    assert lists.complete == []


def test_a_reference_by_a_doi_that_our_record_lacks_is_found(root, server, eelit):
    server.works["W1"].said = {"openalex": {"doi": "10.1234/w1-published"}}
    server.works["W3"].said = {"openalex": {"cites": []}, "semanticscholar": {"cites": []}}
    server.works["W3"].loose = [{"DOI": "10.1234/W1-Published"}]
    eelit("sync", "--citations", KEYS[3])
    assert "(Crossref, " in edges(root)["davis", "baker"]


def test_a_reference_that_is_a_doi_only_leaves_open_whose_it_is(root, server, eelit):
    server.works["W2"].loose = [{"unstructured": f"Baker A. {TITLES[1]}. ICLR 2020."}, {"DOI": "10.9999/whose"}]
    eelit("sync", "--citations", KEYS[2])
    assert read_reference_lists(root / "bib/reference-lists.csv").complete == []


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ({"DOI": "10.9999/other", "article-title": TITLES[0], "author": "Adams", "year": "2018"},
            "with the DOI 10.9999/other instead of 10.1234/w0"),
        ({"article-title": TITLES[0], "author": "Zimmer", "year": "2018"}, "by Zimmer instead of Ada Adams"),
        ({"DOI": "10.9999/other", "unstructured": f"Adams A. {TITLES[0]}. 2018."}, "with the DOI 10.9999/other"),
    ],
)  # fmt: skip
def test_a_title_alone_proves_no_citation_against_doi_or_author(root, server, eelit, reference, why):
    server.works["W4"].said = {"openalex": {"cites": []}, "semanticscholar": {"cites": [], "unmatched": 0}}
    server.works["W4"].cites, server.works["W4"].loose = [], [reference]
    found = eelit("sync", "--citations", KEYS[4])
    assert ("evans", "adams") not in edges(root)
    assert f"`{KEYS[4]}` may cite `{KEYS[0]}`: Crossref lists a work of that title, but {why}" in found.stdout


def test_semantic_scholars_references_are_compared_by_author_too(root, server, eelit):
    other = Work("W7", TITLES[0], [("Zoe", "Zimmer")], 2018)
    server.works["W7"] = other
    server.works["W4"].said = {"openalex": {"cites": []}, "semanticscholar": {"cites": ["W7"]}}
    found = eelit("sync", "--citations", KEYS[4])
    assert ("evans", "adams") not in edges(root)
    assert "Semantic Scholar lists a work of that title, but by Zoe Zimmer instead of Ada Adams" in found.stdout
    assert ("evans", "davis") in edges(root)


def test_an_edge_names_the_day_on_which_the_service_said_so(root, server, eelit):
    eelit("sync", "--citations", "--dry-run")
    kept = requests_cache.SQLiteCache(root.parent / "cache/remote/answers.sqlite").responses
    for name, answer in kept.items():
        answer.created_at -= timedelta(days=3)
        kept[name] = answer
    eelit("sync", "--citations")
    day = (datetime.now(UTC) - timedelta(days=3)).date().isoformat()
    assert edges(root)["clark", "baker"].count(day) == 3
    assert (root / "bib/reference-lists.csv").read_text().count(day) == 5


def test_what_a_person_writes_while_services_are_asked_is_not_overwritten(root, server, eelit, monkeypatch):
    path = root / "bib/citations.csv"
    mine = f"{KEYS[4]},{KEYS[0]},https://read.by/hand page 5,bibliography\n"
    serve = server.serve

    def meanwhile(handler):
        if mine not in path.read_text():
            path.write_text(path.read_text() + mine)
        serve(handler)

    monkeypatch.setattr(server, "serve", meanwhile)
    before = sources(root)
    found = eelit("sync", "--citations")
    assert found.exit_code == 3
    assert "citations.csv was changed by another program meanwhile; nothing was written, run this again" in found.stderr
    assert sources(root) == before | {"citations.csv": before["citations.csv"] + mine.encode()}
    asked = len(server.asked)
    assert eelit("sync", "--citations").exit_code == 0
    assert ("evans", "adams") in edges(root)
    assert len(edges(root)) == 6
    assert len(server.asked) == asked


def test_nothing_is_complete_while_a_service_cannot_be_asked(root, server, eelit):
    server.always = [("/semanticscholar", scholarly.status(403))]
    eelit("sync", "--citations", KEYS[2])
    assert read_reference_lists(root / "bib/reference-lists.csv").complete == []
    server.always = []
    eelit("sync", "--citations", KEYS[2])
    assert read_reference_lists(root / "bib/reference-lists.csv").complete == [KEYS[2]]


def test_a_second_run_asks_nobody_and_changes_nothing(root, server, eelit):
    eelit("sync", "--citations")
    asked, before = len(server.asked), sources(root)
    found = eelit("sync", "--citations")
    assert found.stdout == "Nothing changes.\n"
    assert "no service was asked" in found.stderr
    assert len(server.asked) == asked
    assert sources(root) == before
    found = eelit("sync", "--citations", "--anew")
    assert server.revalidated == len(server.asked) - asked > 0
    assert "no service was asked" not in found.stderr
    assert "requests: Crossref 4, OpenAlex 5, Semantic Scholar " in found.stderr
    assert sources(root) == before


def test_a_dry_run_shows_the_diff_and_writes_nothing(root, server, eelit):
    before = sources(root)
    found = eelit("sync", "--citations", "--dry-run", "--format", "json")
    told = json.loads(found.stdout)
    assert len(told["edges"]) == 4
    assert told["edges"][0]["services"] == ["OpenAlex", "Crossref", "Semantic Scholar"]
    assert told["written"] is False
    assert sources(root) == before


def test_only_the_works_that_are_named_are_asked_for(root, server, eelit):
    found = eelit("sync", "--citations", KEYS[4])
    assert found.exit_code == 0
    assert set(edges(root)) == {("clark", "adams"), ("evans", "davis")}


def test_a_new_work_near_a_named_one_is_counted_by_all_of_ours_that_it_cites(root, server, eelit):
    server.works["W7"] = Work("W7", "A Survey", year=2025, doi="10.9999/survey", cites=[f"W{i}" for i in range(5)])
    told = json.loads(eelit("sync", "--new", "--format", "json", KEYS[0]).stdout)
    assert [len(work["cites"]) for work in told["new"]] == [5]


def test_for_metadata_openalex_is_asked_only_for_the_works_that_are_named(root, server, eelit):
    eelit("sync", "--metadata", KEYS[4])
    asked = [path for path in server.asked if path.startswith("/openalex/works/")]
    assert asked == ["/openalex/works/doi:10.1234/w4"]


def test_a_wrong_id_is_told_and_its_citations_are_not_taken(root, server, eelit):
    server.works["W3"].title = "Quite Another Paper on Fruit Flies"
    server.works["W3"].authors = [("Zoe", "Young")]
    found = eelit("sync", "--citations")
    flies = "“Quite Another Paper on Fruit Flies” (2022)"
    told = [line for line in found.stdout.splitlines() if "leads to another work" in line]
    assert told == [
        f"10.1234/w3 of `{KEYS[3]}` leads to another work: {flies} at OpenAlex, Crossref, Semantic Scholar; "
        "check the identifier"
    ], "once, with all who say so"
    assert not {edge for edge in edges(root) if edge[0] == "davis"}


def test_another_doi_than_asked_for_is_told_and_its_references_are_not_taken(root, server, eelit):
    server.works["W4"].said = {"openalex": {"cites": []}, "semanticscholar": {"cites": []}}
    again = Work(**(vars(server.works["W4"]) | {"doi": "10.1234/again"}))
    server.always = [("/crossref/works/10.1234/w4", scholarly.instead({"message": server.deposit(again)}))]
    for words in (["--citations"], ["--metadata"]):
        found = eelit("sync", *words, KEYS[4])
        assert f"Crossref answers to the DOI 10.1234/w4 of `{KEYS[4]}` with 10.1234/again; check" in found.stdout
    assert ("evans", "davis") not in edges(root)


def complete(root, key, source):
    path = root / "bib/reference-lists.csv"
    path.write_text(f"{path.read_text()}{key},yes,{source},1\n", encoding="utf-8")


def test_one_service_alone_is_not_believed_against_a_list_that_was_read_to_its_end(root, server, eelit):
    complete(root, KEYS[2], "https://read.by/hand")
    server.works["W2"].said = {"crossref": {"cites": [], "loose": []}, "semanticscholar": {"cites": []}}
    found = eelit("sync", "--citations", KEYS[2])
    told = (
        f"OpenAlex alone says that `{KEYS[2]}` cites `{KEYS[1]}`, which the list that was read to its end does not hold"
    )
    assert told in found.stdout
    assert set(edges(root)) == {("clark", "adams")}
    server.works["W2"].said = {}
    eelit("sync", "--citations", "--anew", KEYS[2])
    assert ("clark", "baker") in edges(root), "several are"


def test_a_work_that_was_added_later_is_looked_for_in_complete_lists_of_services(root, server, eelit):
    complete(root, KEYS[4], '"https://api.crossref.org/works/x (Crossref, 2026-12-01)"')
    server.works["W4"].said = {"openalex": {"cites": []}, "semanticscholar": {"cites": []}}
    eelit("sync", "--citations", KEYS[4])
    assert ("evans", "davis") in edges(root)


def test_an_edge_that_a_complete_list_lacks_is_doubted_and_kept(root, server, eelit):
    path = root / "bib/citations.csv"
    path.write_text(f"{path.read_text()}{KEYS[2]},{KEYS[3]},nowhere,text-citation\n", encoding="utf-8")
    found = eelit("sync", "--citations", KEYS[2])
    assert (
        f"`{KEYS[2]}` → `{KEYS[3]}` is known here, but not in Crossref's list, which seems to be complete"
        in found.stdout
    )
    assert read_reference_lists(root / "bib/reference-lists.csv").complete == [], "a person has to decide first"
    assert ("clark", "davis") in edges(root)


def test_new_works_are_proposed_the_most_citing_first_and_never_added(root, server, eelit):
    ours = [f"W{i}" for i in range(5)]
    server.works |= {
        "W7": Work("W7", "A Survey", year=2025, doi="10.9999/survey", cites=ours),
        "W8": Work("W8", "A Further Work", year=2025, arxiv="2501.00001", cites=ours[:3]),
        "W9": Work("W9", "Too Little", cites=ours[:2]),
        "W10": Work("W10", TITLES[0], authors=[("Ada", "Adams")], year=2018, cites=ours),
    }
    before = sources(root)
    found = eelit("sync", "--new", "--least", "3", "--format", "json")
    new = json.loads(found.stdout)["new"]
    assert [(work["id"], len(work["cites"])) for work in new] == [("10.9999/survey", 5), ("arXiv:2501.00001", 3)]
    assert sources(root) == before


def test_what_was_not_looked_at_among_new_works_is_told(root, server, eelit, monkeypatch):
    monkeypatch.setattr("eelit.bib.remote.openalex.PER_PAGE", 2)
    server.works |= {f"W{i}": Work(f"W{i}", f"Follower {i}", cites=["W0"]) for i in range(7, 12)}
    told = json.loads(eelit("sync", "--new", "--pages", "2", "--format", "json", KEYS[0], KEYS[3]).stdout)
    assert told["cut"] == [{"key": KEYS[0], "seen": 4, "of": 7}]
    found = eelit("sync", "--new", "--pages", "2", KEYS[0])
    assert "NOT ALL WORKS THAT CITE THESE WERE LOOKED AT; --pages looks at more" in found.stdout


def test_what_records_lack_is_filled_in_and_what_differs_is_told(root, server, eelit):
    server.works["W2"].arxiv = "2101.00009"
    server.works["W3"].year = 2023
    found = eelit("sync", "--metadata")
    assert found.exit_code == 0
    records = read_bibliography(root / "bib/early-exit.bib").records
    assert records[KEYS[2]].arxiv == "2101.00009"
    assert records[KEYS[3]].year == 2022
    (line,) = [line for line in found.stdout.splitlines() if line.startswith(f"year of `{KEYS[3]}` is “2022”, but ")]
    assert line.count("“2023”") == 1, "what several services say is told once"
    assert [f" {service} (http" in line for service in ("OpenAlex", "Crossref", "DBLP")] == [True] * 3
    assert "TO BE DECIDED BY A PERSON; what a comment (%) above the record quotes is not reported again" in found.stdout
    text = (root / "bib/early-exit.bib").read_text()
    comment = text.partition(f"@misc{{{KEYS[2]}")[0].splitlines()[-1]
    assert comment.startswith("% 20")
    assert comment.endswith("arxiv from OpenAlex, DBLP")


def test_what_services_tell_otherwise_is_kept_once_with_its_day_and_found_by_the_doctor(root, server, eelit):
    server.works["W3"].year = 2023
    assert eelit("sync", "--metadata", KEYS[3]).exit_code == 0
    before = sources(root)
    (line,) = [line for line in before["early-exit.bib"].decode().splitlines() if "year differs" in line]
    assert line.endswith("year differs: “2023” at OpenAlex, Crossref, DBLP")
    assert [each.says for each in findings(load(sources_of_root())) if each.rule == "services differ"] == [
        f"year of `{KEYS[3]}` is “2022”, but “2023” at OpenAlex, Crossref, DBLP ({line[2:12]})"
    ]
    path = root / "bib/early-exit.bib"
    path.write_text(path.read_text().replace(line, line.replace(line[2:12], "2020-01-01")), encoding="utf-8")
    assert eelit("sync", "--metadata", KEYS[3]).stdout.endswith("Nothing changes.\n"), "but for the day it is the same"
    server.works["W3"].said = {"dblp": {"year": 2024}}
    eelit("sync", "--metadata", KEYS[3], "--anew")
    (new,) = [line for line in path.read_text().splitlines() if "year differs" in line]
    assert new.endswith("year differs: “2023” at OpenAlex, Crossref; “2024” at DBLP"), "in the place of the older line"
    assert len(path.read_text().splitlines()) == len(before["early-exit.bib"].decode().splitlines())


def test_a_preprint_that_was_published_is_told_with_venue_year_and_pages(root, server, eelit):
    vars(server.works["W3"]).update(venue="Journal of Exits", pages="3-9", year=2023)
    found = eelit("sync", "--metadata", KEYS[3])
    told = f"`{KEYS[3]}` is a preprint here, but published by now: "
    (line,) = [line for line in found.stdout.splitlines() if line.startswith(told)]
    assert "Journal of Exits, 2023, 3–9 (Crossref)" in line
    assert line.endswith("change its type, and add venue, year and pages")
    assert f"year of `{KEYS[3]}`" not in found.stdout


def decide(root, key, said):
    path = root / "bib/early-exit.bib"
    path.write_text(path.read_text().replace(f"@misc{{{key},", f"{said}\n@misc{{{key},"), encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "settled"),
    [
        ("% The title page has 2022; that Crossref has the year 2023 is wrong.", True),
        ("% Checked the year.\n% It is not 2023", True),
        ("% The year is sure.", False),
        ("% Year as in arXiv:2023.12345 of another work: 20230", False),
        ("% 2026-12-02: year from DBLP", False),
    ],
)
def test_what_a_person_has_decided_is_not_asked_again(root, server, eelit, said, settled):
    server.works["W3"].year = 2023
    decide(root, KEYS[3], said)
    found = eelit("sync", "--metadata", KEYS[3])
    assert (f"year of `{KEYS[3]}` is “2022”, but “2023” at " in found.stdout) != settled


def test_services_that_differ_from_us_and_each_other_are_told_in_one_sentence(root, server, eelit):
    server.works["W3"].year = 2023
    server.works["W3"].said = {"dblp": {"year": 2024}}
    decide(root, KEYS[3], "% a word")
    (line,) = [line for line in eelit("sync", "--metadata", KEYS[3]).stdout.splitlines() if line.startswith("year of")]
    assert "but “2023” at OpenAlex (" in line
    assert "; “2024” at DBLP (" in line
    decide(root, KEYS[3], "% The year is not 2023.")
    (line,) = [line for line in eelit("sync", "--metadata", KEYS[3]).stdout.splitlines() if line.startswith("year of")]
    assert "but “2024” at DBLP (" in line, "what was decided is left out, the rest is told"


def test_of_two_identifiers_the_wrong_one_is_named(root, server, eelit):
    server.works["W9"] = Work("W9", "On Fruit Flies", [("Zoe", "Young")], 2020, arxiv="2001.00009")
    path = root / "bib/early-exit.bib"
    ids = "doi = {10.1234/w3},\n  eprint = {2001.00009},\n  archiveprefix = {arXiv}"
    path.write_text(path.read_text().replace("doi = {10.1234/w3}", ids), encoding="utf-8")
    found = eelit("sync", KEYS[3], "--metadata")
    told = [line for line in found.stdout.splitlines() if "leads to another work" in line]
    wrong = "leads to another work: “On Fruit Flies” (2020) at OpenAlex, arXiv; check the identifier"
    assert told == [f"arXiv:2001.00009 of `{KEYS[3]}` {wrong}"]


def test_a_decision_about_a_citation_names_the_work(root, server, eelit):
    complete(root, KEYS[2], "https://read.by/hand")
    server.works["W2"].said = {"crossref": {"cites": [], "loose": []}, "semanticscholar": {"cites": []}}
    assert "OpenAlex alone says" in eelit("sync", "--citations", KEYS[2]).stdout
    decide(root, KEYS[2], f"% It does not cite {KEYS[1]}: I have read it.")
    assert "OpenAlex alone says" not in eelit("sync", "--citations", KEYS[2]).stdout


@pytest.mark.parametrize(
    ("pattern", "script"),
    [
        ("/semanticscholar", scholarly.status(429)),
        ("/crossref", scholarly.instead({"message": {"DOI": 1}})),
        ("/crossref", scholarly.cut),
        ("/openalex", scholarly.instead({"id": "https://openalex.org/W1", "title": "No list of references"})),
    ],
    ids=["busy", "changed", "half", "changed list"],
)
def test_a_service_that_fails_costs_only_what_it_alone_knows_and_the_next_run_gets_it(
    root, server, eelit, pattern, script
):
    server.always = [(pattern, script)]
    found = eelit("sync", "--citations")
    assert found.exit_code == 4
    assert "not all requests succeeded: " in found.stderr
    first = edges(root)
    assert ("clark", "adams") in first
    server.always = []
    found = eelit("sync", "--citations")
    assert found.exit_code == 0
    assert set(first) <= set(edges(root))
    assert len(edges(root)) == 5
    assert read_reference_lists(root / "bib/reference-lists.csv").complete == [KEYS[2], KEYS[4]]


def test_nothing_leaves_the_machine_without_the_users_word(root, server, eelit, monkeypatch):
    for words in (["sync", "--offline"], ["check"], ["doctor"]):
        eelit(*words)
    monkeypatch.setenv("EELIT_OFFLINE", "1")
    found = eelit("sync")
    assert found.exit_code == 2
    assert "EELIT_OFFLINE forbid" in found.stderr
    assert server.asked == []


def test_all_that_fail_for_one_reason_are_named_together_with_what_to_do(root, server, eelit):
    server.close()
    found = eelit("sync", KEYS[0])
    assert found.exit_code == 4
    (said,) = [line for line in found.stderr.splitlines() if "not all requests" in line]
    assert said.count("cannot be reached") == 1
    assert said.endswith("run this again when they can be asked: what was answered is kept, only the rest is asked for")
    assert all(label in said for label in ("OpenAlex, ", "Crossref, ", "Semantic Scholar, "))


def test_a_work_without_a_record_is_refused(root, server, eelit):
    (root / "catalog/entries/moore2024none.yaml").write_text("key: moore2024none\n", encoding="utf-8")
    found = eelit("sync", "moore2024none")
    assert found.exit_code == 3
    assert "`moore2024none` has no record in bib/early-exit.bib; add it first" in found.stderr
    assert server.asked == []


def test_broken_sources_are_told_before_anybody_is_asked(root, server, eelit):
    path = root / "bib/citations.csv"
    path.write_text(path.read_text() + "nonsense\n")
    found = eelit("sync")
    assert found.exit_code == 3
    assert "correct the sources first" in found.stderr
    assert server.asked == []


def test_semantic_scholar_is_asked_once_for_all_works_and_one_by_one_only_if_that_fails(root, server, eelit, tmp_path):
    eelit("sync", "--citations")
    asked = [path for path in server.asked if path.startswith("/semanticscholar") and "/references" not in path]
    assert [path.partition("?")[0] for path in asked] == ["/semanticscholar/paper/batch"]
    log = (tmp_path / "cache/remote/asked.log").read_text()
    assert '"DOI:10.1234/w4"' in log, "the log says what was asked, though it is not in the address"
    before = sources(root)
    written(tmp_path / "again", world())
    shutil.rmtree(tmp_path / "cache")
    server.asked.clear()
    server.always = [("/paper/batch", scholarly.status(400))]
    assert eelit("--root", str(tmp_path / "again"), "sync", "--citations").exit_code == 0
    assert sources(tmp_path / "again") == before
    server.always = [("/paper/batch", scholarly.instead([None]))]
    shutil.rmtree(tmp_path / "cache")
    written(tmp_path / "third", world())
    assert eelit("--root", str(tmp_path / "third"), "sync", "--citations").exit_code == 0
    assert sources(tmp_path / "third") == before, "an answer of another length is no answer"


def test_one_run_at_a_time(root, server, eelit):
    from filelock import FileLock

    folder = root.parent / "cache" / "remote"
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"):
        found = eelit("sync")
    assert found.exit_code == 2
    assert "another eelit is using" in found.stderr


def lacking():
    """Return the five works, of which one record lacks what services know: all three files have to be written."""
    works = world()
    works[2].arxiv = "2101.00009"
    return works


def started(root, cache, server, **more):
    """Start `eelit sync` in a process of its own, with more in its environment."""
    environment = {"PATH": "/usr/bin:/bin", "EELIT_CACHE": str(cache), "EELIT_MIRROR": server.address, **more}
    command = [EELIT, "--root", root, "sync", "--citations", "--metadata"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(root, cache, server):
    """Run it to its end."""
    run = started(root, cache, server)
    _, said = run.communicate()
    assert run.returncode == 0, said


def undisturbed(folder, server):
    """Return what a run that nobody kills makes of the same works, and which requests it needs."""
    root = written(folder / "calm", lacking())
    server.asked.clear()
    finished(root, folder / "calm-cache", server)
    needed = list(server.asked)
    server.asked.clear()
    return sources(root), needed


def visible(root):
    return {name: text for name, text in sources(root).items() if not name.startswith(".")}


def assert_whole(root, before, after):
    """Each file is the old one or the new one, whatever moment it was."""
    found = visible(root)
    assert found.keys() == before.keys()
    assert [name for name, text in found.items() if text not in (before[name], after[name])] == []


def test_a_run_that_is_killed_while_it_asks_loses_nothing_and_asks_for_the_rest_only(server, tmp_path):
    server.works = {work.number: work for work in lacking()}
    server.delay = 0.01
    calm, needed = undisturbed(tmp_path, server)
    root, chance, kills = written(tmp_path / "root", lacking()), random.Random(0), 5
    before = sources(root)
    for _ in range(kills):
        wanted, end = len(server.asked) + chance.randrange(1, 4), time.monotonic() + 20
        run = started(root, tmp_path / "cache", server)
        while run.poll() is None and len(server.asked) < wanted and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.01)
        run.kill()
        run.communicate()
        assert_whole(root, before, calm)
    finished(root, tmp_path / "cache", server)
    assert sources(root) == calm
    assert set(server.asked) == set(needed)
    assert len(server.asked) <= len(needed) + kills, "at most the request that was under way is made again"


def test_a_run_that_is_killed_at_any_step_of_writing_leaves_whole_files_and_the_next_ends_it(root, server, eelit):
    server.works = {work.number: work for work in lacking()}
    words = ["sync", "--citations", "--metadata"]
    before = sources(root)
    eelit(*words)
    after = sources(root)
    assert [name for name in before if before[name] != after[name]] == list(before), "all three are written"
    seen = set()
    for step in itertools.count(1):
        for name, text in before.items():
            (root / "bib" / name).write_bytes(text)
        child = os.fork()
        if child == 0:
            killing.at(step)
            eelit(*words)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
        assert_whole(root, before, after)
        seen.add(sum(text != before[name] for name, text in visible(root).items()))
        eelit(*words)
        assert sources(root) == after, "nothing is left behind"
    assert seen == {0, 1, 2, 3}
    assert step > 2 * 9, "three files and a journal are made sure of, put in place and the journal removed"
