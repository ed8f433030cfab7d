"""`eelit find`, `show`, `taxonomy` and `cite`: what they print, in which format, with which exit code."""

import json
import re

import bibtexparser
import pytest
import rispy

from eelit.catalog.query import FACETS, WORK_FIELDS


@pytest.fixture(autouse=True)
def _use(database, monkeypatch):
    monkeypatch.setenv("EELIT_DB", str(database))


def test_patience_names_its_four(eelit):
    found = eelit("find", "--policy", "patience", "--format", "keys")
    assert found.exit_code == 0
    assert {"zhou2020pabee", "zhang2022pceebert", "gao2023pfberxit", "zhu2021leebert"} <= set(found.stdout.split())


def test_confidence_includes_its_narrower_terms(eelit):
    confident = set(eelit("find", "--policy", "confidence", "--format", "keys", "--limit", 0).stdout.split())
    for narrower in ("entropy", "max-confidence"):
        works = set(eelit("find", "--policy", narrower, "--format", "keys", "--limit", 0).stdout.split())
        assert works
        assert works <= confident


def test_the_table_shows_the_next_step(eelit):
    found = eelit("find", "--policy", "confidence", "--limit", 3)
    assert found.stdout.splitlines()[0].split() == ["key", "short", "name", "year", "policy", "title"]
    assert "To narrow further" in found.stdout
    assert "--domain" in found.stdout
    assert "--policy" not in found.stdout  # a second term of the same facet would widen the result
    assert "--limit 0 shows all" in found.stderr


def test_json_is_one_document(eelit):
    data = json.loads(eelit("find", "--policy", "patience", "--format", "json").stdout)
    assert data["total"] == len(data["works"])
    assert set(data["works"][0]) == set(WORK_FIELDS)
    assert data["counts"]["policy"]["patience"] == data["total"]


def test_tsv_and_fields(eelit):
    lines = eelit("find", "--text", "pabee", "--format", "tsv", "--fields", "key, year,policy").stdout.splitlines()
    assert lines[0] == "key\tyear\tpolicy"
    assert "zhou2020pabee\t2020\tpatience" in lines


def test_bibtex_of_a_search(eelit):
    text = eelit("find", "--policy", "patience", "--format", "bibtex").stdout
    assert "zhou2020pabee" in [entry.key for entry in bibtexparser.parse_string(text).entries]


@pytest.mark.parametrize(
    ("years", "expected"),
    [("2010", {2010}), ("..2015", {2010, 2015}), ("2019..2021", {2019, 2020, 2021}), ("2024..", {2024, 2025, 2026})],
)
def test_years(eelit, years, expected):
    data = json.loads(eelit("find", "--year", years, "--format", "json", "--limit", 0).stdout)
    assert {work["year"] for work in data["works"]} == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy", "patence"], "did you mean `patience`"),
        (["--year", "twenty"], "is not a year or a range"),
        (["--fields", "titel"], "did you mean `title`"),
        (["--sort", "relevance"], "--sort relevance needs --text"),
        (["--limit", "-1"], "not in the range"),
        (["--text", "!?"], "holds no word"),
        (["--text", " ".join(f"w{n}" for n in range(1_000))], "1000 different words are too many"),
        (["--text", ""], "nothing is given to look for"),
        (["--author", " "], "nothing is given to look for"),
        (["--venue", ""], "nothing is given to look for"),
        (["--fields", ""], "unknown field ``"),
        (["--limit", "9" * 20], "not in the range"),
        (["--year", "2021..2019"], "ends before it begins; write 2019..2021"),
        (["--domain", "LLM"], "it is called `text-generation` here"),
        (["--domain", "diffusion"], "it is called `image-generation` here"),
        (["--domain", "vision-language-action"], "it is called `robot-control` here"),
        (["--polcy", "patience"], "--policy"),
    ],
)
def test_wrong_usage_is_2(eelit, words, said):
    found = eelit("find", *words)
    assert found.exit_code == 2
    assert said in found.stderr
    assert found.stdout == ""


def test_a_word_said_often_is_one_word(eelit):
    found = eelit("find", "--text", "patience " * 1_000, "--format", "keys")
    assert found.stdout == eelit("find", "--text", "patience", "--format", "keys").stdout != ""


@pytest.mark.parametrize("years", ["0000", "..0000", "9999"])
def test_a_year_without_works_finds_nothing(eelit, years):
    assert eelit("find", "--year", years).exit_code == 1


@pytest.mark.parametrize("text", ["LLM", "llms", "early exit LLM", "large language model", "Large Language Models"])
def test_decoders_are_found_by_what_people_call_them(eelit, text):
    found = eelit("find", "--text", text, "--format", "keys", "--limit", 0).stdout.split()
    assert {"schuster2022calm", "bae2023free", "kim2023bild"} <= set(found)
    assert len(found) < 40  # not every work on language
    assert "huang2018msdnet" not in found


@pytest.mark.parametrize("name", ["Smieja", "Śmieja", "SMIEJA", "śmieja"])
def test_names_are_found_without_their_accents(eelit, name):
    for option in ("--text", "--author"):
        assert "wolczyk2021ztw" in eelit("find", option, name, "--format", "keys").stdout.split()


def test_nothing_found_is_1(eelit):
    for style in ("table", "keys", "json", "tsv", "bibtex"):
        found = eelit("find", "--text", "zeppelin", "--format", style)
        assert found.exit_code == 1
        assert "no work matches" in found.stderr
    assert eelit("find", "--text", "zeppelin").stdout == ""


def test_terms_are_forgiving(eelit):
    found = [
        eelit("find", "--policy", term, "--format", "keys").stdout for term in ("max-confidence", "Max Confidence")
    ]
    assert found[0] == found[1] != ""


def test_a_narrow_terminal_cuts_all_but_keys(eelit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    lines = eelit("find", "--policy", "patience").stdout.splitlines()
    assert all(len(line) <= 70 for line in lines)
    assert "zhang2022pceebert" in "".join(lines)
    assert "…" in lines[1]


def test_bold_is_left_out_where_it_is_not_wanted(monkeypatch):
    from eelit.cli.table import bold

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert bold("x") == "\033[1mx\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert bold("x") == "x"


def test_no_colour_outside_of_terminals(eelit):
    assert "\033[" not in eelit("find").stdout


def test_show_is_complete_and_honest(eelit):
    text = eelit("show", "pabee").stdout
    for heading in ("IDEA", "EXIT RULE", "WHAT IS SAVED", "REPORTED RESULTS", "CITES", "RELATIONS NOT VERIFIED"):
        assert heading in text
    assert "Wangchunshu Zhou" in text
    assert "https://arxiv.org/abs/2006.04152" in text
    assert "ERRATA OF THE SEED LIST" in text
    data = json.loads(eelit("show", "ZHOU2020PABEE", "--format", "json").stdout)
    assert data["key"] == data["entry"]["key"] == data["record"]["key"] == "zhou2020pabee"


def test_every_work_can_be_shown(eelit, database):
    from eelit.catalog.query import Catalogue

    for work in Catalogue(str(database)).works():
        found = eelit("show", work.key)
        assert found.exit_code == 0, found.stderr
        assert work.record.title.split()[0].rstrip(":") in found.stdout
        assert not re.search(r"\bNone\b(?! [a-z])|[{}]", found.stdout), work.key


def test_an_unknown_name_suggests_another(eelit):
    found = eelit("show", "pabe")
    assert found.exit_code == 2
    assert "no work is called `pabe`; did you mean PABEE" in found.stderr


def test_taxonomy(eelit):
    text = eelit("taxonomy", "policy").stdout
    assert "\nagreement " in text
    assert "\n  patience " in text  # indented under its broader term
    everything = eelit("taxonomy").stdout
    assert all(facet.upper() in everything for facet in FACETS)
    terms = json.loads(eelit("taxonomy", "--format", "json").stdout)
    assert {"facet", "term", "label", "definition", "broader", "example", "works", "synonyms"} == set(terms[0])
    assert eelit("taxonomy", "colour").exit_code == 2


def test_cite(eelit):
    assert "@inproceedings{zhou2020pabee," in eelit("cite", "pabee").stdout
    assert [item["id"] for item in json.loads(eelit("cite", "pabee", "calm", "--format", "csl-json").stdout)] == [
        "zhou2020pabee",
        "schuster2022calm",
    ]
    assert rispy.loads(eelit("cite", "pabee", "PABEE", "--format", "ris").stdout)[0]["id"] == "zhou2020pabee"
    assert eelit("cite").exit_code == 2


def test_graph(eelit):
    text = eelit("graph", "--around", "pabee").stdout
    assert "PRIOR WORKS" in text
    assert "DERIVATIVE WORKS" in text
    assert "builds on it" in text.partition("DERIVATIVE WORKS")[2]
    found = eelit("graph", "--path", "pabee", "branchynet")
    assert found.exit_code == 0
    assert "six works only" in found.stderr
    data = json.loads(eelit("graph", "--around", "pabee", "--format", "json").stdout)
    assert "six works only" in data["note"]
    assert {"zhou2020pabee", "kaya2019sdn"} <= {node["key"] for node in data["nodes"]}
    assert "<graphml" in eelit("graph", "--format", "graphml").stdout
    assert eelit("graph", "--around", "pabee", "--path", "a", "b").exit_code == 2


def test_a_graph_without_a_path_is_1(eelit, database):
    from eelit.catalog.graph import collection
    from eelit.catalog.query import Catalogue

    graph = collection(Catalogue(str(database))).verified()
    joined = {key for edge in graph.edges for key in (edge.source, edge.target)}
    lonely = sorted(set(graph.nodes) - joined)
    if not lonely:
        pytest.skip("every work is joined to another")
    found = eelit("graph", "--path", lonely[0], "pabee")
    assert found.exit_code == 1
    assert "no chain of known edges" in found.stderr
