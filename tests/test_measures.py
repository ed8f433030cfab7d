"""Measures of the citation graph, on graphs small enough to count by hand."""

import json
import re
from itertools import combinations

import networkx
import numpy as np
import pytest
from scipy import sparse

from eelit.bib import matrices
from eelit.bib.graph import Edge, Graph, Node
from eelit.bib.measures import alone, co_citation, communities, coupling, main_path, marked
from eelit.catalog.graph import collection
from eelit.catalog.query import Catalogue


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


def test_pairs_transpose_each_citation_once_however_many_blocks(monkeypatch):
    """Works with thousands of citations make many blocks; transposing all the rest for each took most of the time."""
    transposed, tocsr = [], sparse.csc_array.tocsr
    monkeypatch.setattr(sparse.csc_array, "tocsr", lambda self: transposed.append(self.nnz) or tocsr(self))
    monkeypatch.setattr(matrices, "AT_ONCE", 50)
    random = networkx.gnp_random_graph(30, 0.3, seed=1, directed=True)
    assert coupling(made(*graph_edges(random)))
    assert len(transposed) > 10
    assert sum(transposed) == random.number_of_edges()


def graph_edges(graph):
    return [(str(a), str(b)) for a, b in graph.edges if a != b]


def test_the_main_path_runs_where_most_ways_run():
    # a <- b <- c <- e and a <- b <- d <- e: b to e by two ways; f is a short cut that few take
    assert main_path(made("ba", "cb", "db", "ec", "ed", "ef"))[:2] == ["a", "b"]
    assert main_path(made("ba", "cb", "db", "ec", "ed", "ef"))[-1] == "e"
    assert main_path(made(more="a")) == []


def counted(edges):
    """Return the weight of every edge by whole numbers of any size, and the heaviest chain, edges from old to new."""
    flow = networkx.DiGraph(sorted(edges))
    order = list(networkx.topological_sort(flow))
    before, after = {}, {}
    for node in order:
        before[node] = sum(before[other] for other in flow.predecessors(node)) or 1
    for node in reversed(order):
        after[node] = sum(after[other] for other in flow.successors(node)) or 1
    weights = {(one, other): before[one] * after[other] for one, other in flow.edges}
    heavy, via = {}, {}
    for node in order:
        sums = {other: heavy[other] + weights[other, node] for other in sorted(flow.predecessors(node))}
        heavy[node] = max(sums.values(), default=0)
        via[node] = next((other for other, each in sums.items() if each == heavy[node]), None)
    chain = [min(node for node in order if heavy[node] == max(heavy.values()))]
    while via[chain[-1]] is not None:
        chain.append(via[chain[-1]])
    return weights, chain[::-1]


def cited(edges):
    """Return a graph of citations from edges old → new of numbers, whose order is that of their keys."""
    pairs = [(f"{new:06}", f"{old:06}") for old, new in edges]
    return Graph(
        [Node(key, key, 2020, key) for key in {key for pair in pairs for key in pair}],
        [Edge(*pair, "bibliography", "citation", "x") for pair in pairs],
    )


def test_the_main_path_of_the_catalogue_is_that_of_whole_numbers(database):
    graph = collection(Catalogue(str(database)))
    edges = {(edge.target, edge.source) for edge in graph.edges if edge.group == "citation" and edge.verified}
    assert main_path(graph) == counted(edges)[1]
    assert len(main_path(graph)) > 5


@pytest.mark.parametrize("seed", range(8))
def test_the_main_path_is_the_heaviest_chain_however_many_ways_there_are(seed):
    """With 300 works and 13,000 citations there are more ways than 2**60, so that counts are rounded."""
    size, share = ((30, 0.2), (300, 0.3))[seed % 2]
    edges = [
        edge for edge in networkx.gnp_random_graph(size, share, seed=seed, directed=True).edges if edge[0] < edge[1]
    ]
    weights, chain = counted(edges)
    assert (max(weights.values()) > 2**60) == (size == 300)
    assert main_path(cited(edges)) == [f"{node:06}" for node in chain]


@pytest.mark.parametrize("forks", [20, 40, 3_000])
def test_of_chains_alike_the_first_by_key_is_taken_even_where_numbers_have_a_thousand_digits(forks):
    """Each fork doubles the ways: 3 to 1 and 2, both to 0 and so on, the newest work first by key."""
    edges = [
        edge
        for at in range(0, 3 * forks, 3)
        for edge in ((at + 3, at + 1), (at + 3, at + 2), (at + 1, at), (at + 2, at))
    ]
    path = [f"{at:06}" for at in range(3 * forks, -1, -1) if at % 3 != 2]
    assert main_path(cited(edges)) == path
    aside = [(3 * forks + 9, 3 * forks + 3), (3 * forks + 3, 3 * forks)]  # older works, before the first fork
    assert main_path(cited([*edges, *aside])) == [f"{3 * forks + 9:06}", f"{3 * forks + 3:06}", *path]


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
        assert "six works" in told["note"]
    else:
        assert "six works" in found.stderr
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
