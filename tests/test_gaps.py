"""What has been tried and what has not: counted by hand on a few made works, and the same on page and command line."""

import json

import pytest

from eelit.catalog.gaps import Cell, Gap, above, cells, gaps

CARRIED = {
    "a": {"placement": {"layer"}, "policy": {"sure"}, "training": {"joint"}},
    "b": {"placement": {"layer", "token"}, "policy": {"sure", "agree"}, "training": {"joint"}},
    "c": {"placement": {"token"}, "policy": {"agree"}, "training": {"two"}},
    "d": {"placement": {"token"}, "policy": {"sure"}, "training": {"two"}},
    "e": {"placement": {"token"}, "policy": {"agree"}, "training": {"two"}},
}


def test_terms_bring_along_what_stands_above_them():
    assert above(["x"], {"x": "y", "y": "z", "z": None, "w": "z"}) == {"x", "y", "z"}
    assert above(["x"], {"x": "y", "y": "x"}) == {"x", "y"}  # a circle ends


def test_cells_count_works_once_in_each_place_they_belong():
    found = cells(CARRIED, {"b"}, ["layer", "token"], ["sure", "agree"])
    assert found["layer", "sure"] == Cell(("a", "b"), ("b",))
    assert found["token", "agree"] == Cell(("b", "c", "e"), ("b",))
    assert cells(CARRIED, {"b"}, ["layer"], ["agree"], "two")["layer", "agree"] == Cell()


def test_a_gap_is_joined_two_by_two_and_never_all_three():
    works = {
        **{f"p{i}": {"placement": {"layer"}, "policy": {"sure"}, "training": set()} for i in range(2)},
        **{f"q{i}": {"placement": {"layer"}, "policy": set(), "training": {"joint"}} for i in range(3)},
        **{f"r{i}": {"placement": set(), "policy": {"sure"}, "training": {"joint"}} for i in range(2)},
    }
    assert gaps(works, ["layer"], ["sure"], ["joint"], {}) == [Gap("layer", "sure", "joint", (2, 3, 2))]
    works["s"] = {"placement": {"layer"}, "policy": {"sure"}, "training": {"joint"}}
    assert gaps(works, ["layer"], ["sure"], ["joint"], {}) == []
    del works["s"], works["p1"]
    assert gaps(works, ["layer"], ["sure"], ["joint"], {}) == []  # one work alone is no common pair


def test_what_follows_from_a_broader_gap_is_not_told_again():
    works = {
        **{f"p{i}": {"placement": {"layer"}, "policy": {"sure", "entropy"}, "training": set()} for i in range(2)},
        **{f"q{i}": {"placement": {"layer"}, "policy": set(), "training": {"joint"}} for i in range(2)},
        **{f"r{i}": {"placement": set(), "policy": {"sure", "entropy"}, "training": {"joint"}} for i in range(2)},
    }
    both = ["sure", "entropy"]
    assert len(gaps(works, ["layer"], both, ["joint"], {})) == 2
    (told,) = gaps(works, ["layer"], both, ["joint"], {"policy": {"entropy": "sure", "sure": None}})
    assert told.policy == "sure"
    works["s"] = {"placement": {"layer"}, "policy": {"sure"}, "training": {"joint"}}  # the broader one is no gap now
    (told,) = gaps(works, ["layer"], both, ["joint"], {"policy": {"entropy": "sure", "sure": None}})
    assert told.policy == "entropy"


@pytest.fixture
def told(eelit, database, monkeypatch):
    monkeypatch.setenv("EELIT_DB", str(database))
    return lambda *words: eelit("gaps", *words)


def test_a_cell_holds_what_find_finds(told, eelit):
    document = json.loads(told("--format", "json").stdout)
    assert any(cell["works"] for cell in document["cells"])
    for cell in document["cells"][:12]:
        found = eelit(
            "find", "--placement", cell["placement"], "--policy", cell["policy"], "--format", "json", "--limit", 0
        )
        assert sorted(cell["works"]) == sorted(work["key"] for work in json.loads(found.stdout)["works"])


def test_the_table_says_what_its_numbers_mean(told):
    found = told("--training", "joint")
    assert found.exit_code == 0
    assert "NEVER ALL THREE" in found.stdout
    assert "need not be one in the literature" in " ".join(found.stdout.split())


def test_an_unknown_term_is_one_sentence(told):
    found = told("--training", "jiont")
    assert found.exit_code == 2
    assert "`jiont` is not a term of training; did you mean `joint`?" in found.stderr
