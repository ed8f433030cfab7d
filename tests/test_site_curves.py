"""How the site draws several curves, names the data behind them, and which names of methods its page understands."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from eelit.catalog.sources import sources
from eelit.methods.harness import summary
from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator import board, compared, looks, plots, tested
from eelit.site.generator.collection import gather
from eelit.site.generator.pages import pages
from eelit.site.generator.reports import read_reports

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Return the real collection with the results that are kept."""
    reports, _ = read_reports(tmp_path_factory.mktemp("reports") / "none")
    return gather(sources(), reports)


@pytest.fixture(scope="module")
def groups(collection):
    return compared.compared(collection, collection.boards["text"])


def test_what_a_page_says_of_itself_stands_first_in_it(collection):
    """A line before it, as of a macro, would make it text."""
    every = dict(pages(collection, ROOT))
    told = {name: text for name, text in every.items() if name.endswith(".md") and "\ntitle: " in text[:500]}
    assert len(told) > 200
    assert [name for name, text in told.items() if not text.startswith("---\n")] == []


def lines(count):
    return [plots.Line(f"line {i}", [(0.2, 0.1 * i, "knob 1"), (1.0, 1.0, "knob 2")]) for i in range(count)]


def ranges(spec):
    line, point = spec["layer"]
    colours = len(point["encoding"]["color"]["scale"]["domain"])
    dashes, shapes = line["encoding"]["strokeDash"]["scale"]["range"], point["encoding"]["shape"]["scale"]["range"]
    return [(i % looks.COLOURS, tuple(dashes[i]), shapes[i]) for i in range(colours)]


def test_no_two_of_many_lines_look_alike():
    every = [looks.look(i) for i in range(looks.MOST)]
    assert looks.MOST >= 36
    assert len({(look.colour, look.dash) for look in every}) == looks.MOST
    assert len({(look.colour, look.shape) for look in every}) == looks.MOST


def test_vega_the_picture_and_the_swatch_have_the_same_look():
    drawn = lines(36)
    for number, (colour, dash, shape) in enumerate(ranges(plots.spec(drawn, "accuracy"))):
        look = looks.look(number)
        assert (look.colour, look.dash, look.shape) == (colour, dash, shape)
    picture = str(board.draw(drawn, "accuracy", "p"))
    parts = re.findall(r'<g class="ee-ink-(\d+)"><title>line (\d+)</title>(.*?)</g>', picture)
    assert len(parts) == 36
    for colour, number, inside in parts:
        sample = str(looks.swatch(int(number)))
        assert f"ee-ink-{colour}" in sample
        dash = re.findall(r'stroke-dasharray="[^"]*"', inside)
        assert dash == re.findall(r'stroke-dasharray="[^"]*"', sample)
        assert looks.SHAPES[looks.look(int(number)).shape] in inside
        assert looks.SHAPES[looks.look(int(number)).shape] in sample


def test_the_style_sheet_knows_each_colour():
    sheet = (Path(__file__).parent.parent / "site" / "theme" / "assets" / "eelit.css").read_text(encoding="utf-8")
    for colour in range(looks.COLOURS):
        assert f".ee-ink-{colour} {{ color: var(--ee-plot-{colour}); }}" in sheet
        assert sheet.count(f"--ee-plot-{colour}:") == 2  # light and dark


def test_curves_stand_in_the_order_of_names_and_the_table_in_that_of_results(groups):
    names = [line.name for line in groups[0].lines]
    assert names == sorted(names, key=str.casefold)
    assert [line.name for line in groups[0].rows] != names


def test_every_measured_point_says_its_setting(collection, groups):
    for key in collection.boards["text"].verdicts:
        for _, _, drawn in compared.of_method(collection, key):
            assert all(knob for line in drawn for _, _, knob in line.points), key
    static = next(
        line for _, _, drawn in compared.of_method(collection, "zhou2020pabee") for line in drawn
        if line.name == "static exit"
    )  # fmt: skip
    assert [knob for _, _, knob in static.points][:2] == ["exit 1", "exit 2"]


def test_groups_are_named_for_their_data_and_not_for_a_method(collection, groups):
    headings = [group.heading for group in groups]
    assert headings[0] == "Accuracy, sentences of Rotten Tomatoes"
    assert "Accuracy, stream of IMDB reviews" in headings
    assert len(set(headings)) == len(headings)
    assert groups[0].examples == "2,000 test sentences of Rotten Tomatoes"
    names = [work.entry.short_name for work in collection.works.values()]
    for heading in headings:
        assert not any(re.search(rf"\b{re.escape(name)}\b", heading) for name in names)


@pytest.mark.parametrize(
    ("settings", "sizes", "said"),
    [
        ({"stream": "'imdb'", "corpus": "'rotten-tomatoes'", "reviews": "2000"}, "", "a stream of 2,000 IMDB reviews"),
        ({"corpus": "'brown'"}, "10 / 10 / 1000", "1,000 test sentences of the Brown corpus"),
        ({"corpus": "'moths'"}, "1 / 2 / 3", "3 test examples of moths"),
        ({}, "", "test examples"),
    ],
)
def test_examples_in_words(settings, sizes, said):
    assert tested.examples(SimpleNamespace(settings=settings, sizes=sizes)) == said


def test_the_page_knows_the_names_that_the_command_line_knows(collection, groups):
    block = str(compared.names(collection))
    known = json.loads(re.search(r">(.*)<", block)[1])
    assert known["pabee"] == known["zhou2020pabee"] == ["zhou2020pabee"]
    aliases = {alias: key for key, work in collection.works.items() for alias in work.entry.aliases}
    assert aliases
    for alias, key in aliases.items():
        assert key in known[compared.fold(alias)]
    assert set(collection.works) <= set(known)


def test_a_verdict_for_want_of_seeds_says_how_many_are_needed(collection):
    from eelit.site.generator.pages import environment

    verdict = summary.Verdict("n", "s", "too few seeds", 2, 2, [], "", True)
    macros = environment().get_template("macros.html.j2").module
    assert "held with 2 of 2 seeds; 3 are needed" in macros.verdict(verdict)
    full = summary.Verdict("n", "s", "holds", 3, 3, [], "", True)
    assert str(macros.verdict(full)).endswith("held with 3 of 3 seeds</span>")


def test_verdicts_of_several_tracks_each_name_theirs(collection):
    from eelit.site.generator.pages import environment

    boards = {name: board for name, board in collection.boards.items() if "kaya2019sdn" in board.verdicts}
    assert len(boards) > 1
    every = collection.verdicts("kaya2019sdn")
    assert [each.track for each in every] == [
        TRACKS[name].title for name, board in boards.items() for _ in board.verdicts["kaya2019sdn"]
    ]
    macros = environment().get_template("macros.html.j2").module
    assert f"on the track {every[0].track}" in macros.verdict(every[0])
    board = next(iter(boards.values()))
    on_one = [verdict for trial in collection.trials("kaya2019sdn", board) for verdict in trial.verdicts]
    assert on_one
    assert {verdict.track for verdict in on_one} == {""}  # the page of a track need not say which
