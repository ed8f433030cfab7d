"""`eelit run` and `eelit smoke`: what they refuse before anything is trained."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from measured import result

from eelit.cli.run import _report
from eelit.methods.data import cache, manifest
from eelit.methods.engine.records import DesignPoint, Outcome, Search
from eelit.methods.harness import bench, runner, smoke
from eelit.methods.harness import plot as plotting


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Let `run` note what it is asked for instead of training."""
    calls = []

    def note(key, *, knobs, **_):
        calls.append((key, knobs))
        raise runner.UnknownVariant("enough")

    monkeypatch.setattr(runner, "run", note)
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    return calls


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["zhou2020pabee", "--knob", "nan"], "`nan` is not a setting; give a number"),
        (["zhou2020pabee", "--knob", "-1"], "-1 is no patience of zhou2020pabee; give a whole number such as 0, 1, 2"),
        (["zhou2020pabee", "--seed", "-1"], "-1 is not in the range 0<=x<=2147483647"),
        (["xin2020deebert", "--knob", "0.2", "--knob", "NaN"], "`nan` is not a setting; give a number"),
        (
            ["zhou2020pabee", "--knob", "1.5"],
            "1.5 is no patience of zhou2020pabee; give a whole number such as 0, 1, 2",
        ),
        (["zhou2020pabee", "--knob", "1", "--knob", "inf"], "inf is no patience of zhou2020pabee"),
        (
            ["zhou2020pabee", "--keep", "--knob", "1"],
            "--keep keeps a whole run; leave out --knob, --variant and --full",
        ),
        (["zhou2020pabee", "--keep", "--full"], "--keep keeps a whole run; leave out --knob, --variant and --full"),
    ],
)
def test_knobs_that_mean_nothing_are_refused(asked, eelit, words, said):
    found = eelit("run", *words)
    assert found.exit_code == 2
    assert said in found.stderr
    assert asked == []


@pytest.mark.parametrize(
    ("key", "knob"), [("zhou2020pabee", 2.0), ("xin2020deebert", 0.25), ("wang2018skipnet", -math.inf)]
)
def test_knobs_that_mean_something_are_not(asked, eelit, key, knob):
    eelit("run", key.upper(), f"--knob={knob}")
    assert asked == [(key, (knob,))]


@pytest.mark.parametrize("words", [["run", "pabee"], ["smoke", "pabee"], ["smoke"]])
def test_a_cache_that_cannot_be_written_is_one_sentence(asked, eelit, tmp_path, monkeypatch, words):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "file" / "cache"))
    found = eelit(*words)
    assert found.exit_code == 5
    assert found.stderr == (
        f"eelit: {tmp_path / 'file' / 'cache'} cannot be written (not a directory); "
        "name another cache folder in EELIT_CACHE\n"
    )
    assert asked == []


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("file", "eelit: {} cannot be written (file exists); choose another with --out\n"),
        ("file/below", "eelit: {} cannot be written (not a directory); choose another with --out\n"),
        ("", "eelit: {}/zhou2020pabee.svg cannot be written (it is a folder); choose another with --out\n"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(asked, eelit, tmp_path, out, said):
    (tmp_path / "file").touch()
    (tmp_path / "zhou2020pabee.svg").mkdir()
    found = eelit("run", "zhou2020pabee", "--out", tmp_path / out)
    assert found.exit_code == 5
    assert asked == []
    assert found.stderr == said.format(tmp_path / out)


def test_a_method_that_ends_the_process_ends_in_one_sentence(eelit, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run", lambda *_, **__: sys.exit(0))
    found = eelit("run", "zhou2020pabee", "--out", tmp_path)
    assert found.exit_code == 4
    assert found.stderr == "eelit: zhou2020pabee was not run to its end: its code ended the process (exit 0)\n"


def test_a_cache_that_fails_on_the_way_is_one_sentence_too(eelit, tmp_path, monkeypatch):
    """With --out a cache that can only be read may do, until something has to be trained."""

    def refuse(*_, **__):
        raise NotADirectoryError(20, "Not a directory", str(tmp_path / "file" / "weights"))

    (tmp_path / "file").touch()
    monkeypatch.setattr(runner, "run", refuse)
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "file"))
    found = eelit("run", "zhou2020pabee", "--out", tmp_path / "out")
    assert found.exit_code == 5
    assert f"{tmp_path / 'file'} cannot be written (not a directory); name another cache" in found.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_result_is_written_though_nobody_reads_how_far_it_is(tmp_path, unbuffered):
    """The reader of stderr has gone when progress is told: what was hours of training must not end in nothing."""
    program = """
import sys
from measured import result
from eelit.cli.main import main
from eelit.methods.harness import runner

def run(key, progress, **_):
    for step in range(3):
        progress(f"step {step}", None)
    return result(0)

runner.run = run
main()
"""
    read, write = os.pipe()
    os.close(read)
    found = subprocess.run(
        [sys.executable, "-c", program, "run", "zhou2020pabee", "--format", "json", "--out", tmp_path],
        stdout=subprocess.PIPE, stderr=write, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(write)
    assert found.returncode == 0
    assert json.loads(found.stdout) == json.loads((tmp_path / "zhou2020pabee.json").read_text())


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["run", "write", "plot"])
def test_a_disk_that_fills_up_during_a_run(eelit, tmp_path, monkeypatch, place):
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runner, "run", full if place == "run" else lambda *_, **__: result(0))
    if place != "run":
        monkeypatch.setattr(*((cache, "write") if place == "write" else (plotting, "plot")), full)
    found = eelit("run", "zhou2020pabee", "--out", tmp_path / "out")
    assert found.exit_code == 5
    where = tmp_path / ("cache" if place == "run" else "out")
    assert found.stderr.startswith(f"eelit: {where} cannot be written (no space left on device); make room on its disk")
    assert found.stderr.count("\n") == 1


def test_a_disk_that_fills_up_during_a_smoke_test(eelit, tmp_path, monkeypatch):
    """It is no fault of the method's, and the next would meet it, too."""
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EELIT_ROOT", str(tmp_path))
    monkeypatch.setattr(runner, "run", full)
    monkeypatch.setattr(smoke, "spread", lambda tasks, *_: ((key, task()) for key, task in tasks.items()))
    monkeypatch.setattr("eelit.cli.smoke.method_key", lambda name: name)
    found = eelit("smoke", "zhou2020pabee", "xin2020deebert")
    assert found.exit_code == 5
    assert found.stderr == (
        f"eelit: {tmp_path / 'cache'} cannot be written (no space left on device); "
        "make room on its disk, or name another cache folder in EELIT_CACHE\n"
    )
    (tmp_path / "build" / "smoke").rmdir()
    (tmp_path / "build" / "smoke").touch()
    found = eelit("smoke", "zhou2020pabee")
    assert found.exit_code == 5
    assert found.stderr.startswith(f"eelit: {tmp_path / 'build' / 'smoke'} cannot be written (file exists); run `eelit")


def test_an_unknown_name_is_2_and_a_work_without_method_too(asked, methodless, eelit):
    for words, said in [(["run", "pabe"], "did you mean PABEE"), (["smoke", methodless], "cannot be run")]:
        found = eelit(*words)
        assert found.exit_code == 2
        assert said in found.stderr


def test_the_data_list_tells_programs_all_that_the_manifest_has(eelit):
    listed = {item["name"]: item for item in json.loads(eelit("data", "list", "--format", "json").stdout)}
    assert list(listed) == [item.name for item in manifest.items()]
    for item in manifest.items():
        told = listed[item.name]
        assert (told["non_commercial"], told["citation"], told["size"]) == (
            item.non_commercial,
            item.citation,
            item.size,
        )
        assert {file["name"]: (file["sha256"], file["size"]) for file in told["files"]} == {
            name: (file.sha256, file.size) for name, file in item.files.items()
        }
        assert [source["kind"] for source in told["sources"]] == [source.kind for source in item.sources]
        assert all(source["members"] for source in told["sources"])


def test_a_report_shows_the_front_of_a_search_beside_a_random_one():
    point = DesignPoint(quality=0.75, share=0.5, front=True, design="exit 1 below 0.3")
    search = Search(
        algorithm="NSGA-II", space="which exits are there", designs=23887872.0, budget=480, seed=4, quality="accuracy",
        cost="MACs of an image", judged_on="1000 validation images", random=[point], hypervolume=0.5125,
        random_hypervolume=0.51, found=[point, point.model_copy(update={"front": False, "design": ""})],
    )  # fmt: skip
    found = result(0)
    plain = _report(found, None)
    curves = [found.curves[0].model_copy(update={"search": search})]
    told = " ".join(_report(found.model_copy(update={"curves": curves}), None).split())
    assert "FRONT OF THE SEARCH" not in plain
    assert "accuracy cost design: which exits are there" in told
    assert told.count("0.7500 50.0% exit 1 below 0.3") == 1
    assert "NSGA-II judged 480 different ones of 2.4e+07 designs on 1000 validation images, seed 4." in told
    assert "worth 0.5125, that of as many designs drawn at random 0.5100" in told
    greedy = found.curves[0].model_copy(update={"search": search.model_copy(update={"algorithm": "greedy choice"})})
    assert "Greedy choice judged 480" in _report(found.model_copy(update={"curves": [greedy]}), None)


@pytest.mark.parametrize(("holds", "kept"), [(True, ["seed0-new.json"]), (False, [])])
def test_what_is_kept_keeps_the_rules(monkeypatch, tmp_path, eelit, holds, kept):
    check = Outcome(name="rule", statement="It is kept.", holds=holds, measured="so")
    ran = result(code="new").model_copy(update={"checks": [check], "scale": "default"})
    monkeypatch.setattr(runner, "run", lambda key, **_: ran)
    monkeypatch.setattr(bench, "folder", lambda: tmp_path)
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    found = eelit("run", "pabee", "--keep", "--out", str(tmp_path / "out"))
    assert found.exit_code == (0 if holds else 4), found.stderr
    assert sorted(path.name for path in tmp_path.glob("alone/zhou2020pabee/*")) == kept
