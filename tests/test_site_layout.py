"""Where works stand in the graph that can be played with."""

from itertools import pairwise

import numpy as np
import pytest

from eelit.bib.graph import Edge, Graph, Node
from eelit.site.generator import explorer, layout


def made(names, edges):
    """Return a graph of works by name, all of one year; an edge is source, target, and whether it is verified."""
    nodes = [Node(name, name, 2020, name) for name in names]
    return Graph(nodes, [Edge(one, other, "builds-on", "relation", "x", sure) for one, other, sure in edges])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("PABEE", "PABEE"),
        ("Shallow-Deep Networks", "Shallow-Deep\nNetworks"),
        ("Distillation-based multi-exit training", "Distillation-\nbased multi-\nexit training"),
        ("One two three four five six seven eight nine ten eleven", "One two three\nfour five six\nseven eight…"),
        ("Incomprehensibilities", "Incomprehens…"),
        ("big/LITTLE DNN", "big/LITTLE DNN"),
    ],
)
def test_labels_are_broken_into_lines_and_cut_only_when_too_long(name, shown):
    assert layout.label(name) == shown
    assert all(layout.width(line) <= layout.WIDE for line in shown.split("\n"))


def test_places_come_from_verified_edges_alone():
    names = [f"work {i}" for i in range(12)]
    ring = [(names[i], names[(i + 1) % 8], True) for i in range(8)]
    recalled = [(names[0], names[9], False), (names[10], names[11], False)]
    without, with_them = (layout.connected(made(names, edges)) for edges in (ring, ring + recalled))
    assert without == with_them
    ((words, _, head),) = with_them.heads
    assert words == layout.APART
    heights = {name: y for name, (_, y) in with_them.places.items()}
    assert max(heights[name] for name in names[:8]) < head < min(heights[name] for name in names[8:])


@pytest.mark.parametrize("edges", [0, 40, 200])
def test_no_box_lies_upon_another(edges):
    names = [f"{'long ' * (i % 5)}name {i}" for i in range(90)]
    chance = np.random.default_rng(0)
    graph = made(names, [(names[a], names[b], True) for a, b in chance.integers(0, 60, (edges, 2))])
    size = layout.boxes(graph)
    for picture in (near := layout.connected(graph), layout.by_year(graph, near.places)):
        middle = np.array(list(picture.places.values())) + [0, 1] * (size / 2)
        lap = (size[:, None] + size[None]) / 2 - abs(middle[:, None] - middle[None])
        assert not np.triu((lap > layout.ROOM / 2).all(axis=2), 1).any(), (
            "boxes may share half of the room between them"
        )


@pytest.mark.parametrize("hub", range(6))
def test_the_work_with_most_neighbours_is_in_the_upper_left_quarter(hub):
    """There a small screen begins; whichever work has most neighbours, the picture is turned for it."""
    names = [f"Work {i}" for i in range(24)]
    chain = [(one, other, True) for one, other in pairwise(names)]
    star = [(names[hub], other, True) for other in names[hub + 2 :: 5]]
    places = layout.connected(made(names, chain + star)).places
    for axis in (0, 1):
        along = [place[axis] for place in places.values()]
        assert places[names[hub]][axis] <= (min(along) + max(along)) / 2


def test_years_stand_above_their_columns_in_order():
    graph = Graph([Node(str(year), str(year), year, "") for year in (2021, 2015, 2018)], [])
    picture = layout.by_year(graph, layout.connected(graph).places)
    assert [word for word, _, _ in picture.heads] == ["2015", "2018", "2021"]
    assert all(x == picture.places[word][0] and y < picture.places[word][1] for word, x, y in picture.heads)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("One. Two is longer.", "One. Two is longer."),
        ("One sentence. " + "Long " * 60 + "end.", "One sentence."),
        ("long " * 60 + "end. Next.", "long " * 60 + "end."),
        (
            "Costs, e.g. Energy of Xin et al. Too\nmuch. " + "X" * 250 + ".",
            "Costs, e.g. Energy of Xin et al. Too much.",
        ),
    ],
)
def test_an_idea_on_a_card_ends_at_a_sentence(text, said):
    assert explorer.beginning(text) == said
