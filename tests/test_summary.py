"""What several seeds say together, the store of results, and the commands that show it."""

import contextlib
import errno
import importlib.util
import inspect
import json
import re
import resource
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from measured import KEY, curve, point, result

from eelit.methods.data import images, manifest
from eelit.methods.engine import costs
from eelit.methods.engine.operating_points import at, cheapest_within
from eelit.methods.engine.records import Baseline, DesignPoint, Effort, ExitFacts, Outcome, Search, Timing
from eelit.methods.harness import bench, registry, runner, summary
from eelit.methods.harness.plot import compare
from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator import pages
from eelit.site.generator.tested import trained


def test_between_two_knobs_a_mixture_stands():
    c = curve()
    found = at(c.validation, c.test, 0.4)
    assert (found.quality, found.share) == pytest.approx((0.7, 0.4))
    assert at(c.validation, c.test, 0.6).quality == pytest.approx(0.8)


def test_a_dearer_knob_is_not_taken_if_it_is_no_better():
    c = curve()
    assert at(c.validation, c.test, 0.9).share == pytest.approx(0.6)


def test_a_bad_knob_between_two_good_ones_is_passed_over():
    points = [point(0.2, 0.6), point(0.5, 0.5), point(1.0, 1.0)]
    assert at(points, points, 0.6).quality == pytest.approx(0.8)


def test_knobs_are_chosen_on_validation_data_alone():
    held = [point(0.2, 0.9), point(0.5, 0.5), point(1.0, 0.9)]
    test = [point(0.25, 0.1), point(0.5, 1.0), point(1.0, 1.0)]
    found = at(held, test, 1.0)
    assert (found.quality, found.share) == pytest.approx((0.1, 0.25))


def test_the_cheapest_setting_that_loses_little_is_chosen_on_validation_and_told_on_test_data():
    held = [point(0.2, 0.5), point(0.4, 0.785), point(0.5, 0.79), point(1.0, 0.8)]
    test = [point(0.3, 0.9), point(0.45, 0.6), point(0.55, 0.7), point(1.0, 0.95)]
    assert cheapest_within(held, test, 0.01) == test[2]  # a loss of just so much is allowed
    assert cheapest_within(held, test, 0.02) == test[1]
    assert cheapest_within(held, test, 1.0) == test[0]
    assert cheapest_within(held, test, 0.0) == test[3]
    assert cheapest_within(held, test, 0.0, of=0.785) == test[1]
    assert cheapest_within(held, test, 0.0, of=0.9) == test[3]  # all lose more: the best of them
    equal = [point(0.5, 0.7), point(0.5, 0.8), point(1.0, 0.7)]
    assert cheapest_within(equal, equal, 0.0) == equal[1]


def test_what_is_cheaper_than_the_cheapest_knob_is_out_of_reach():
    c = curve()
    assert at(c.validation, c.test, 0.1) is None
    dear = [point(0.5, 0.7), point(1.0, 0.8)]
    assert summary.area(dear, dear) is None


def test_area_is_the_mean_over_sixteen_shares():
    flat = [point(0.2, 0.7), point(1.0, 0.7)]
    assert summary.area(flat, flat) == pytest.approx(0.7)
    rising = [point(0.25, 0.25), point(1.0, 1.0)]
    assert summary.area(rising, rising) == pytest.approx(0.625)


def turned(*knobs):
    """Return a result whose points lie at these knobs."""
    given, points = result(), [point(0.2 * (i + 1), 0.6, knob) for i, knob in enumerate(knobs)]
    rival = Baseline(name="static exit", validation=points, test=[point(0.2, 0.6, 1.0), point(0.4, 0.6, 2.0)])
    own = curve().model_copy(update={"test": points, "validation": points, "baselines": [rival]})
    return given.model_copy(update={"curves": [own]})


def test_each_point_says_what_it_was_set_to():
    row = summary.row([turned(0.5, float("inf")), turned(0.5, float("inf"))], "", current=True)
    assert row.knobs == ["threshold 0.5", "threshold ∞"]
    assert row.baseline_knobs == {"static exit": ["exit 1", "exit 2"]}
    assert summary.setting("margin", -float("inf")) == "margin −∞"


def test_where_seeds_found_knobs_of_their_own_only_the_rank_is_told():
    row = summary.row([turned(0.5, 1.0), turned(0.25, 1.0)], "", current=True)
    assert row.knobs == ["threshold, step 1 of 2", "threshold 1"]


def test_seeds_that_kept_different_numbers_of_exits_are_averaged_but_not_exit_by_exit(place, eelit):
    def kept(seed, exits):
        cut = [point(0.2 + 0.1 * i, 0.6) for i in range(exits)]
        static = Baseline(name="static exit", validation=cut, test=cut)
        held, test = (
            [each.model_copy(update={"exits": [1 / exits] * exits}) for each in points]
            for points in (curve().validation, curve().test)
        )
        facts = [ExitFacts(quality=0.5, cost=50.0, calibration_error=0.1)] * exits
        found = curve().model_copy(update={"validation": held, "test": test, "baselines": [static], "each_exit": facts})
        return result(seed).model_copy(update={"curves": [found]})

    for each in (kept(0, 2), kept(1, 2), kept(2, 3)):
        bench.keep(each, place / "text")
    known = bench.stored("text", KEY, place)
    assert ([found.seed for found in known.results], known.unreadable) == ([0, 1, 2], ())
    row = summary.row(known.results, "", current=True)
    assert row.at[0.5].each == pytest.approx([0.75] * 3)
    assert len(row.points) == 3
    assert (row.exits, row.calibration, row.baselines["static exit"]) == ([], [], [])
    two = summary.row(known.results[:2], "", current=True)
    assert (two.exits, len(two.calibration), len(two.baselines["static exit"])) == ([0.5, 0.5], 2, 2)
    told = eelit("compare", "pabee", "--track", "text")
    assert "differs by seed" in told.output


def test_a_variant_has_its_own_settings_instead_of_the_shared_ones():
    given = result().model_copy(update={"settings": {"corpus": "'a'", "rate": "1", "t = 3.corpus": "'b'"}})
    given = given.model_copy(update={"curves": [curve(variant="t = 3"), curve(variant="t = 2")]})
    assert summary.row([given], "t = 3", current=True).settings == {"corpus": "'b'", "rate": "1"}
    assert summary.row([given], "t = 2", current=True).settings == {"corpus": "'a'", "rate": "1"}


def test_spread_has_no_deviation_for_one_seed():
    assert summary.Spread.of([0.5]) == summary.Spread(0.5, None, 1, (0.5,))
    assert summary.Spread.of([None, None]) is None
    found = summary.Spread.of([1.0, 3.0, None])
    assert (found.mean, found.n) == (2.0, 2)
    assert found.deviation == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("held", "judgement"),
    [
        ([True, True, True], "holds"),
        ([True, False, True], "holds in part"),
        ([False, False, False], "does not hold here"),
        ([True, True], "too few seeds"),
        ([False], "too few seeds"),
    ],
)
def test_verdicts_follow_the_rule(held, judgement):
    (verdict,) = summary.verdicts([result(seed, holds=h) for seed, h in enumerate(held)], current=True)
    assert verdict.judgement == judgement
    assert (verdict.held, verdict.n) == (sum(held), len(held))


def test_a_claim_that_cannot_be_compared_says_why():
    tried = result()
    claim = tried.claims[0].model_copy(update={"not_comparable": "another task"})
    (verdict,) = summary.verdicts([tried.model_copy(update={"claims": [claim]})] * 3, current=True)
    assert (verdict.judgement, verdict.reason) == ("not comparable", "another task")


def test_gains_are_paired_by_seed():
    row = summary.row([result(0, gain=0.01), result(1, gain=0.03)], "", current=True)
    gain = row.against["static exit"][0.25]
    assert gain.mean == pytest.approx(0.02 + 0.05 / 0.4 * 0.2)
    assert gain.deviation == pytest.approx(0.02 / 2**0.5)
    assert row.full.mean == 0.8
    assert row.data == "abc"


def test_the_speed_up_within_a_point_is_that_of_a_setting_chosen_on_validation_data():
    held = [point(0.2, 0.5), point(0.4, 0.785), point(0.5, 0.79), point(1.0, 0.8)]
    test = [point(0.3, 0.9), point(0.45, 0.6), point(0.625, 0.7), point(1.0, 0.95)]
    given = result().model_copy(update={"curves": [curve().model_copy(update={"validation": held, "test": test})]})
    row = summary.row([given], "", current=True)
    assert row.within_a_point.mean == pytest.approx(1.6)


def test_the_first_variant_is_the_main_one():
    given = result().model_copy(update={"curves": [curve(variant="b"), curve(variant="a")]})
    assert [summary.row([given], name, current=True).is_main for name in "ab"] == [False, True]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "folder", lambda: tmp_path)
    return tmp_path


def test_a_result_is_kept_once_and_never_overwritten(place):
    path = bench.keep(result(gain=0.01), place / "text")
    assert path == place / "text" / KEY / f"seed0-{bench.code(KEY)}.json"
    assert bench.keep(result(gain=0.02), place / "text") == path
    assert bench.stored("text", KEY).results == [result(gain=0.01)]


def with_settings(of, **settings):
    return of.model_copy(update={"settings": {**of.settings, **{k: repr(v) for k, v in settings.items()}}})


def test_what_was_measured_with_other_settings_than_the_tracks_is_stale_and_does_not_hide_the_new(place, monkeypatch):
    data = {item: manifest.get(item).version for item in registry.describe(KEY).data}
    now = result().model_copy(update={"data": data})
    monkeypatch.setitem(TRACKS, "text", replace(TRACKS["text"], settings={"train_size": 9, "not_its_own": 1}))
    older = bench.keep(with_settings(now, train_size=8), place / "text")
    assert not bench.stored("text", KEY).current
    assert bench.missing("text", [KEY], 1) == [(KEY, 0)]
    newer = bench.keep(with_settings(now, train_size=9), place / "text")
    assert newer != older
    found = bench.stored("text", KEY)
    assert (found.current, [each.settings["train_size"] for each in found.results]) == (True, ["9"])
    own = with_settings(now, train_size=9)  # of one variant another value than of all
    own = own.model_copy(update={"settings": {**own.settings, "b.train_size": "8"}, "curves": [curve(variant="b")]})
    assert not bench._as_set(TRACKS["text"], own)


def test_a_new_version_of_the_data_is_measured_and_kept(place):
    items = registry.describe(KEY).data
    older = result().model_copy(update={"data": dict.fromkeys(items, "0.0.1")})
    now = result().model_copy(update={"data": {item: manifest.get(item).version for item in items}})
    assert bench.keep(older, place / "text") != bench.keep(now, place / "text")
    assert bench.stored("text", KEY).current
    assert bench.missing("text", [KEY], 1) == []


def test_a_seed_counts_once_however_often_its_result_lies_there(place):
    first = bench.keep(result(0), place / "text")
    first.with_name("seed0-copy (1).json").write_bytes(first.read_bytes())
    bench.keep(result(1), place / "text")
    found = bench.stored("text", KEY)
    assert [each.seed for each in found.results] == [0, 1]
    assert "another result with seed 0" in str(found.unreadable[0])


def test_an_outcome_counts_for_the_seeds_in_which_it_says_something():
    def tried(seed, holds, why=""):
        one = result(seed, holds=holds)
        return one.model_copy(update={"claims": [one.claims[0].model_copy(update={"not_comparable": why})]})

    (verdict,) = summary.verdicts([tried(0, True), tried(1, True), tried(2, True, "no")], current=True)
    assert (verdict.judgement, verdict.n, verdict.reason) == ("too few seeds", 2, "")
    (verdict,) = summary.verdicts([tried(0, True, "no"), tried(1, True, "no"), tried(2, True)], current=True)
    assert (verdict.judgement, verdict.n) == ("too few seeds", 1)


def test_results_of_different_settings_are_never_mixed(place, monkeypatch):
    monkeypatch.setitem(TRACKS, "text", replace(TRACKS["text"], settings={"train_size": 9}))
    for created, (seed, size) in enumerate([(0, 7), (1, 7), (0, 8)]):
        bench.keep(with_settings(result(seed, created=created), train_size=size), place / "text")
    found = bench.stored("text", KEY)
    assert [(each.seed, each.settings["train_size"]) for each in found.results] == [(0, "8")]


def test_a_run_of_a_track_has_its_settings_in_every_variant(monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "run", lambda key, **options: seen.append((key, options)) or result())
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    for name, items in (("images-plain", None), ("text-topics", ("minilm-l6", "newsgroups"))):
        seen.clear()
        bench._run(name, "kaya2019sdn", 3, 1)
        own = {"settings": TRACKS[name].settings, "among": TRACKS[name].takes, "items": items}
        assert seen == [("kaya2019sdn", {"seed": 3, "scale": "full", **own})]
    sdn = registry.get("kaya2019sdn")
    for name in sdn.variants:
        method = runner.given(sdn.variant(name, "full"), {"images": "fashion-mnist", "not_its_own": 1})
        assert method == sdn.variant(name, "full").replace({"images": "fashion-mnist"})


def test_a_method_on_several_tracks_has_the_row_of_the_first_on_the_index(place):
    for seed, name in ((0, "images"), (1, "images-plain")):
        bench.keep(result(seed, key="kaya2019sdn"), place / name)
    boards = {name: bench.board(name) for name in TRACKS}
    rows = pages._main_rows(SimpleNamespace(boards=boards))
    assert rows["kaya2019sdn"].seeds == [0]


def test_what_is_measured_already_is_not_measured_again(place):
    bench.keep(result(seed=1), place / "text")
    runs = bench.missing("text", [KEY, "xin2020deebert"], 2)
    assert runs == [(KEY, 0), ("xin2020deebert", 0), ("xin2020deebert", 1)]


def test_results_of_older_code_are_stale_and_never_mixed_with_others(place):
    bench.keep(result(seed=0, code="old", created=0), place / "text")
    bench.keep(result(seed=0, code="newer", created=1), place / "text")
    bench.keep(result(seed=1, code="newer", created=2), place / "text")
    found = bench.stored("text", KEY)
    assert not found.current
    assert [r.code for r in found.results] == ["newer", "newer"]
    assert (KEY, 0) in bench.missing("text", [KEY], 1)
    bench.keep(result(seed=0), place / "text")
    found = bench.stored("text", KEY)
    assert found.current
    assert [r.seed for r in found.results] == [0]


def test_a_file_that_is_no_result_is_left_out_named_and_measured_anew(place, eelit):
    bench.keep(result(1), place / "text")
    path = place / "text" / KEY / f"seed0-{bench.code(KEY)}.json"
    path.write_text("{")
    assert [r.seed for r in bench.stored("text", KEY).results] == [1]
    assert bench.missing("text", [KEY], 2) == [(KEY, 0)]
    for words in (["leaderboard"], ["compare", "pabee"]):
        found = eelit(*words)
        assert found.exit_code == 0
        assert f"{path} is left out" in found.stderr
    bench.keep(result(0), place / "text")
    assert len(bench.stored("text", KEY).results) == 2


def spoilt(*place, to):
    """Return a result as JSON, with something else at a place in it."""
    found = json.loads(result(1).model_dump_json())
    inside = found
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = to
    return json.dumps(found).encode()


BAD = {
    "no UTF-8": b"\xff\xfe{}",
    "cut short": result(1).model_dump_json().encode()[:-40],
    "deep": b"[" * 100_000,
    "no number": spoilt("curves", 0, "test", 1, "quality", to=float("nan")),
    "no number for a knob": spoilt("curves", 0, "test", 1, "knob", to="NaN"),
    "infinite": spoilt("curves", 0, "full_quality", to=float("inf")),
    "as good as infinite": spoilt("curves", 0, "test", 0, "quality", to=1e300),
    "as good as nothing": spoilt("curves", 0, "test", 0, "speed_up", to=1e-300),
    "nothing saved or spent": spoilt("curves", 0, "validation", 0, "speed_up", to=0.0),
    "no curves": spoilt("curves", to=[]),
    "no points": spoilt("curves", 0, "test", to=[]),
    "fewer points": spoilt("curves", 0, "validation", to=[json.loads(point(1.0, 0.8).model_dump_json())] * 2),
    "other exits": spoilt("curves", 0, "test", 0, "exits", to=[0.5, 0.5]),
    "a baseline without points": spoilt("curves", 0, "baselines", 0, "test", to=[]),
    "one variant twice": spoilt("curves", to=json.loads(result().model_dump_json())["curves"] * 2),
    "a time of nowhere": spoilt("created", to="2026-11-22T00:00:00"),
    "a seed without end": spoilt("seed", to="no").replace(b'"no"', b"9" * 5000),
    "timed where nothing was swept": spoilt(
        "curves", 0, "timings", to=[json.loads(Timing(batch=1, knob=7, samples=1, saved=0, seconds=1, full_seconds=1)
                                               .model_dump_json())],
    ),
    "of another method": result(1, key="xin2020deebert", code="old").model_dump_json().encode(),
}  # fmt: skip


def test_results_that_cannot_be_any_are_named_and_hide_no_other(place, eelit):
    kept = bench.keep(result(0), place / "text")
    paths = {kind: kept.with_name(f"seed1-{number}.json") for number, kind in enumerate(BAD)}
    for kind, path in paths.items():
        path.write_bytes(BAD[kind])
    kept.with_name("seed1-folder.json").mkdir()
    for words in (["leaderboard", "--format", "json"], ["compare", "pabee", "--format", "json"]):
        found = eelit(*words)
        assert found.exit_code == 0, found.stderr
        assert {tuple(row["seeds"]) for row in json.loads(found.stdout)["rows"]} == {(0,)}
        said = [line for line in found.stderr.splitlines() if "left out" in line]
        assert len(said) == len(BAD) + 1
        for kind, path in paths.items():
            assert any(line.startswith(f"eelit: {path} is left out: it is ") for line in said), kind


def test_a_result_that_does_not_go_with_the_other_seeds_is_named(place, eelit):
    for seed in (0, 2):
        bench.keep(result(seed), place / "text")
    other = result(1)
    short = [curve().model_copy(update={"test": curve().test[:2], "validation": curve().validation[:2]})]
    path = bench.keep(other.model_copy(update={"curves": short}), place / "text")
    for words in (["leaderboard", "--format", "json"], ["compare", "pabee", "--format", "json"]):
        found = eelit(*words)
        assert {tuple(row["seeds"]) for row in json.loads(found.stdout)["rows"]} == {(0, 2)}
        assert f"{path} is left out: it has other curves" in found.stderr


def test_where_no_result_is_left_nothing_is_found(place, eelit):
    (place / "text" / KEY).mkdir(parents=True)
    (place / "text" / KEY / "seed0-a.json").write_bytes(b"{")
    found = eelit("compare", "pabee")
    assert found.exit_code == 1
    assert found.stderr.count("is left out") == 1


def test_every_committed_result_goes_with_the_others():
    assert bench.board("text").unreadable == ()


def test_runs_that_fail_are_told_and_not_kept(place, monkeypatch):
    broken = Outcome(name="r", statement="s", holds=False, measured="m")
    outcomes = {
        (KEY, 0): result(0),
        (KEY, 1): result(1).model_copy(update={"checks": [broken]}),
        (KEY, 2): RuntimeError("the gradient went for a walk"),
    }
    monkeypatch.setattr(bench, "spread", lambda tasks, *_: ((run, outcomes[run]) for run in tasks))
    told = []
    failed = bench.bench("text", list(outcomes), report=lambda run, found: told.append(run))
    assert failed == [(KEY, 1), (KEY, 2)]
    assert told == list(outcomes)
    assert [r.seed for r in bench.stored("text", KEY).results] == [0]
    said = [str(each) for each in bench.board("text").not_run if each.key == KEY]
    assert said == [
        "seed 1: failed: rules broken: r (m)",
        "seed 2: failed: RuntimeError: the gradient went for a walk",
    ]
    bench.keep(result(1), place / "text")
    assert [each.seeds for each in bench.board("text").not_run if each.key == KEY] == [(2,)]


def test_results_on_another_version_of_the_data_are_stale(place):
    older = result(0)
    bench.keep(older.model_copy(update={"data": older.data | {"minilm-l6": "0.0.1"}}), place / "text")
    assert not bench.stored("text", KEY).current
    assert bench.missing("text", [KEY], 1) == [(KEY, 0)]


def timing(knob, batch, seconds):
    return Timing(batch=batch, knob=knob, samples=100, saved=1 - knob, seconds=seconds, full_seconds=1.0)


def test_what_is_told_of_one_knob_is_told_of_that_nearest_on_validation_data():
    held = [point(0.5, 0.6, 0.2), point(0.6, 0.8, 0.6), point(1.0, 0.8, 1.0)]
    test = [point(0.1, 0.6, 0.2), point(0.5, 0.8, 0.6), point(1.0, 0.8, 1.0)]
    test = [p.model_copy(update={"exits": [p.knob, 1 - p.knob]}) for p in test]
    timings = [timing(knob, batch, knob * batch / 2) for knob in (0.6, 0.2) for batch in (1, 2)]
    given = curve().model_copy(
        update={"validation": held, "test": test, "timings": timings, "training": Effort(seconds=7.0, steps=30)}
    )
    row = summary.row([result().model_copy(update={"curves": [given]})], "", current=True)
    assert row.exits == [0.2, 0.8]
    assert row.efficiency[1].mean == pytest.approx((1 - 0.1) / 0.8)
    assert [(wall.share, wall.milliseconds.mean, wall.full.mean) for wall in row.walls[1]] == [
        (0.75, pytest.approx(3.0), 10.0), (0.5, pytest.approx(1.0), 10.0), (0.25, pytest.approx(1.0), 10.0),
    ]  # fmt: skip
    assert row.walls[32] == []
    assert [wall.ratio for wall in row.walls[1]] == pytest.approx([0.3, 0.1, 0.1])
    assert row.slower(1) == row.slower(32) == []
    assert row.training_seconds.mean == 7.0
    assert row.training_steps.mean == 30


@pytest.mark.parametrize(("seconds", "saved", "slower"), [(1.2, 0.4, 1), (1.04, 0.4, 0), (1.2, 0.04, 0), (0.5, 0.4, 0)])
def test_a_setting_that_saves_cost_may_take_longer_than_the_full_model(seconds, saved, slower):
    timed = Timing(batch=1, knob=0.6, samples=100, saved=saved, seconds=seconds, full_seconds=1.0)
    given = curve().model_copy(
        update={"validation": [point(0.6, 0.8, 0.6)], "test": [point(0.6, 0.8, 0.6)], "timings": [timed]}
    )
    row = summary.row([result().model_copy(update={"curves": [given]})], "", current=True)
    assert len({wall.ratio for wall in row.slower(1)}) == slower
    assert row.slower(32) == []


def test_the_load_of_a_row_is_that_of_each_core_by_seed():
    machine = result().machine
    loads = [(0.5, 1), (6.0, 2), (None, 2)]
    given = [
        result(seed).model_copy(update={"machine": machine.model_copy(update={"load": load, "cores": cores})})
        for seed, (load, cores) in enumerate(loads)
    ]
    assert summary.row(given, "", current=True).load.each == (0.5, 3.0)
    assert summary.row(given[2:], "", current=True).load is None


def test_the_leaderboard_ranks_within_the_share_that_is_asked_for(place, eelit):
    for seed in range(3):
        bench.keep(result(seed, gain=0.01 * seed), place / "text")
        longer = result(seed, gain=0.05, key="xin2020deebert").model_copy(update={"settings": {"ramp_epochs": "10.0"}})
        bench.keep(longer, place / "text")
    found = eelit("leaderboard", "--track", "text", "--at", "0.4", "--format", "json")
    assert found.exit_code == 0, found.stderr
    board = json.loads(found.stdout)
    assert [row["key"] for row in board["rows"] if not row["rule"]] == ["xin2020deebert", KEY]
    assert board["rows"][0]["at"]["0.4"]["mean"] == pytest.approx(0.75)
    assert board["rows"][0]["fidelity"] == "checked-against-code"
    assert {"key": "schwartz2020right", "seeds": [0, 1, 2], "reason": bench.NO_TIME} in board["not_run"]
    text = eelit("leaderboard").stdout
    assert text.index("xin2020deebert") < text.index(KEY)
    assert "  - xin2020deebert: Besides the epoch that all rows have" in text
    assert "  - xin2020deebert: trained with ramp epochs 10 (of stage 2)\n" in text
    (unmeasured,) = re.findall(r"  - ([^:]*), seeds 0, 1, 2: not measured yet", " ".join(text.split("\n    ")))
    assert "schwartz2020right" in unmeasured.split(", ")


def test_what_is_said_of_several_rows_is_said_once(place, eelit):
    """Rows of equal training are named together, in the order of the board; one of another training has its own."""
    measured = result(key="xin2020deebert").model_copy(
        update={
            "settings": {"ramp_epochs": "10.0", "c.ramp_epochs": "3.0"},
            "curves": [curve(gain, name) for gain, name in ((0.02, "a"), (0.01, "b"), (0.0, "c"))],
        }
    )
    bench.keep(measured, place / "text")
    lines = [line for line in eelit("leaderboard").stdout.splitlines() if "trained with" in line]
    assert lines == [
        "  - xin2020deebert a, xin2020deebert b: trained with ramp epochs 10 (of stage 2)",
        "  - xin2020deebert c: trained with ramp epochs 3 (of stage 2)",
    ]
    rows = json.loads(eelit("leaderboard", "--format", "json").stdout)["rows"]
    assert [(row["variant"], row["settings"]["ramp_epochs"]) for row in rows if not row["rule"]] == [
        ("a", "10.0"), ("b", "10.0"), ("c", "3.0"),
    ]  # fmt: skip


def test_nothing_measured_is_said(place, eelit):
    assert eelit("leaderboard").exit_code == 1
    assert eelit("compare", "pabee").exit_code == 1


def test_compare_shows_figures_claims_and_a_picture(place, eelit, tmp_path):
    for seed in range(3):
        bench.keep(result(seed, holds=seed > 0), place / "text")
    found = eelit("compare", "pabee", "deebert", "--out", str(tmp_path / "both.svg"))
    assert found.exit_code == 0, found.stderr
    assert "holds in part" in found.stdout
    assert "2 of 3 seeds" in found.stdout
    assert "xin2020deebert was not measured" in found.stderr
    assert "<svg" in (tmp_path / "both.svg").read_text()
    wrong = eelit("compare", "pabee", "--out", str(tmp_path / "both.txt"))
    assert wrong.exit_code == 2
    assert "cannot be drawn" in wrong.stderr


def test_a_comparison_breaks_into_tables_that_fit(place, eelit, monkeypatch):
    for key in (KEY, "xin2020deebert", "schwartz2020right"):
        bench.keep(result(0, key=key), place / "text")
    monkeypatch.setenv("COLUMNS", "80")
    found = eelit("compare", "pabee", "deebert", "schwartz2020right").stdout
    assert max(map(len, found.splitlines())) <= 100
    assert found.count("quality is") == 2
    assert "…" not in found
    monkeypatch.delenv("COLUMNS")
    assert eelit("compare", "pabee", "deebert", "schwartz2020right").stdout.count("quality is") == 1


@pytest.mark.parametrize("command", ["bench", "compare"])
def test_what_is_not_on_the_track_is_refused(eelit, command):
    found = eelit(command, "msdnet")
    assert found.exit_code == 2
    assert "is not measured on the track `text`" in found.stderr


@pytest.mark.parametrize("words", [["leaderboard", "--at", "nan"], ["run", "lear", "--budget", "nan"]])
def test_nan_is_no_share(eelit, words):
    found = eelit(*words)
    assert found.exit_code == 2
    assert "between 0 and 1, not nan" in found.stderr


@pytest.mark.parametrize("command", ["bench", "smoke"])
def test_a_back_end_that_is_not_installed_is_one_sentence(eelit, monkeypatch, command):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "ray" else find(name, *more))
    found = eelit(command, "--backend", "ray")
    assert found.exit_code == 2
    assert "needs the package ray: pip install 'eelit[ray]'" in found.stderr


def test_results_that_could_not_be_kept_are_not_measured(eelit, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(bench, "folder", lambda: tmp_path / "file" / "results")
    found = eelit("bench", "pabee")
    assert found.exit_code == 5
    assert "cannot be written" in found.stderr


def test_a_full_disk_ends_a_benchmark_and_loses_nothing(place, eelit, monkeypatch):
    """Each further run would meet it, too."""
    outcomes = [result(0), OSError(errno.ENOSPC, "No space left on device"), result(2)]
    monkeypatch.setattr(bench, "spread", lambda tasks, *_: zip(tasks, outcomes, strict=True))
    found = eelit("bench", "pabee")
    assert found.exit_code == 5
    (said,) = [line for line in found.stderr.splitlines() if "cannot be written" in line]
    assert "(no space left on device); make room on its disk, or name another cache folder in EELIT_CACHE" in said
    assert [r.seed for r in bench.stored("text", KEY).results] == [0]
    assert not list((place / "text" / KEY).glob("failed*"))


def test_a_picture_is_drawn_whole_or_not_at_all(place, eelit, tmp_path):
    bench.keep(result(0), place / "text")
    picture = tmp_path / "drawn" / "pabee.svg"
    assert eelit("compare", "pabee", "--out", picture).exit_code == 0
    before = picture.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        found = eelit("compare", "pabee", "--out", picture)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found.exit_code == 5
    assert found.stderr == (
        f"eelit: {picture} cannot be written (file too large); make room on its disk, or choose another with --out\n"
    )
    assert [*picture.parent.iterdir()] == [picture]
    assert picture.read_bytes() == before
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "pabee.svg", tmp_path / "file.svg"):
        (tmp_path / "file.svg").mkdir(exist_ok=True)
        found = eelit("compare", "pabee", "--out", out)
        assert found.exit_code == 5
        assert found.stderr.startswith(f"eelit: {out} cannot be written (")


def test_bench_has_nothing_to_do_when_all_is_measured(place, eelit):
    bench.keep(result(), place / "text")
    found = eelit("bench", "pabee", "--seeds", "1")
    assert found.exit_code == 0
    assert "0 runs to do, 1 done before" in found.stderr


def test_the_site_shows_the_leaderboard_and_the_verdicts(place):
    from eelit.catalog.sources import sources
    from eelit.site.generator import pages
    from eelit.site.generator.collection import gather
    from eelit.site.generator.reports import read_reports

    for seed in range(3):
        bench.keep(result(seed, holds=seed > 0), place / "text")
    for name, points in (("images", [point(0.2, 0.111), point(1.0, 0.8)]), ("images-plain", [point(0.3, 0.222)])):
        own = curve().model_copy(update={"baselines": [Baseline(name="static exit", validation=points, test=points)]})
        bench.keep(result(key="kaya2019sdn").model_copy(update={"curves": [own]}), place / name)
    longer = result(code="old", key="xin2020deebert").model_copy(update={"settings": {"ramp_epochs": "10.0"}})
    bench.keep(longer, place / "text")
    reports, _ = read_reports(place / "none")
    collection = gather(sources(), reports)
    written = dict(pages.generated(collection))
    board = written["tracks/text.md"]
    assert "0.750" in board  # within half of the cost
    assert "holds in part" in board
    assert "2 of 3 seeds" in board
    assert "stale: older code" in board
    assert "trained with ramp epochs 10 (of stage 2)" in board
    assert '(<a href="../methods/xin2020deebert.html#trained-otherwise">why</a>)' in board
    assert "trained with ramp epochs 10 (of stage 2)" in written["compare.md"]
    assert "stale: measured by older code" in board  # the verdict, too
    assert "What the paper reports" in written[f"methods/{KEY}.md"]
    assert "holds in part" in written[f"methods/{KEY}.md"]  # although no smoke test is known
    assert "Not measured yet" in board
    assert "ee-ink-0" in board
    assert [verdict.judgement for verdict in collection.verdicts(KEY)] == ["holds in part"]
    assert "(digest <code>abc</code>)" in board
    assert "0 of 1" in written["methods/index.md"]
    for name in ("images", "images-plain"):  # what each exit of the plain network knows on either set
        page = written[f"tracks/{name}.md"]
        assert f"{TRACKS['images'].title}</th><td>0.111 (20 %)&nbsp;· 0.800 (100 %)</td>" in page
        assert f"{TRACKS['images-plain'].title}</th><td>0.222 (30 %)</td>" in page
    assert "How much the later layers know" not in board


def test_what_is_there_is_never_overwritten_not_even_if_it_cannot_be_read(tmp_path):
    first = bench.keep(result(), tmp_path)
    first.write_text("cut sho")
    second = bench.keep(result(), tmp_path)
    assert first.read_text() == "cut sho"
    assert second.name == f"{first.stem}-2.json"
    assert bench.keep(result(gain=0.1), tmp_path) == second  # a run that is there is not kept twice


def test_a_row_says_what_its_share_really_took():
    row = summary.row([result()], "", current=True)
    found = [at(c.validation, c.test, 0.5).share for c in result().curves]
    assert row.spent[0.5].mean == pytest.approx(found[0])


def test_a_row_says_in_what_its_training_differs_from_the_tracks():
    def said(key, **own):
        settings = dict(TRACKS["text"].training) | {"rate": "0.1"} | own
        row = summary.row([result(key=key).model_copy(update={"settings": settings})], "", current=True)
        return trained(row, bench.Board([row], [], {}, training=TRACKS["text"].training))

    assert said(KEY, rate="0.2") == ""
    assert said("xin2020deebert", ramp_epochs="10.0") == "ramp epochs 10 (of stage 2)"
    assert said("zhu2021leebert", batch="4") == "batch 4 (sentences from either half)"
    assert said("li2021tokee", batch="10", epochs="2.0") == "epochs 2 (of stage 1), batch 10"


def test_curves_of_different_data_have_pictures_of_their_own(tmp_path):
    both = [result(), result(key="xin2020deebert").model_copy(update={"data": {"examples": "other"}})]
    compare(both, tmp_path / "apart.svg")
    compare([result(), result(key="xin2020deebert")], tmp_path / "together.svg")
    axes = [(tmp_path / f"{name}.svg").read_text().count('id="axes_') for name in ("apart", "together")]
    assert axes == [2, 1]


SENTENCES = 800
"""What rows are trained on here instead of 4,000: digits, in the settings of the track but for the encoder."""
ALIKE = [(100, {1e-4, 1e-3}, "AdamW", {0.01}, 0)]
"""One stage: an epoch of `SENTENCES` in batches of 8, rates of the encoder and of what starts from nothing."""
OTHERWISE = {
    "gao2023pfberxit": [[100], [100]],
    "guan2022transkimmer": [[100], [100]],
    "schuster2021cats": [[70, 390, 390]],
    "schwartz2020right": [[100], [100]],
    "xin2020deebert": [[100, 1000]],
    "zeng2024consistentee": [[100, 600, 50], [100, 600, 50]],
    "zhu2021leebert": [[100], [100]],
}
"""Rows that are trained otherwise: the steps of each stage, variant by variant. Why, says their docstring."""


def course(stages, method):
    """Return steps, rates, optimiser, weight decay and further optimisers of each stage of a method's training."""
    small = {"encoder": "tiny", "corpus": "digits", "train_size": SENTENCES}
    small |= {"stream": "digits"} if hasattr(method, "stream") else {}
    return [
        (
            stage.steps,
            set(stage.rates.values()),
            type(stage.optimiser).__name__,
            {group["weight_decay"] for group in stage.optimiser.param_groups},
            len(stage.beside),
        )
        for stage in stages(method.replace(small))
    ]


@pytest.mark.parametrize("key", bench.members("text"))
def test_a_row_that_is_trained_otherwise_than_the_others_of_the_track_says_why(stages, key):
    """Every step of every stage is counted: what is compared differs by its method alone, or by what its row says."""
    main = registry.get(key)
    rows = [main.variant(name, "full") for name in main.variants]
    rows = [method for method in rows if method.corpus == "rotten-tomatoes"]
    assert {method.train_size for method in rows} <= {4000}
    found = [course(stages, method) for method in rows]
    otherwise = any(each != ALIKE for each in found)
    assert otherwise == (key in OTHERWISE), found
    if otherwise:
        assert [[stage[0] for stage in each] for each in found] == OTHERWISE[key]
    names = [name for name in main.variants if main.variant(name, "full").corpus == "rotten-tomatoes"]
    said = {name: bool(summary.trained_otherwise(key, name)) for name in names}
    assert said == {name: each != ALIKE for name, each in zip(names, found, strict=True)}


@pytest.mark.parametrize(
    ("variant", "said"),
    [("a", "For all. Twice as long, as in the paper."), ("b", "For all. Twice as long, as in the paper. Slower."),
     ("c", "For all. Slower."), ("", "For all. Slower.")],
)  # fmt: skip
def test_a_paragraph_on_some_variants_is_told_of_these_alone(monkeypatch, variant, said):
    text = 'For\nall.\n\n"a" and "b": twice as long,\nas in the paper.\n\nAll but "a": slower.'
    monkeypatch.setattr(
        summary.registry, "describe", lambda key: SimpleNamespace(sections={summary.TRAINED_OTHERWISE: text})
    )
    assert summary.trained_otherwise("x", variant) == said


def test_what_is_measured_apart_is_on_no_track_and_says_why():
    apart = [info for info in registry.described()[0] if bench.APART in info.sections]
    assert {"wang2018edge", "li2023esfedavg", "teerapittayanon2017ddnn"} <= {info.key for info in apart}
    for info in apart:
        assert any(track.item in info.data for track in TRACKS.values()), f"{info.key} is on no track anyway"
        assert not any(info.key in bench.members(name) for name in TRACKS)
        assert info.sections[bench.APART]


PICTURES = 640
"""The same for images: small pictures, in the settings of the track but for the patches that they are cut into."""
IMAGES_ALIKE = [(40, {2e-3}, "AdamW", {0.01}, 0)]
"""One stage: two epochs of `PICTURES` in batches of 32."""
TWO = [40, 40]
IMAGES_OTHERWISE = {
    "akhlaghi2018snapea": [[20]],
    "baccarelli2020cdnn": [[40], [40] * 6, [40] * 6],
    "bakhtiarnia2021mevit": [*[TWO] * 7, [40]],
    "berestizshevsky2019cascade": [TWO] * 2,
    "bolukbasi2017adaptive": [TWO] * 2,
    "bonato2021classspecific": [TWO] * 2,
    "daghero2020class": [TWO] * 2,
    "dai2020epnet": [[40, 250]],
    "dong2022exitpredictor": [TWO] * 2,
    "huang2018msdnet": [[40]] * 2,
    "kaya2019sdn": [TWO, [40]],
    "leroux2017cascading": [TWO, [40]],
    "li2023coaxnn": [[40] * 3],
    "li2023eenet": [TWO] * 3,
    "li2023predictive": [TWO] * 2,
    "liu2023sesw": [[40]],
    "long2020cdhnn": [[40], [40], TWO],
    "marquez2018cascade": [[40] * 6],
    "panda2016cdl": [TWO],
    "park2015biglittle": [TWO] * 2,
    "passalis2020hierarchical": [TWO] * 2,
    "regol2024jeidnn": [[40, 40, 40]] * 2,
    "tann2016runtime": [[40] * 4] * 2,
    "shen2023mevit": [TWO] * 2,
    "teerapittayanon2016branchynet": [TWO],
    "wang2018idk": [[40, 40, *[150] * 74], [40, 40, 150], TWO, TWO],
    "wang2019dynexit": [[40], [40]],
    "wang2018skipnet": [[10] * 6],
    "wang2020gfnet": [[40] * 3],
    "wolczyk2021ztw": [[40, 40, 80]] * 3,
    "zniber2025predictive": [[40], TWO],
}
"""Rows that are trained otherwise: the steps of each stage, variant by variant. Why, says their docstring."""
AS_LONG_BUT_OTHERWISE = {
    "duggal2020elf": ("CE", "LDAM"),  # images of which few classes have most
    "hu2020triplewins": ("max-average defence", "average defence"),  # clean and attacked images in each step
    "wang2019dynexit": ("learned weights",),  # without weights to spare its optimiser is that of all rows
}


NUMBERS = {"two": 2, "three": 3, "four": 4, "six": 6, "ten": 10, "twenty": 20, "thirty": 30, "forty": 40}


def passes(stages):
    """Return how often each stage goes over its data, by its steps, and all stages but the first together."""
    each = [stage.steps / sum(1 for _ in stage.train.batches(stage.batch)) for stage in stages]
    return [*each, sum(each[1:])]


@pytest.mark.parametrize("key", bench.members("images"))
def test_a_row_of_images_that_is_trained_otherwise_says_why_too(stages, key):
    main, found, counted = registry.get(key), [], []
    for name in main.variants:
        method = runner.given(main.variant(name, "full"), TRACKS["images"].settings)
        assert method.train_size == 6_000
        small = {"images": "digits", "train_size": PICTURES, "pixels": 2, "width": 16, "trees": 4}
        small |= {"widths": (8, 16)} if key != "wang2018skipnet" else {}
        small |= {"tail": (1,) * 10} if key == "duggal2020elf" else {}  # there are too few digits for a longer one
        course = stages(runner.given(method, small))
        counted.append(passes(course))
        found.append(
            [
                (each.steps, {*each.rates.values()}, type(each.optimiser).__name__,
                 {group["weight_decay"] for group in each.optimiser.param_groups}, len(each.beside))
                for each in course
            ]
        )  # fmt: skip
    otherwise = any(each != IMAGES_ALIKE for each in found)
    assert otherwise == (key in IMAGES_OTHERWISE), found
    if otherwise:
        assert [[stage[0] for stage in each] for each in found] == IMAGES_OTHERWISE[key]
    notes = {name: summary.trained_otherwise(key, name) for name in main.variants}
    differs = {name: each != IMAGES_ALIKE for name, each in zip(main.variants, found, strict=True)}
    differs |= {name: name in AS_LONG_BUT_OTHERWISE[key] for name in main.variants if key in AS_LONG_BUT_OTHERWISE}
    assert {name: bool(note) for name, note in notes.items()} == differs, found
    said = " ".join(notes.values())
    for number in re.findall(rf"\bfor ({'|'.join(NUMBERS)})\b", said):
        assert any(each == pytest.approx(NUMBERS[number], abs=0.05) for one in counted for each in one), (
            number,
            counted,
        )
    if "for as many" in said:
        assert any(one[0] == each for one in counted for each in one[1:-1]), counted


class Loaded(Exception):
    """Data would be read."""


@pytest.mark.parametrize("name", ["images", "images-plain"])
def test_the_images_of_a_track_are_there_for_all_of_its_rows(monkeypatch, name):
    """A method that sees other images, such as several views of each, is measured apart."""

    def loaded(*given, **named):
        raise Loaded

    functions = [own for own, it in vars(images).items() if inspect.isfunction(it) and it.__module__ == images.__name__]
    for own in functions:
        monkeypatch.setattr(images, own, loaded)
    for key in bench.members(name):
        main = registry.get(key)
        for variant in main.variants:
            method = runner.given(main.variant(variant, "full"), TRACKS[name].settings)
            with contextlib.suppress(Loaded):
                method.load()


@pytest.mark.parametrize(("track", "side"), [("images", 48), ("images-plain", 28)])
def test_the_conditions_of_the_image_tracks_are_those_of_their_network(track, side):
    told, sdn, x = TRACKS[track].conditions, registry.get("kaya2019sdn"), torch.zeros(1, 1, side, side)
    model = sdn.build(SimpleNamespace(train=SimpleNamespace(inputs=x), classes=10), 0)
    spent, full = costs.both_costs(model, x)
    heads = np.cumsum([costs.count(lambda h=h, s=s: h(s)) for h, s in zip(model.heads, model.states(x), strict=True)])
    shares = [100 * (cost - asked) / full[-1] for cost, asked in zip(spent[:-1], heads[:-1], strict=True)]
    assert f"{full[-1] / 1e6:.0f} million MACs" in told
    weights = sum(p.numel() for p in model.plain_network().parameters())
    assert f"{weights / 1e6:.1f} million weights" in told
    *first, last = (f"{share:.0f}" for share in shares)
    assert f"exits after {', '.join(first)} and {last} % of its cost" in told
    assert f"for {sdn.epochs:.0f} epochs in batches of {sdn.batch}" in told


def test_the_network_of_plain_images_costs_as_much_less_as_its_track_says():
    sdn, found = registry.get("kaya2019sdn"), []
    for x in (torch.zeros(1, 1, 48, 48), torch.zeros(1, 1, 28, 28)):
        model = sdn.build(SimpleNamespace(train=SimpleNamespace(inputs=x), classes=10), 0)
        found.append(costs.both_costs(model, x)[1][-1])
    assert f"costs {found[1] / found[0]:.0%}".replace("%", " %") in TRACKS["images-plain"].conditions


def test_the_conditions_of_the_track_are_those_that_rows_are_trained_under():
    told = TRACKS["text"].conditions
    assert "4,000 sentences" in told
    assert "one epoch in batches of 8, by AdamW with weight decay 0.01" in told
    assert "to 1e-4, to 1e-3 for what starts from nothing" in told


WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 10: "ten"}


@pytest.mark.parametrize("key", bench.members("text"))
def test_what_the_paper_trains_otherwise_is_among_the_deviations(key):
    """Each setting of the training names the paper's value; where that differs from ours, a deviation names it too."""
    info = registry.describe(key)
    told = " ".join(info.deviations)
    for setting in info.settings:
        if setting.name.endswith(("epochs", "batch", "rate")):
            theirs = re.search(r"(the paper|released (script|code)|not known).*", setting.meaning)
            assert theirs, f"{setting.name} does not say what the paper has, or that it is not known"
            for number in re.findall(r"\d+(?:e-\d+)?", theirs[0]):
                said = rf"(?<![\w.-]){number}(?![\w])|\b{WORDS.get(int(float(number)), number)}\b"
                assert float(number) == float(setting.default) or re.search(said, told), (setting.name, number)


def test_a_board_holds_the_searches_of_each_seed(place):
    found = result(seed=1)
    point = DesignPoint(quality=0.8, share=0.5, front=True)
    search = Search(
        algorithm="greedy", space="exits", designs=8.0, budget=4, seed=1, quality="accuracy", cost="MACs",
        judged_on="4 images", found=[point], random=[point], hypervolume=0.4, random_hypervolume=0.4,
    )  # fmt: skip
    searched = found.model_copy(update={"curves": [found.curves[0].model_copy(update={"search": search})]})
    for each in (result(seed=0), searched):
        bench.keep(each, place / "text")
    assert bench.board("text", place=place).searches == {(KEY, ""): {1: search}}
