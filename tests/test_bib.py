"""The bibliography: reading, exports, citations and the graph."""

import json
import re
from pathlib import Path
from urllib.parse import parse_qsl

import bibtexparser
import networkx
import pybtex.database
import pytest
import rispy

from eelit.bib.citations import KINDS, Citation, completeness, read_citations, read_reference_lists
from eelit.bib.exports import to_bibtex, to_csl, to_csl_json, to_csv, to_ris
from eelit.bib.graph import Edge, Graph, Node, NoPath, citation_edges
from eelit.bib.graph_formats import FORMATS
from eelit.bib.identifiers import arxiv_id
from eelit.bib.read import read_bibliography
from eelit.bib.record import Person, Record
from eelit.bib.tags import coins, highwire
from eelit.bib.tex import plain_text
from eelit.catalog.sources import sources

GOOD = """@inproceedings{doe2020fast,
  author = {van den Berg, Anna and Doe, Jr., John and {\\'E}cole, {\\L}ukasz},
  title = {{BERT} \\& Friends: 100\\% {\\'e}arly},
  year = {2020},
  booktitle = {Proceedings of Things},
  pages = {1--9},
  doi = {10.1000/a\\_b},
  eprint = {2006.00001},
  archiveprefix = {arXiv}
}
"""


@pytest.fixture(scope="module")
def records():
    bibliography = read_bibliography(sources().bibliography)
    assert bibliography.problems == []
    return bibliography.records


def read(tmp_path, text):
    path = tmp_path / "some.bib"
    path.write_text(text, encoding="utf-8")
    return read_bibliography(path)


def test_tex_becomes_plain_text(tmp_path):
    record = read(tmp_path, GOOD).records["doe2020fast"]
    assert record.title == "BERT & Friends: 100% éarly"
    assert record.authors == (Person("van den Berg", "Anna"), Person("Doe", "John", "Jr."), Person("École", "Łukasz"))
    assert (record.pages, record.doi, record.arxiv, record.year) == ("1–9", "10.1000/a_b", "2006.00001", 2020)
    assert record.short_authors() == "van den Berg et al."
    assert plain_text("a~b -- c") == "a b – c"


@pytest.mark.parametrize(
    ("name", "title", "said"),
    [
        ("PABEE", "BERT Loses Patience", "PABEE: BERT Loses Patience"),
        ("SEE", "SEE: Scheduling Early Exit", "SEE: Scheduling Early Exit"),
        ("IDK cascade", "IDK Cascades: Fast Deep Learning", "IDK Cascades: Fast Deep Learning"),
        ("EENet (power management)", "EENet: Energy Efficient", "EENet (power management): Energy Efficient"),
        ("Deep Cascade Learning", "Deep Cascade Learning", "Deep Cascade Learning"),
        ("GFNet", "Glance and Focus: A Dynamic Approach", "GFNet: Glance and Focus: A Dynamic Approach"),
    ],
)
def test_a_title_under_a_name_says_the_name_once(name, title, said):
    assert Record("k", "misc", title, (Person("Doe", "Jo"),), 2020).titled(name) == said


def test_every_record_is_plain_and_complete(records):
    for record in records.values():
        assert record.title, record.key
        assert record.venue or record.arxiv, record.key
        assert not re.search(r"[{}\\]", record.title + record.venue + "".join(map(str, record.authors))), record.key


def test_a_record_survives_json(records):
    for record in records.values():
        assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@pytest.mark.parametrize(
    ("broken", "line", "said"),
    [
        (GOOD.replace("year = {2020},", "year = {2020,"), 1, "never closed"),
        (GOOD.replace("year = {2020},", "year {2020},"), 4, "not valid BibTeX"),
        (GOOD.replace("year = {2020},", "year = {20},"), 4, "give four digits"),
        (GOOD.replace("  year = {2020},\n", ""), 1, "has no `year`"),
        (GOOD.replace("booktitle", "booktitel"), 5, "did you mean `booktitle`"),
        (GOOD.replace("@inproceedings", "@inproceeding"), 1, "did you mean `inproceedings`"),
        (GOOD.replace("year = {2020},", "year = {2020},\n  year = {2021},"), 5, "gives `year` twice"),
        (GOOD + GOOD, 11, "already used in line 1"),
        (GOOD.replace("doe2020fast,", "doe2020fast"), 1, "comma is missing after the key `doe2020fast`"),
        (GOOD.replace("{doe2020fast,", "{\n  doe2020fast\n"), 2, "comma is missing after the key `doe2020fast`"),
        (GOOD.replace("@inproceedings", "inproceedings"), 1, "`doe2020fast` has lost its `@`; write `@inproceedings{"),
        ("\n\n" + GOOD.replace("@inproceedings{", "  InProceedings ("), 3, "`doe2020fast` has lost its `@`"),
    ],
)
def test_faults_name_their_line_and_keep_the_other_records(tmp_path, broken, line, said):
    other = GOOD.replace("doe2020fast", "other2020works").replace("2006.00001", "2006.00002")
    found = read(tmp_path, broken + "\n" + other)
    assert [problem.line for problem in found.problems] in ([line], [line, line])
    assert said in found.problems[0].message
    assert "other2020works" in found.records


def test_a_lost_at_sign_in_the_middle_costs_one_record_only(tmp_path):
    one, two, three = (GOOD.replace("doe2020fast", f"doe2020{name}") for name in ("a", "b", "c"))
    found = read(tmp_path, "\n".join([one, two.replace("@inproc", "inproc").replace("Anna", "A@nna"), three]))
    assert [problem.line for problem in found.problems] == [12]
    assert sorted(found.records) == ["doe2020a", "doe2020c"]
    assert found.broken == {"doe2020b"}


def test_what_holds_no_record_is_passed_over(tmp_path):
    head = (
        '@string{acm = "ACM"}\n@preamble{"x"}\n@comment{none of a record}\nThis file says misc things (all of them).\n'
    )
    found = read(tmp_path, head + GOOD)
    assert found.problems == []
    assert list(found.records) == ["doe2020fast"]


def test_an_unreadable_file_is_one_sentence(tmp_path):
    (problem,) = read_bibliography(tmp_path / "missing.bib").problems
    assert "cannot be read" in problem.message


def test_bibtex_round_trip(records):
    text = to_bibtex(records.values())
    again = pybtex.database.parse_string(text, "bibtex").entries
    assert list(again) == list(records)
    assert all(again[key].fields["title"] == dict(record.tex)["title"] for key, record in records.items())
    library = bibtexparser.parse_string(text)
    assert not library.failed_blocks
    assert [entry.key for entry in library.entries] == list(records)


def test_ris_is_read_by_rispy(records):
    text = to_ris(records.values())
    found = rispy.loads(text)
    assert [item["id"] for item in found] == list(records)
    for item, record in zip(found, records.values(), strict=True):
        assert item["title"] == record.title
        assert len(item["authors"]) == len(record.authors)
        assert item["year"] == str(record.year)
    assert "\r\nER  - \r\n" in text


@pytest.mark.parametrize(
    ("pages", "ris", "ends", "openurl"),
    [
        ("1--5", {"start_page": "1", "end_page": "5"}, ("1", "5"), {"rft.spage": "1", "rft.epage": "5"}),
        ("7", {"start_page": "7"}, ("7", ""), {"rft.spage": "7"}),
        ("12-3", {"start_page": "12-3"}, ("12-3", ""), {"rft.spage": "12-3"}),
        (
            "34:1-34:10",
            {"start_page": "34:1", "end_page": "34:10"},
            ("34:1", "34:10"),
            {"rft.spage": "34:1", "rft.epage": "34:10"},
        ),
        ("S1-S9", {"start_page": "S1", "end_page": "S9"}, ("S1", "S9"), {"rft.spage": "S1", "rft.epage": "S9"}),
        ("ix-xii", {"start_page": "ix", "end_page": "xii"}, ("ix", "xii"), {"rft.spage": "ix", "rft.epage": "xii"}),
        (
            "A-1--A-9",
            {"start_page": "A-1", "end_page": "A-9"},
            ("A-1", "A-9"),
            {"rft.spage": "A-1", "rft.epage": "A-9"},
        ),
        ("1--5, 9--12", {"start_page": "1-5, 9-12"}, ("1", "12"), {"rft.pages": "1–5, 9–12"}),
        ("1, 5, 9", {"start_page": "1, 5, 9"}, ("1", "9"), {"rft.pages": "1, 5, 9"}),
    ],
)
def test_pages_in_several_ranges_lose_nothing(tmp_path, pages, ris, ends, openurl):
    record = read(tmp_path, GOOD.replace("{1--9}", f"{{{pages}}}")).records["doe2020fast"]
    (loaded,) = rispy.loads(to_ris([record]))
    assert {name: loaded[name] for name in ("start_page", "end_page") if name in loaded} == ris
    tags = dict(highwire(record))
    assert (tags["citation_firstpage"], tags.get("citation_lastpage", "")) == ends
    assert {name: value for name, value in parse_qsl(coins(record)) if "page" in name} == openurl


@pytest.mark.parametrize(
    ("pages", "told"), [("1--9", "1-9"), ("34:1-34:10", "34:1-34:10"), ("A-1--A-9", "A-1–A-9"), ("12-3", "12-3")]
)
def test_pages_in_csl_have_hyphens_where_these_can_only_be_those_of_ranges(tmp_path, pages, told):
    record = read(tmp_path, GOOD.replace("{1--9}", f"{{{pages}}}")).records["doe2020fast"]
    assert to_csl([record])[0]["page"] == told


def test_csl_has_what_citation_processors_need(records):
    types = {"article", "article-journal", "book", "chapter", "paper-conference", "report", "thesis"}
    known = {"id", "type", "title", "author", "issued", "container-title", "volume", "issue", "page", "number"}
    known |= {"publisher", "DOI", "URL", "genre"}
    items = json.loads(to_csl_json(records.values()))
    assert items == to_csl(records.values())
    for item in items:
        assert set(item) <= known
        assert item["type"] in types
        assert item["issued"]["date-parts"][0][0] == records[item["id"]].year
        assert all(set(author) <= {"family", "given", "suffix"} and author["family"] for author in item["author"])


def test_others_and_bodies_stay_what_they_are_in_every_export(tmp_path):
    authors = "{Barnes and Noble, Inc.} and van den Berg, Anna and others"
    found = read(tmp_path, GOOD.replace("van den Berg, Anna and Doe, Jr., John and {\\'E}cole, {\\L}ukasz", authors))
    record = found.records["doe2020fast"]
    assert found.problems == []
    assert (record.et_al, record.short_authors()) == (True, "Barnes and Noble, Inc. et al.")
    assert record.author_names() == ["Barnes and Noble, Inc.", "Anna van den Berg", "et al."]
    (item,) = to_csl([record])
    assert item["author"] == [{"literal": "Barnes and Noble, Inc."}, {"family": "van den Berg", "given": "Anna"}]
    assert item["note"] == "There are more authors (et al.)."
    (loaded,) = rispy.loads(to_ris([record]))
    assert loaded["authors"] == ["Barnes and Noble Inc.", "van den Berg, Anna"]
    assert loaded["notes"] == ["There are more authors (et al.)."]
    assert '"Barnes and Noble, Inc.; van den Berg, Anna; et al."' in to_csv([record])
    assert "others" not in to_ris([record]) + to_csl_json([record]) + to_csv([record])
    assert ("rft.aucorp", "Barnes and Noble, Inc.") in parse_qsl(coins(record))
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_one_author_of_many_is_said_to_have_company():
    assert Record("k", "misc", "T", (Person("Doe", "Jo"),), 2020, et_al=True).short_authors() == "Doe et al."


def test_the_address_of_an_old_doi_can_be_followed():
    record = Record("k", "misc", "T", (Person("Doe"),), 1990, doi="10.1002/(SICI)1097(1990)41:6<391::AID>3.0.CO;2-9#x")
    assert record.links() == [("DOI", "https://doi.org/10.1002/(SICI)1097(1990)41:6%3C391::AID%3E3.0.CO;2-9%23x")]


def test_citations_say_what_readers_can_follow():
    citations = read_citations(sources().citations)
    assert citations.problems == []
    assert {edge.kind for edge in citations.edges} == set(KINDS)
    for edge in citations.edges:
        assert not re.search(r"\bstored\b|\bfile id\b", edge.evidence), edge


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,b,somewhere,bibliografy", "did you mean `bibliography`"),
        ("a,a,somewhere,bibliography", "cannot cite itself"),
        ("a,b,somewhere", "has 4 columns"),
        ("a,c,elsewhere,bibliography", "stands here twice"),
    ],
)
def test_faults_of_citations(tmp_path, row, said):
    path = tmp_path / "citations.csv"
    path.write_text(f"citing_key,cited_key,evidence,kind\na,c,here,bibliography\n{row}\n", encoding="utf-8")
    found = read_citations(path)
    (problem,) = found.problems
    assert problem.line == 3
    assert said in problem.message
    assert len(found.edges) == 1


HEAD = "citing_key,cited_key,evidence,kind\n"


@pytest.mark.parametrize(
    ("content", "line", "kept"),
    [
        (b"\xef\xbb\xbf" + HEAD.encode() + b"a,b,here,bibliography\n", None, 1),
        (HEAD.encode() + b'a,b,"here,bibliography\nc,d,there,bibliography\n', 2, 1),
        (HEAD.encode() + b"a,b,h\xf6re,bibliography\nc,d,there,bibliography\n", 2, 1),
        (HEAD.encode() + b"\na,b,here,bibliography\r\n\r\nc,c,there,bibliography\r\n\n", 5, 1),
        (b"", 1, 0),
    ],
    ids=["mark", "lost-quote", "bytes", "blank-lines", "empty"],
)
def test_a_row_that_cannot_be_read_costs_no_other(tmp_path, content, line, kept):
    path = tmp_path / "citations.csv"
    path.write_bytes(content)
    found = read_citations(path)
    assert [problem.line for problem in found.problems] == ([line] if line else [])
    assert len(found.edges) == kept


def test_every_reference_list_says_where_it_was_read_and_whether_to_the_end():
    lists = read_reference_lists(sources().reference_lists)
    assert lists.problems == []
    assert len(lists.complete) == 6
    assert "wang2019see" in set(lists.lines) - set(lists.complete)
    assert not re.search(r"\bstored\b|\bfile id\b", lists.path.read_text(encoding="utf-8"))
    assert "for six works only" in completeness(3, len(lists.complete))
    assert "for 13 works only" in completeness(3, 13)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,maybe,here,3", "write yes or no"),
        ("a,yes,here,many", "how many there are"),
        ("b,yes,here,3", "stands here twice"),
        ("a,yes,,3", "only the last may be empty"),
    ],
)
def test_faults_of_reference_lists(tmp_path, row, said):
    path = tmp_path / "reference-lists.csv"
    path.write_text(f"key,complete,source,references\nb,no,here,\n{row}\n", encoding="utf-8")
    found = read_reference_lists(path)
    (problem,) = found.problems
    assert (problem.line, found.complete) == (3, [])
    assert said in problem.message


@pytest.fixture
def graph():
    """Old is cited by mid and sister, which late and later both cite; one comparison, one unverified relation."""
    years = {"old": 2015, "mid": 2018, "sister": 2018, "late": 2020, "later": 2021, "lonely": 2020}
    nodes = [Node(key, key.title(), year, f"On {key}") for key, year in years.items()]
    pairs = [
        ("mid", "old"),
        ("sister", "old"),
        ("late", "mid"),
        ("late", "sister"),
        ("later", "mid"),
        ("later", "sister"),
    ]
    citations = [Citation(citing, cited, "page 1", "bibliography") for citing, cited in pairs]
    citations.append(Citation("late", "old", "table 2", "baseline-comparison"))
    return Graph(
        nodes,
        [*citation_edges(citations), Edge("lonely", "old", "builds-on", "relation", "unverified", False)],
        complete_lists=10,
    )


def test_prior_and_derivative_works(graph):
    prior = {one.node.key: (one.link, one.shared) for one in graph.prior("mid")}
    assert prior == {"old": ("cited", ()), "sister": ("shared", ("late", "later"))}
    derivative = {one.node.key: (one.link, one.shared) for one in graph.derivative("late")}
    assert derivative == {"later": ("shared", ("mid", "sister"))}
    assert [one.node.key for one in graph.derivative("old")] == ["mid", "sister"]


def test_a_verified_relation_makes_a_work_prior_or_derivative_and_comes_first(graph):
    said = [("later", "old", "builds-on", True), ("old", "lonely", "superseded-by", True)]
    said += [("late", "old", "extends", False), ("lonely", "mid", "criticises", True)]
    edges = [Edge(*ends, kind, "relation", "page 2", verified) for *ends, kind, verified in said]
    grown = Graph(graph.nodes.values(), [*graph.edges, *edges])
    assert [(one.node.key, one.link) for one in grown.derivative("old")] == [
        ("lonely", "built"),
        ("later", "built"),
        ("mid", "cited"),
        ("sister", "cited"),
    ]
    assert [one.node.key for one in grown.prior("lonely")] == ["old"]
    assert [one.node.key for one in grown.prior("later")] == ["old", "mid", "sister"]


def test_a_derivative_work_is_not_prior_too(graph):
    edges = [Edge("sister", "mid", "builds-on", "relation", "page 2")]
    grown = Graph(graph.nodes.values(), [*graph.edges, *edges])
    assert [one.node.key for one in grown.derivative("mid")] == ["sister", "late", "later"]
    assert [one.node.key for one in grown.prior("mid")] == ["old"]


def test_around_and_path_follow_verified_edges_only(graph):
    assert set(graph.around("old", 1).nodes) == {"old", "mid", "sister", "late"}
    assert [(edge.source, edge.target) for edge in graph.path("later", "old")] in (
        [("later", "mid"), ("mid", "old")],
        [("later", "sister"), ("sister", "old")],
    )
    with pytest.raises(NoPath):
        graph.path("lonely", "old")


def test_a_part_still_knows_how_complete_the_whole_is(graph):
    assert graph.around("later", 1).note() == graph.note()
    assert graph.note().startswith("6 citations")
    assert "ten works only" in graph.around("later", 1).verified().note()


def test_formats(graph, tmp_path):
    assert {edge["kind"] for edge in json.loads(FORMATS["json"](graph))["edges"]} == {
        "bibliography",
        "baseline-comparison",
        "builds-on",
    }
    path = Path(tmp_path, "graph.graphml")
    path.write_text(FORMATS["graphml"](graph), encoding="utf-8")
    assert set(networkx.read_graphml(path)) == set(graph.nodes)
    assert "lonely -.->|builds on (unverified)| old" in FORMATS["mermaid"](graph)
    assert 'lonely -> old [label = "builds on (unverified)", style = dashed' in FORMATS["dot"](graph)


@pytest.mark.parametrize(
    "fields",
    [
        {"journal": "ArXiv", "volume": "abs/2006.04152"},
        {"journal": "arXiv", "volume": "2006.04152v3"},
        {"journal": "CoRR", "volume": "abs/2006.04152"},
        {"note": "arXiv preprint, 2006.04152"},
    ],
)
def test_arxiv_is_known_from_a_journal_and_its_volume(fields):
    assert arxiv_id(fields) == "2006.04152"
    assert arxiv_id({"journal": "A Journal", "volume": "2006.04152"}) == ""
