"""The smoke test: third-party methods, failures that hide nothing, the cache, a real dask cluster."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from measured import KEY, curve, result

from eelit.methods.claims.paired import Difference
from eelit.methods.engine.records import Chance, Samples
from eelit.methods.harness import conformance, dependencies, smoke

THEIRS = Path(__file__).parent / "data" / "third_party"
SMOKE = """
import json, os, sys
from eelit.methods.harness import smoke
if __name__ == "__main__":
    for folder, backend, cache, *keys in json.loads(sys.argv[1]):
        os.environ["EELIT_CACHE"] = folder
        session, reports = smoke.smoke(keys, backend=backend, jobs=2, cache=cache == "cache")
        print(json.dumps([json.loads(r.model_dump_json()) for r in reports]))
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Install the package of somebody else with pip, into a folder of its own."""
    folder = tmp_path_factory.mktemp("theirs")
    source = shutil.copytree(THEIRS, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder / "installed"), str(source)], check=True)
    (folder / "smoke.py").write_text(SMOKE)
    return folder


@pytest.fixture(scope="module")
def run(theirs):
    """Return a function that smoke-tests one after the other in one process, which starts and imports only once.

    A run is the name of its cache, back end, whether to use the cache, and keys.
    """

    def run_smoke(*runs, check=True):
        told = json.dumps([[str(theirs / "caches" / cache), *rest] for cache, *rest in runs])
        done = subprocess.run(
            [sys.executable, str(theirs / "smoke.py"), told],
            env={**os.environ, "PYTHONPATH": str(theirs / "installed")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()] if check else done

    return run_smoke


@pytest.fixture(scope="module")
def ran(run):
    """Return the reports of several runs, by name."""
    runs = {
        "first": ("a", "loky", "cache", "smith2027mine"),
        "second": ("a", "loky", "cache", "smith2027mine"),
        "anew": ("a", "loky", "no-cache", "smith2027mine"),
        "failed": ("b", "loky", "cache", "smith2027broken", "smith2027mine"),
        "failed again": ("b", "loky", "cache", "smith2027broken"),
        "guessed": ("f", "loky", "cache", "smith2027guess"),
        "dask": ("c", "dask", "no-cache", "smith2027broken", "smith2027mine"),
    }
    return dict(zip(runs, run(*runs.values()), strict=True))


def test_other_packages_methods_run_and_a_failure_hides_nothing(ran):
    broken, mine = ran["failed"]
    assert broken["status"] == "failed"
    assert "the gradient went for a walk" in broken["error"]
    assert "Traceback" in broken["log"]
    assert mine["status"] == "passed"
    assert mine["executed_now"]
    assert all(e["counted"] == e["claimed"] for e in mine["result"]["curves"][0]["executions"])
    assert mine["processor_seconds"] >= mine["result"]["training"]["seconds"] >= 0, "of the whole test"
    assert mine["processor_seconds"] > 0
    assert broken["processor_seconds"] is not None


def test_a_process_that_dies_and_a_module_that_is_missing_take_no_other_method_along(run):
    """It may die when the method is trained, or already when its module is imported."""
    keys = ("smith2027killed", "smith2027fatal", "smith2027lost", "smith2027mine")
    ((killed, fatal, lost, mine),) = run(("d", "loky", "no-cache", *keys))
    for dead in (killed, fatal):
        assert dead["status"] == "failed"
        assert "its process died" in dead["error"]
    assert lost["status"] == "failed"  # registered, but not in the package
    assert "smith2027lost" in lost["error"]
    assert mine["status"] == "passed"


def test_unchanged_methods_are_not_run_again_unless_asked(ran):
    (first,), (second,), (third,) = ran["first"], ran["second"], ran["anew"]
    assert [first["executed_now"], second["executed_now"], third["executed_now"]] == [True, False, True]
    assert second["finished"] == first["finished"]
    assert second["fingerprint"] == first["fingerprint"]


def test_what_the_same_code_did_before_it_does_again(ran):
    (first,), (third,) = ran["first"], ran["anew"]
    assert first["result"]["curves"][0]["test"] == third["result"]["curves"][0]["test"]
    assert third["error"] is None


def test_a_method_that_has_learnt_nothing_does_not_pass(ran):
    (guessed,) = ran["guessed"]
    assert guessed["status"] == "failed"
    assert "the method is at chance: it reaches 0." in guessed["error"]
    assert "and the commonest of 10 classes, of 120 samples, 0." in guessed["error"]


@pytest.mark.parametrize(("best", "fails"), [(0.5, True), (0.59, True), (0.6, False), (0.8, False)])
def test_two_standard_errors_above_chance_are_asked_for(best, fails):
    chance = Chance(what="the commonest of 2 classes, of 120 samples", quality=0.5, error=0.0456)
    points = [
        point.model_copy(update={"quality": quality})
        for point, quality in zip(curve().test, (0.4, best, 0.5), strict=True)
    ]
    found = conformance.at_chance(curve().model_copy(update={"chance": chance, "test": points}))
    assert (found is not None) == fails
    other = chance.model_copy(update={"reached": best})  # in a measure of its own: the curve says nothing
    assert (conformance.at_chance(curve().model_copy(update={"chance": other})) is not None) == fails
    assert conformance.at_chance(curve()) is None  # nobody said what chance is


def led(first, last, **changes):
    """Return a curve whose samples are worth so much at its most eager setting and at the full model."""
    ends = [np.array(each, dtype=float) for each in (first, last)]
    eager, middle, full = curve().test
    test = [
        each.model_copy(update={"quality": float(worth.mean()), "samples": Samples(worth)})
        for each, worth in zip((eager, full), ends, strict=True)
    ]
    found = {"test": [test[0], middle, test[1]], "full_quality": test[1].quality}
    return curve().model_copy(update={**found, **changes})


@pytest.mark.parametrize(
    ("first", "last", "clear"),
    [
        ([0, 10, 20, 30], [1, 11, 21, 31], True),  # each a little better, though they differ much among themselves
        ([0, 10, 20, 30], [4, 10, 20, 30], False),  # one gain: as large as its error
        ([1, 1, 0, 0] * 8, [1, 1, 1, 0] * 8, True),
        ([0, 1, 0, 0], [0, 1, 0, 0], False),  # nothing is gained, and nothing varies
        ([0, 1, 1, 1], [0, 1, 0, 0], False),
    ],
)
def test_a_full_model_that_does_not_lead_its_first_exit_is_told(first, last, clear):
    found = conformance.no_lead(led(first, last))
    assert (found is None) == clear
    if found:
        assert f"sample by sample over {len(first)}" in found
        assert "not clearly better than its first exit" in found


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ([0, 0, 0, 0], "clearly worse than its first exit: accuracy is 0.0000 and 1.0000, a lead of -1.0000"),
        ([1, 1, 1, 0], "not clearly better than its first exit: accuracy is 0.7500 and 1.0000, a lead of -0.2500"),
    ],
)
def test_a_full_model_that_loses_clearly_is_not_called_about_as_good(last, said):
    found = conformance.no_lead(led([1, 1, 1, 1], last))
    assert said in found
    assert ("about as good" in found) == ("not clearly" in said)
    assert ("savings cost nothing" in found) == ("clearly worse" in said)


@pytest.mark.parametrize("last", [[0, 0, 0, 0], [1, 1, 1, 0]])
def test_where_answers_must_be_in_time_the_full_model_may_lose_for_being_late(last):
    found = conformance.no_lead(led([1, 1, 1, 1], last, quality="accuracy in time"))
    assert found.endswith("this says what waiting for them costs, not how good they are.")
    assert "say little" not in found


def test_without_samples_the_error_of_chance_counts_for_both_and_without_that_the_lead_alone():
    chance = Chance(what="the mean", quality=0.1, error=0.01)
    bare = [point.model_copy(update={"samples": None}) for point in led([0.5], [0.528]).test]
    near = led([0.5], [0.528], test=bare, chance=chance)  # 2 · √2 · 0.01 = 0.0283
    assert "as if both were measured independently, are 0.0283" in conformance.no_lead(near)
    assert conformance.no_lead(near.model_copy(update={"full_quality": 0.529})) is None
    elsewhere = chance.model_copy(update={"reached": 0.9})  # the error is of another measure
    assert conformance.no_lead(near.model_copy(update={"chance": elsewhere})) is None
    level = near.model_copy(update={"chance": None, "full_quality": 0.5})
    assert "no standard error is known" in conformance.no_lead(level)


def test_where_quality_is_no_mean_over_samples_resamples_tell_how_sure_the_lead_is():
    bare = [point.model_copy(update={"samples": None}) for point in led([0.5], [0.528]).test]
    near = led([0.5], [0.528], test=bare, chance=None)
    assert conformance.no_lead(near, Difference(0.028, 0.013)) is None
    told = conformance.no_lead(near, Difference(0.028, 0.015))
    assert "not clearly better than its first exit: accuracy is 0.5280 and 0.5000" in told
    assert "2 standard errors, by resampling, are 0.0300" in told


def test_a_first_exit_that_rejects_everything_is_no_bar_but_chance_is():
    chance = Chance(what="as many detections, drawn at random", quality=0.5, error=0.01)
    none = led([0, 0, 0, 0], [0.52, 0.52, 0.52, 0.52], chance=chance)  # asked for: 2 · √2 · 0.01 = 0.0283 more
    told = conformance.no_lead(none)
    assert "not clearly better than chance, which its most eager setting does not reach" in told
    assert "accuracy is 0.5200 and 0.5000, a lead of +0.0200" in told
    assert conformance.no_lead(led([0, 0, 0, 0], [0.53, 0.53, 0.53, 0.53], chance=chance)) is None


def test_samples_of_a_last_setting_that_is_not_the_full_model_say_nothing_of_it():
    found = led([0, 1, 0, 0], [1, 1, 1, 1], full_quality=0.25)
    assert "no standard error is known" in conformance.no_lead(found)


def test_an_eager_setting_at_which_not_all_leave_is_not_called_the_first_exit():
    found = led([0, 1], [0, 1])
    first = found.test[0].model_copy(update={"exits": [0.5, 0.5]})
    told = conformance.no_lead(found.model_copy(update={"test": [first, *found.test[1:]]}))
    assert "its most eager setting" in told


@pytest.fixture
def passed(tmp_path, monkeypatch):
    """Return a function: what it gained → the report of a smoke test that passed, in a cache of its own."""
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path))

    def made(gain=0.0, mark="same code", **machine):
        found = result(gain=gain)
        found = found.model_copy(update={"machine": found.machine.model_copy(update=machine)})
        return smoke._report(KEY, mark, "passed", 1.0, [], None).model_copy(update={"result": found})

    return made


def test_a_figure_far_from_that_of_the_same_code_does_not_pass_however_often_it_is_tried(passed):
    smoke._remember(smoke._compared(passed()))
    for _ in range(2):
        found = smoke._compared(passed(gain=-0.1))
        smoke._remember(found)
        assert found.status == "failed"
        assert "unlike its run of 20" in found.error
        assert "accuracy at threshold 0 is 0.500 and was 0.600" in found.error
        assert smoke._remembered(KEY, "same code") is None
    assert smoke._compared(passed(gain=-0.009)).status == "passed"  # one sample of 120


def test_after_a_change_or_on_another_processor_nothing_is_compared(passed):
    smoke._remember(passed())
    assert smoke._compared(passed(gain=-0.1, mark="other code")).status == "passed"
    found = smoke._compared(passed(gain=-0.1, processor="q"))
    assert found.status == "passed"
    assert "not compared with the run of 20" in found.log


def test_a_damaged_report_is_no_reason_not_to_run(passed, capsys):
    smoke._remember(passed())
    assert smoke._remembered(KEY, "same code")
    place = smoke._memory(KEY)
    place.write_bytes(place.read_bytes().replace(b'"passed"', b'"failed"'))
    assert smoke._remembered(KEY, "same code") is None
    assert f"{place} is damaged" in capsys.readouterr().err


def test_a_failed_method_is_run_again(ran):
    before, again = ran["failed"][0], ran["failed again"][0]
    assert before["executed_now"]
    assert again["executed_now"]
    assert again["finished"] >= before["finished"]  # to the second: both may be of the same one


def test_on_a_real_local_dask_cluster(ran):
    broken, mine = ran["dask"]
    assert [broken["status"], mine["status"]] == ["failed", "passed"]
    assert not mine["result"]["prepared_from_cache"], "trained in the cluster"
    assert mine["result"]["curves"][0]["test"] == ran["first"][0]["result"]["curves"][0]["test"]


def test_unknown_method_is_refused_before_anything_runs(run):
    done = run(("e", "loky", "no-cache", "smith2027mine", "nobody2000nothing"), check=False)
    assert done.returncode != 0
    assert "no method is registered under the key 'nobody2000nothing'" in done.stderr


LOADED = """
import sys
from eelit.methods.harness import registry, runner, smoke

def look(key, **options):
    missing = [each for each in registry.own() if f"eelit.methods.papers.{each}" not in sys.modules]
    theirs = [name for name in sys.modules if name.startswith("their_package")]
    raise ValueError(f"missing {missing}, too much {theirs}, transformers {'transformers' in sys.modules}")

runner.run = look
print(smoke._run_one("smith2027mine", "", 0, sys.argv[1]).error)
"""


def test_our_own_methods_are_imported_before_the_first_one_runs_and_nobody_elses(theirs, tmp_path):
    """Or joblib stops a worker that has imported one after the other, which it takes to leak."""
    found = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(theirs / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.strip() == "ValueError: missing [], too much [], transformers True", found.stderr


def test_a_report_is_out_of_date_when_a_check_has_changed(monkeypatch):
    """That of the quality against chance among them."""
    before = smoke.fingerprint(KEY, 0)
    assert smoke.fingerprint(KEY, 0) == before
    checks = dependencies.module("eelit.methods.harness.conformance")
    for name, code in (("ERRORS", "ERRORS = 3.0"), ("at_chance", "def at_chance(curve): return None")):
        with monkeypatch.context() as patch:
            patch.setitem(checks.definitions, name, ast.parse(code).body)
            patch.setattr(checks, "known", {})
            patch.setattr(checks, "texts", {})
            assert smoke.fingerprint(KEY, 0) != before
    assert smoke.fingerprint(KEY, 0) == before
