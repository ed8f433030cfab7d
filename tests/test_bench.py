"""The benchmark as a process: killed and gone on with, and spread over a dask cluster. Nothing is measured for real."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from measured import KEY, result

from eelit.methods.harness import bench

PROGRAM = """
import os, sys, time
from pathlib import Path
from eelit.methods.harness import bench
from eelit.methods.engine.records import Result

place, backend, stuck = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
main, replace = os.getpid(), os.replace


def wait():
    (place / "stuck").touch()
    time.sleep(60)


def run(name, key, seed, threads):
    with (place / "log").open("a") as log:
        log.write(f"{seed} ")
    (place / "where").write_text(f"{os.getpid() != main}, {'distributed.worker' in sys.modules}")
    if seed == 1 and stuck == "measuring":
        wait()
    return Result.model_validate_json((place / f"made{seed}.json").read_text())


def renamed(source, target):
    if "seed1" in str(target) and stuck == "writing":
        wait()
    replace(source, target)


if __name__ == "__main__":
    bench._run, os.replace = run, renamed
    runs = bench.missing("text", [sys.argv[4]], 2, place / "results")
    failed = bench.bench("text", runs, backend=backend, place=place / "results")
    (place / "failed").write_text(repr(failed))
"""


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a benchmark of two seeds in the folder; it may get stuck in the second."""
    (tmp_path / "program.py").write_text(PROGRAM)
    for seed in (0, 1):
        (tmp_path / f"made{seed}.json").write_text(result(seed).model_dump_json())
    groups = []

    def started(backend="loky", stuck="never"):
        words = [sys.executable, str(tmp_path / "program.py"), str(tmp_path), backend, stuck, KEY]
        process = subprocess.Popen(words, start_new_session=True)
        groups.append(process.pid)
        return process

    yield started
    for group in groups:
        with suppress(ProcessLookupError):  # workers of a benchmark that was killed stay for minutes
            os.killpg(group, signal.SIGKILL)


def kept(folder):
    """Return the seeds whose results are there, and those that were run, by their order."""
    known = bench.stored("text", KEY, folder / "results")
    assert known.unreadable == ()
    return [found.seed for found in known.results], [int(seed) for seed in (folder / "log").read_text().split()]


@pytest.mark.parametrize("stuck", ["measuring", "writing"])
def test_a_killed_benchmark_goes_on_where_it_was(tmp_path, start, stuck):
    process = start(stuck=stuck)
    while not (tmp_path / "stuck").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(list(tmp_path.rglob("*.part"))) == (stuck == "writing")
    assert kept(tmp_path) == ([0], [0, 1])
    assert bench.missing("text", [KEY], 2, tmp_path / "results") == [(KEY, 1)]
    assert start().wait() == 0
    assert (tmp_path / "failed").read_text() == "[]"
    assert kept(tmp_path) == ([0, 1], [0, 1, 1])


def test_a_benchmark_on_a_real_dask_cluster(tmp_path, start):
    pytest.importorskip("distributed")
    assert start("dask").wait() == 0
    assert (tmp_path / "where").read_text() == "True, True"  # in another process, and it is one of dask's
    assert (tmp_path / "failed").read_text() == "[]"
    assert kept(tmp_path) == ([0, 1], [0, 1])


def test_a_kept_run_replaces_what_older_code_found(tmp_path):
    old, new, other = result(code="old"), result(created=1), result(1, code="old")
    for each in (old, other):
        bench.keep_alone(each, tmp_path)
    assert not bench.alone(KEY, tmp_path).current
    path = bench.keep_alone(new, tmp_path)
    assert sorted(found.name for found in path.parent.iterdir()) == [f"seed0-{new.code}.json", "seed1-old.json"]
    known = bench.alone(KEY, tmp_path)
    assert known.current
    assert [found.created for found in known.results] == [new.created]
    assert path.parent == tmp_path / "alone" / KEY
