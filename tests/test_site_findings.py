"""What the pages say was found: kinds, their best rows, and what may be called a verdict."""

from dataclasses import replace
from types import SimpleNamespace

import lxml.html
import pytest
from measured import result

from eelit.catalog.sources import sources
from eelit.methods.harness import summary
from eelit.methods.harness.paired import Interval, Standing
from eelit.site.generator import findings, kinds, reading
from eelit.site.generator.claims import Trial
from eelit.site.generator.collection import gather
from eelit.site.generator.compared import Group, Line
from eelit.site.generator.reports import read_reports

HALF = 0.5
CLAIM = SimpleNamespace(tried=["a gain"])


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Return the real collection."""
    reports, _ = read_reports(tmp_path_factory.mktemp("reports") / "none")
    return gather(sources(), reports)


def line(kind, gain, *, seeds=3, key="zhou2020pabee", level=None):
    """Return a row whose quality within half of the cost is 0.75 + gain; with `level` its samples are known."""
    row = summary.row([result(seed, gain=gain, key=key) for seed in range(seeds)], "", current=True)
    if level is not None:
        reached = row.at[HALF].mean
        quality = Interval(reached, reached - 0.01, reached + 0.01, 0.005, None, seeds)
        behind = Interval(gain, gain - 0.01, gain + 0.01, 0.005 if gain else 0.0, None, seeds)
        row = replace(row, standings={HALF: Standing(quality, 100, 0.005, behind, level)})
    return Line(f"{key}-{kind}-{gain}", f"{kind} {gain}", row, "", kind)


def contest(*lines):
    return findings.contest_of(Group(list(lines)), HALF)


def test_the_best_row_of_each_kind_leads_it_and_the_best_of_all_comes_first():
    found = contest(line("a", -0.05), line("b", -0.2), line("a", -0.1), line("b", 0.0))
    assert [(leader.kind, round(leader.gap, 3)) for leader in found.leaders] == [("b", 0), ("a", -0.05)]
    assert found.best.mean == pytest.approx(0.75)


def test_places_are_told_only_where_there_are_seeds_and_samples():
    judged = contest(line("a", 0.0, level=True), line("b", -0.01, level=True), line("c", -0.1, level=False))
    assert [leader.place for leader in judged.leaders] == ["best", "level", "behind"]
    assert judged.reservation == ""
    assert judged.is_judged
    assert [leader.kind for leader in judged.level] == ["b"]


@pytest.mark.parametrize(
    ("seeds", "level", "said"),
    [
        (1, True, "one seed: no verdict"),
        (2, True, "two seeds: no verdict"),
        (3, None, "no intervals: no verdict"),
    ],
)
def test_what_is_no_verdict_says_why(seeds, level, said):
    found = contest(line("a", 0.0, seeds=seeds, level=level), line("b", -0.1, seeds=seeds, level=level))
    assert found.reservation == said
    assert not found.is_judged
    assert {leader.place for leader in found.leaders} == {"not judged"}


def test_methods_are_counted_that_differ_from_the_simplest_rule_by_more_than_chance():
    def beside(mean, deviation, kind="a"):
        one = line(kind, 0.0)
        gain = Interval(mean, mean - 2 * deviation, mean + 2 * deviation, deviation, None, 3)
        return replace(one, row=replace(one.row, over={findings.SIMPLEST: {HALF: gain}}))

    close = beside(0.022, 0.01)  # p = 0.028: significant by itself, not as one of five
    lines = [beside(0.05, 0.01), beside(-0.05, 0.01), beside(-0.06, 0.01), close, beside(0.0, 0.0)]
    left_out = [beside(0.1, 0.01, kinds.ABLATION), line("a", -0.1)]
    assert contest(*lines, *left_out).beside == findings.Beside([lines[0]], lines[1:3], rows=5)
    assert contest(close).beside == findings.Beside([close], [], rows=1)


def verdict(judgement):
    return summary.Verdict("n", "s", judgement, 0, 3, [], "", True)


@pytest.mark.parametrize(
    ("judgements", "fate"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "does not hold here"], "holds in part"),
        (["holds in part"], "holds in part"),
        (["does not hold here", "not comparable"], "does not hold here"),
        (["too few seeds", "not comparable"], "too few seeds"),
        (["holds", "too few seeds"], "holds"),
        (["not comparable"], "not comparable"),
        ([], None),
    ],
)
def test_a_claim_holds_if_all_of_its_outcomes_do(judgements, fate):
    trials = [Trial(CLAIM, [verdict(each) for each in judgements], []), Trial(None, [verdict("holds")], [])]
    assert dict(findings.fates(trials)) == ({fate: 1} if fate else {})  # what no claim names is not counted


def test_kinds_are_the_broadest_policies_baselines_and_ablations(collection):
    assert kinds.family(collection, "halting-probability") == kinds.family(collection, "rl-agent") == "Learned rule"
    rows = [row for board in collection.boards.values() for row in board.rows]
    told = {row.id: kinds.kind(collection, row) for row in rows}
    assert told["zhang2022pceebert:t = 2"] == "Agreement"
    assert {kind for name, kind in told.items() if name.startswith("static-exit@")} == {"static exit, baseline"}
    assert told["geng2021romebert:SD only"] == kinds.ABLATION


def test_every_figure_of_the_home_page_is_that_of_the_row_it_leads_to(built_site):
    home = lxml.html.parse(str(built_site / "index.html")).getroot()
    (figure,) = home.find_class("ee-contests")
    links = figure.xpath(".//tbody//a")
    assert len(links) > 10
    pages = {}
    for link in links:
        path, _, anchor = link.get("href").partition("#")
        page = pages.setdefault(path, lxml.html.parse(str(built_site / path)).getroot())
        (row,) = [row for row in page.iter("tr") if row.get("id") == anchor]
        told = link.getparent().getnext().text_content()[:5]
        assert told in row.findall("td")[1].text_content()  # within 50 %


def test_rows_of_a_leaderboard_have_places_of_their_own(built_site):
    for path in (built_site / "tracks").glob("*.html"):
        tables = lxml.html.parse(str(path)).getroot().find_class("ee-ranks")
        ids = [row.get("id") for table in tables for row in table.find("tbody")]
        assert len(ids) == len(set(ids))
        assert None not in ids


def test_what_to_read_first_is_what_the_collection_leans_on(collection):
    every = reading.first(collection, collection.works, 5)
    counts = [one.leaning for one in every]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] > 0
    assert all(collection.works[one.key].entry.role == "early-exit" for one in every)
    assert reading.first(collection, [every[3].key, every[0].key])[0] == every[0]


def test_the_path_for_newcomers_starts_with_a_survey_and_names_no_work_twice(collection):
    steps = reading.path(collection)
    assert collection.works[steps[0].key].entry.kind == "survey"
    years = [collection.works[step.key].record.year for step in steps[1:]]
    assert years == sorted(years)
    assert len(years) > 3
    assert len({step.key for step in steps}) == len(steps)


def on_track(name, *lines):
    return findings.Finding(name, name, "accuracy", [contest(*lines)], findings.Counter(), [], True)


def simplest(gain):
    found = line("simplest", gain)
    return replace(found, row=replace(found.row, rule=findings.SIMPLEST))


def test_the_simplest_rule_is_told_of_the_track_where_it_lags_most_and_only_if_all_tracks_have_it():
    near, far = on_track("near", line("a", 0.0), simplest(-0.01)), on_track("far", line("a", 0.0), simplest(-0.2))
    told = findings.farthest_behind([near, far])
    assert told.gap == pytest.approx(-0.2)
    assert findings.farthest_behind([far, near]).line is told.line
    assert findings.farthest_behind([near, on_track("none", line("a", 0.0))]) is None
    assert findings.farthest_behind([]) is None
