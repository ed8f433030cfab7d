"""What happened to each test sample: kept beside a result, found again, and missed in one sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest
from measured import KEY, result

from eelit.methods.engine import measured
from eelit.methods.engine.records import Baseline, OperatingPoint, Result, Samples, read
from eelit.methods.harness import bench, outcomes, summary

N = 203  # no multiple of 8


def points(seed, knobs=3, n=N, worth=None):
    """Return points of a sweep of 4 exits, and what each sample is worth there."""
    rng = np.random.default_rng(seed)
    right = rng.random((knobs, n)) < np.linspace(0.5, 0.8, knobs)[:, None] if worth is None else worth
    exits = rng.integers(4, size=(knobs, n))
    costs = 100 * np.linspace(0.2, 1, knobs)
    found = [measured.point(k, right[k], exits[k], count=4, cost=float(costs[k]), full=100.0) for k in range(knobs)]
    return found, right, exits


def sampled(seed=0, key=KEY, weights=0, own=0, **more):
    """Return a result that knows its samples; its baseline depends on the weights only."""
    test, right, exits = points([seed, weights, own, 1], **more)
    baseline, stands, _ = points([seed, weights], knobs=4)
    curve = (
        result()
        .curves[0]
        .model_copy(
            update={
                "validation": test,
                "test": test,
                "baselines": [Baseline(name="max-confidence", validation=baseline, test=baseline)],
            }
        )
    )
    return result(seed, key=key).model_copy(update={"curves": [curve]}), right, exits, stands


def test_what_each_sample_is_worth_makes_the_point():
    (point,), right, exits = points(0, knobs=1)
    assert point.quality == right[0].mean()
    assert point.exits == pytest.approx([(exits == i).mean() for i in range(4)])
    assert point.samples.quality is right[0] or (point.samples.quality == right[0]).all()
    dropped = measured.point(0, right[0, :4], [0, -1, 3, -1], count=4, cost=1.0, full=2.0)
    assert dropped.exits == [0.25, 0, 0, 0.25]
    assert dropped.samples.exits.tolist() == [0, 4, 3, 4]
    whole = measured.point(0, 0.7, [1, 1], count=2, cost=1.0, full=2.0)
    assert (whole.quality, whole.samples.quality) == (0.7, None)


def test_samples_are_no_part_of_the_record():
    (point,), *_ = points(0, knobs=1)
    again = OperatingPoint.model_validate_json(point.model_dump_json())
    assert again.samples is None
    assert again == point
    assert again != point.model_copy(update={"cost": 1.0})
    assert point.model_copy(update={"knob": 2.0}).samples is point.samples
    assert "samples" not in repr(point)
    assert again != "a point"


def test_what_was_kept_is_found_again(tmp_path):
    given, right, exits, stands = sampled()
    path = bench.keep(given, tmp_path)
    kept = read(Result, path)
    assert kept == given.model_copy(update={"samples": kept.samples})
    found = outcomes.Outcomes.beside(path, kept)
    assert found.path.name == f"{path.stem}.samples.npz"
    assert found.quality("").dtype == bool
    assert (found.quality("") == right).all()
    assert (found.exits("") == exits).all()
    assert (found.quality("", "max-confidence") == stands).all()
    with np.load(found.path, allow_pickle=False) as plain:  # by numpy alone
        assert plain["samples"].tolist() == [N]


def test_what_is_no_right_or_wrong_is_kept_as_it_is(tmp_path):
    worth = np.random.default_rng(2).normal(30, 2, size=(3, N))
    given, *_ = sampled(worth=worth)
    path = bench.keep(given, tmp_path)
    found = outcomes.Outcomes.beside(path, read(Result, path)).quality("")
    assert found == pytest.approx(worth, rel=1e-6)


def test_the_same_outcomes_make_the_same_bytes():
    given, *_ = sampled()
    assert outcomes.packed(given) == outcomes.packed(given)


def test_nothing_is_kept_where_nothing_is_known_of_each_sample(tmp_path):
    assert outcomes.packed(result()) == b""
    path = bench.keep(result(), tmp_path)
    assert read(Result, path).samples == ""
    assert [*path.parent.iterdir()] == [path]
    given, *_ = sampled()
    broken = given.curves[0].test[1].model_copy(update={"samples": Samples(np.ones(3, dtype=bool))})
    curve = given.curves[0].model_copy(update={"test": [given.curves[0].test[0], broken, given.curves[0].test[2]]})
    assert outcomes.packed(given.model_copy(update={"curves": [curve]})) != b""  # of its baseline, at least
    path = bench.keep(given.model_copy(update={"curves": [curve]}), tmp_path / "other")
    found = outcomes.Outcomes.beside(path, read(Result, path))
    assert found.quality("") is None
    assert found.quality("", "max-confidence") is not None


def test_realistic_outcomes_are_small():
    """Ten knobs of 10,000 pictures, right more often the later they leave: most of it is where they leave."""
    rng = np.random.default_rng(3)
    sure, luck = np.sort(rng.random((4, 10_000)), axis=0), rng.random(10_000)
    test = []
    for k, threshold in enumerate(np.linspace(0, 1, 10)):
        exits = np.where((sure >= threshold).any(axis=0), (sure >= threshold).argmax(axis=0), 3)
        right = luck < 0.6 + 0.08 * exits
        test.append(measured.point(k, right, exits, count=4, cost=1.0, full=1.0))
    curve = result().curves[0].model_copy(update={"test": test, "validation": test, "baselines": []})
    assert len(outcomes.packed(result().model_copy(update={"curves": [curve]}))) < 25_000


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: path.unlink(), "it cannot be read (No such file or directory)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "it is damaged, or not the file that"),
        (lambda path: path.write_bytes(outcomes.packed(sampled(1)[0])), "it is damaged, or not the file that"),
    ],
    ids=["missing", "cut short", "of another result"],
)
def test_a_file_that_does_not_go_with_its_result_is_named_and_its_seed_does_without(place, eelit, harm, why):
    for seed in range(3):
        path = bench.keep(sampled(seed)[0], place / "text")
    harm(path.with_suffix(outcomes.SUFFIX))
    found = bench.stored("text", KEY)
    assert [each.seed for each in found.results] == [0, 1, 2]
    assert [*found.samples] == [0, 1]
    assert why in str(found.unpaired[0])
    for words in (["leaderboard"], ["compare", "pabee"]):
        shown = eelit(*words)
        assert shown.exit_code == 0, shown.stderr
        (line,) = [line for line in shown.stderr.splitlines() if "samples.npz" in line]
        assert line.endswith("intervals are computed without that seed")
    assert bench.board("text").rows[0].standings[0.5].quality.seeds == 2


def test_a_copy_of_a_result_without_its_samples_takes_nothing_from_it(place):
    path = bench.keep(sampled(0)[0], place / "text")
    path.with_name(f"{path.stem}-copy.json").write_bytes(path.read_bytes())
    found = bench.stored("text", KEY)
    assert len(found.unreadable) == 1
    assert (len(found.samples), len(found.unpaired)) == (1, 0)


def board_of(place, **more):
    """Keep two methods of the same weights and one of others, and return the leaderboard."""
    for seed in range(3):
        bench.keep(sampled(seed)[0], place / "text")
        bench.keep(sampled(seed, key="xin2020deebert", own=1)[0], place / "text")
        bench.keep(sampled(seed, key="schwartz2020right", weights=1, own=2)[0], place / "text")
    return bench.board("text", **more)


def test_a_rule_is_a_row_once_for_the_same_weights(place):
    rows = {row.id: row for row in board_of(place).rows}
    assert {"zhou2020pabee", "max-confidence@xin2020deebert", "max-confidence@schwartz2020right"} <= rows.keys()
    assert "max-confidence@zhou2020pabee" not in rows
    rule = rows["max-confidence@xin2020deebert"]
    assert (rule.rule, rule.key, rule.shared, rule.is_main) == ("max-confidence", "xin2020deebert", (KEY,), False)
    assert rule.knobs[0] == "confidence 0"
    assert rule.points == rows[KEY].baselines["max-confidence"]
    gain = rows[KEY].against["max-confidence"][0.5].mean
    assert rows[KEY].at[0.5].mean - rule.at[0.5].mean == pytest.approx(gain)


def test_intervals_are_of_the_figures_that_the_row_shows(place):
    board = board_of(place, sure=summary.SHARES)
    best = board.rows[0]
    for row in board.rows:
        for share in summary.SHARES:
            standing = row.standings[share]
            assert standing.quality.mean == pytest.approx(row.at[share].mean, abs=1e-6)
            assert standing.quality.low < row.at[share].mean < standing.quality.high
        assert row.standings[0.5].behind.mean == pytest.approx(row.at[0.5].mean - best.at[0.5].mean, abs=1e-6)
    assert (best.place(0.5), best.standings[0.5].level) == ("best", True)
    assert {*bench.board("text").rows[0].standings} == {0.5}


def test_gains_over_a_baseline_have_intervals_of_the_same_seeds_and_samples(place):
    rows = board_of(place, sure=summary.SHARES).rows
    for row in rows:
        assert {*row.over} == ({*row.against} if not row.rule else set())
        for rule, gains in row.over.items():
            for share, gain in gains.items():
                assert gain.mean == pytest.approx(row.against[rule][share].mean, abs=1e-6)
                assert gain.seeds == 3
    (own,) = [row.over["max-confidence"][0.5] for row in rows if row.id == KEY]
    (alone,) = [row.standings[0.5].quality for row in rows if row.id == KEY]
    assert 0 < own.deviation != alone.deviation


def test_seeds_that_are_tested_on_other_samples_have_no_interval(place):
    for seed in range(2):
        given, *_ = sampled(seed)
        bench.keep(given.model_copy(update={"data": {"examples": f"of seed {seed}"}}), place / "text")
    assert bench.board("text").rows[0].standings == {}


def test_old_results_are_shown_without_intervals(place, eelit):
    for seed in range(3):
        bench.keep(result(seed), place / "text")
    board = bench.board("text")
    assert all(row.standings == {} for row in board.rows)
    assert board.rows[0].place(0.5) == ""
    assert "no intervals: no outcomes of single test samples are stored" in eelit("leaderboard").stdout.replace(
        "\n    ", " "
    )


def test_the_leaderboard_tells_how_sure_it_is(place, eelit):
    board = board_of(place)
    shown = eelit("leaderboard").stdout
    standing = board.rows[0].standings[0.5]
    assert f"{standing.quality.low:.4f} to {standing.quality.high:.4f}" in shown
    assert f"the {N} test samples alone cause a standard error of about" in shown
    assert "max-confidence@xin2020deebert: also for zhou2020pabee" in shown
    rows = json.loads(eelit("leaderboard", "--format", "json").stdout)["rows"]
    assert [row["id"] for row in rows] == [row.id for row in board.rows]
    assert rows[0]["standings"]["0.5"]["quality"]["low"] == pytest.approx(standing.quality.low)
    rules = [row for row in rows if row["rule"]]
    assert {row["fidelity"] for row in rules} == {None}
    tsv = eelit("leaderboard", "--format", "tsv").stdout.splitlines()
    assert len({line.count("\t") for line in tsv}) == 1
    assert sum("max-confidence@" in line for line in tsv) == 2


def test_one_seed_tells_of_other_test_samples_alone(place, eelit):
    bench.keep(sampled(0)[0], place / "text")
    assert "the interval covers other test samples only" in eelit("leaderboard").stdout.replace("\n    ", " ")


def test_a_rule_can_be_compared_like_a_method(place, eelit, tmp_path):
    board_of(place)
    words = ("compare", "pabee", "max-confidence@pabee", "Max-Confidence@deebert")
    found = eelit(*words, "--format", "json")
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    assert [row["id"] for row in told["rows"]] == [
        KEY, "max-confidence@zhou2020pabee", "max-confidence@xin2020deebert",
    ]  # fmt: skip
    assert set(told["claims"]) == {KEY}
    assert all(row["standings"]["0.5"] for row in told["rows"])
    picture = tmp_path / "drawn" / "both.svg"
    text = eelit(*words, "--out", picture)
    assert "minus the best of these, at 50%" in text.stdout
    assert picture.exists()
    alone = eelit("compare", "max-confidence@pabee")
    assert alone.exit_code == 0
    assert "WHAT THE PAPER CLAIMS" not in alone.stdout


def test_a_rule_that_there_is_not_is_refused(place, eelit):
    board_of(place)
    wrong = eelit("compare", "patience@pabee")
    assert wrong.exit_code == 2
    assert "there is no baseline 'patience'; there are static-exit@METHOD, max-confidence@METHOD" in wrong.stderr
    none = eelit("compare", "static-exit@pabee")
    assert none.exit_code == 1
    assert "zhou2020pabee was not measured with the baseline static exit" in none.stderr


def test_a_row_without_samples_has_no_place():
    row = summary.row([result()], "", current=True)
    assert row.place(0.5) == ""
    assert replace(row, rule="static exit").id == f"static-exit@{KEY}"
