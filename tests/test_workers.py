"""Tasks in processes of their own: what one that dies takes along."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from eelit.methods.harness.workers import spread


def finish(folder, name):
    """Leave a mark for each time that it ran, which tells in which process."""
    (folder / f"{name}-{time.monotonic_ns()}").write_text(str(os.getpid()))
    return name.upper()


def die(folder):
    """Kill the process as soon as the other two tasks have finished and their results lie aside."""
    while len(list(folder.glob("temporary/*/*.pickle"))) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_had_finished_when_a_process_died_is_neither_lost_nor_run_again(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    tasks = {name: partial(finish, tmp_path, name) for name in ("a", "b")} | {"c": partial(die, tmp_path)}
    outcomes = {}
    for name, found in spread(tasks, "loky", jobs=2):
        outcomes[name] = found
        marks = tmp_path.glob("[ab]-*")
        # The pool is dead, the process of the other task with it, while its result waits to be taken.
        assert within(30, lambda marks=list(marks): marks and not any(running(int(m.read_text())) for m in marks))
    assert (outcomes["a"], outcomes["b"]) == ("A", "B")
    assert isinstance(outcomes["c"], Exception)
    assert sorted(path.name.partition("-")[0] for path in tmp_path.glob("[ab]-*")) == ["a", "b"]


ORPHANED = """
import os, sys, time
from pathlib import Path
from eelit.methods.harness.workers import spread


def sleep():
    Path(sys.argv[1]).write_text(str(os.getpid()))
    time.sleep(60)


if __name__ == "__main__":
    list(spread({"a": sleep}, "loky", jobs=2))
"""


def test_workers_end_with_the_process_that_started_them_busy_or_not(tmp_path):
    (tmp_path / "program.py").write_text(ORPHANED)
    told = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py", told], stderr=subprocess.DEVNULL)
    assert within(30, lambda: told.exists() and told.read_text() and len(children(parent.pid)) >= 3)
    started = children(parent.pid)  # the one that sleeps, one that waits for a task, and what tracks their resources
    assert int(told.read_text()) in started
    parent.kill()
    parent.wait()
    assert within(10, lambda: not any(running(pid) for pid in started))


def children(pid):
    """Return the processes that one has started and that are still there."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def within(seconds, true):
    """Wait until it is true, and say whether it was in time."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def running(pid):
    """Whether the process still does something; one that nobody has asked after is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


KEPT = []


def leave_garbage(megabytes):
    """Leave so much freed memory between few blocks that are kept, in a reference cycle; return the process."""
    cycle = [bytearray(b"x") * 100_000 for _ in range(10 * megabytes)]
    KEPT.extend(cycle[::100])
    cycle.append(cycle)
    return os.getpid()


def held(process):
    """Return the megabytes that a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_a_worker_gives_back_the_memory_of_what_it_ran():
    """Or joblib stops it, which takes it to leak."""
    tasks = {megabytes: partial(leave_garbage, megabytes) for megabytes in (1, 400)}
    holds = {megabytes: held(process) for megabytes, process in spread(tasks, "loky", jobs=1)}
    assert holds[400] - holds[1] < 100
