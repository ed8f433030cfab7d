"""Measures of the citation graph, on graphs small enough to count by hand."""

import json
import re
from itertools import combinations

import networkx
import numpy as np
import pytest

from eelit.bib import matrices
from eelit.bib.graph import Edge, Graph, Node
from eelit.bib.measures import alone, co_citation, communities, coupling, main_path, marked


def made(*cites, more=()):
    """Return a graph of citations written `ab`: a cites b."""
    keys = sorted({key for pair in cites for key in pair} | set(more))
    edges = [Edge(a, b, "bibliography", "citation", "x") for a, b in cites]
    return Graph([Node(key, key, 2020, key) for key in keys], edges)


def made_with(relations, more=()):
    keys = sorted({key for pair, _ in relations for key in pair} | set(more))
    edges = [Edge(a, b, "builds-on", "relation", "x", verified) for (a, b), verified in relations]
    return Graph([Node(key, key, 2020, key) for key in keys], edges)


def test_pairs_need_two_works_that_join_them():
    graph = made("xa", "xb", "ya", "yb", "yc", "zc")
    assert [(p.one, p.other, p.through) for p in co_citation(graph)] == [("a", "b", ("x", "y"))]
    assert [(p.one, p.other, p.through) for p in coupling(graph)] == [("x", "y", ("a", "b"))]


def test_pairs_agree_with_matrix_products():
    graph = made("xa", "xb", "xc", "ya", "yb", "zb", "zc", "za", "wx", "wy")
    matrix = networkx.to_numpy_array(
        graph.to_networkx(), nodelist=(order := sorted(graph.nodes)), multigraph_weight=min
    )
    together, both = matrix.T @ matrix, matrix @ matrix.T
    for found, counts in ((co_citation(graph), together), (coupling(graph), both)):
        told = {(p.one, p.other): len(p.through) for p in found}
        expected = {
            (a, b): int(counts[i, j])
            for i, a in enumerate(order)
            for j, b in enumerate(order)
            if i < j and counts[i, j] > 1
        }
        assert told == expected


@pytest.mark.parametrize("seed", range(4))
def test_ranks_agree_with_networkx(seed):
    graph = networkx.gnp_random_graph(40, 0.06, seed=seed, directed=True)  # some cite nobody
    rows, columns = np.array(graph.edges, np.int64).T
    rank = matrices.pagerank(matrices.ones(rows, columns, (40, 40)))
    assert dict(enumerate(rank)) == pytest.approx(networkx.pagerank(graph, tol=1e-9), abs=1e-4)
    assert rank.sum() == pytest.approx(1)
    assert len(matrices.pagerank(matrices.ones(rows[:0], columns[:0], (0, 0)))) == 0


@pytest.mark.parametrize("at_once", [1, 50, 10**6])
def test_pairs_are_the_same_in_blocks_of_any_size(monkeypatch, at_once):
    random = networkx.gnp_random_graph(30, 0.3, seed=1, directed=True)
    graph = made(*graph_edges(random))
    monkeypatch.setattr(matrices, "AT_ONCE", at_once)
    for found, cited in ((co_citation(graph), random.predecessors), (coupling(graph), random.successors)):
        expected = {
            tuple(sorted((str(a), str(b)))): tuple(sorted(map(str, both)))
            for a, b in combinations(random, 2)
            if len(both := {*cited(a)} & {*cited(b)}) > 1
        }
        assert {(p.one, p.other): p.through for p in found} == expected
        order = [(-len(p.through), p.one, p.other) for p in found]
        assert order == sorted(order)
    monkeypatch.setattr("eelit.bib.measures.MOST_PAIRS", 3)
    assert co_citation(graph) == [p for p in co_citation(graph) if len(p.through) > 1][:3]


def graph_edges(graph):
    return [(str(a), str(b)) for a, b in graph.edges if a != b]


def test_the_main_path_runs_where_most_ways_run():
    # a <- b <- c <- e and a <- b <- d <- e: b to e by two ways; f is a short cut that few take
    assert main_path(made("ba", "cb", "db", "ec", "ed", "ef"))[:2] == ["a", "b"]
    assert main_path(made("ba", "cb", "db", "ec", "ed", "ef"))[-1] == "e"
    assert main_path(made(more="a")) == []


def test_circles_do_not_stop_the_main_path():
    assert main_path(made("ba", "ab", "cb")) == ["b", "c"]


def test_communities_are_what_hangs_together_and_the_same_every_time():
    two = [(pair, True) for pair in ("ab", "bc", "ca", "de", "ef", "fd", "cd")]
    found = communities(made_with(two))
    assert sorted(map(sorted, found)) == [["a", "b", "c"], ["d", "e", "f"]]
    assert found == communities(made_with(two))


def test_large_graphs_have_communities_too(monkeypatch):
    monkeypatch.setattr("eelit.bib.measures.MOST_FOR_LOUVAIN", 0)
    graph = made_with([(pair, True) for pair in ("ab", "bc", "ca", "de", "ef", "fd")])
    found = communities(graph)
    assert sorted(map(sorted, found)) == [["a", "b", "c"], ["d", "e", "f"]]
    assert found == communities(graph)


def test_recalled_relations_join_nobody():
    graph = made_with([("ab", True), ("bc", False)], more="d")
    assert communities(graph) == [["a", "b"]]
    assert alone(graph) == ["c", "d"]


def test_a_community_is_named_by_what_sets_it_apart():
    terms = {"a": ["text", "rare"], "b": ["text", "rare"], "c": ["text"], "d": ["text"], "e": ["text"]}
    (found,) = marked([["a", "b", "c"]], terms)
    # all are about text: that marks nobody
    assert (found.mark, round(found.share, 2), found.elsewhere) == ("rare", 0.67, 0)
    assert marked([["d", "e"]], terms)[0].mark == ""


def test_no_term_marks_two_communities_and_the_one_it_sets_apart_most_has_it():
    groups = [["a", "b", "c"], ["d", "e"], ["f", "g"]]
    terms = {"a": ["deep"], "b": ["deep"], "c": ["own"], "d": ["deep", "next"], "e": ["deep", "next"]}
    found = marked(groups, terms | {"f": ["deep"], "g": ["alone"]})
    assert [one.mark for one in found] == ["", "next", ""], "one work alone, or what others carry as often, is no mark"
    found = marked(groups, {"a": ["deep"], "b": ["deep"], "c": [], "d": ["deep"], "e": ["deep"], "f": [], "g": []})
    assert [(one.mark, one.share, one.elsewhere) for one in found] == [("", 0, 0), ("deep", 1, 0.4), ("", 0, 0)]


def test_page_and_command_line_tell_the_same_marks(eelit, database, monkeypatch, built_site):
    monkeypatch.setenv("EELIT_DB", str(database))
    told = json.loads(eelit("graph", "--measures", "--format", "json").stdout)["communities"]
    marks = [one["mark"] for one in told if one["mark"]]
    assert len(set(marks)) == len(marks) > 3
    text = (built_site / "graph.html").read_text(encoding="utf-8")
    part = text[text.index('id="communities"') : text.index('id="co-citation"')]
    rows = re.findall(r"<tr><th scope=.?row.?>([^<]*)</th>((?:<td class=.?num.?>[^<]*</td>)+)", part)
    numbers = [re.findall(r">([^<]+)</td>", cells) for _, cells in rows]
    expected = [
        [f"{100 * one['share']:.0f} %", f"{100 * one['elsewhere']:.0f} %", str(len(one["members"]))] for one in told
    ]
    assert numbers == expected
    assert len({name for name, _ in rows}) == len(rows)


@pytest.mark.parametrize("style", ["table", "json"])
def test_the_command_line_tells_them_and_how_complete_they_are(eelit, database, monkeypatch, style):
    monkeypatch.setenv("EELIT_DB", str(database))
    found = eelit("graph", "--measures", "--format", style)
    assert found.exit_code == 0
    if style == "json":
        told = json.loads(found.stdout)
        assert {"co_citation", "coupling", "main_path", "communities", "alone"} <= set(told)
        assert told["communities"][0]["members"]
        assert "ten works" in told["note"]
    else:
        assert "ten works" in found.stderr
        assert "MAIN PATH" in found.stdout
        assert "Two works are cited together" in " ".join(found.stdout.split())


def test_measures_have_no_other_format(eelit, database, monkeypatch):
    monkeypatch.setenv("EELIT_DB", str(database))
    found = eelit("graph", "--measures", "--format", "dot")
    assert found.exit_code == 2
    assert "table or json" in found.stderr


def test_a_relation_is_listed_once(eelit, database, monkeypatch):
    monkeypatch.setenv("EELIT_DB", str(database))
    lines = [line.strip() for line in eelit("graph", "--around", "pabee").stdout.splitlines() if "builds on" in line]
    assert lines
    assert len(lines) == len(set(lines))
