"""Tasks in processes of their own: what one that dies takes along."""

import os
import signal
import time
from functools import partial
from pathlib import Path

from eelit.methods.workers import spread


def finish(folder, name):
    """Leave a mark for each time that it ran."""
    (folder / f"{name}-{time.monotonic_ns()}").touch()
    return name.upper()


def die(folder):
    """Kill the process as soon as the other two tasks have finished and been sent."""
    while len(list(folder.glob("*-*"))) < 2:
        time.sleep(0.01)
    time.sleep(0.2)
    (folder / "dead").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_had_finished_when_a_process_died_is_neither_lost_nor_run_again(tmp_path):
    tasks = {name: partial(finish, tmp_path, name) for name in ("a", "b")} | {"c": partial(die, tmp_path)}
    outcomes = {}
    for name, found in spread(tasks, "loky", jobs=2):
        outcomes[name] = found
        deadline = time.monotonic() + 20
        while not (tmp_path / "dead").exists() and time.monotonic() < deadline:
            time.sleep(0.01)  # so long that the pool dies while the other result waits to be taken
        time.sleep(0.3)
    assert (outcomes["a"], outcomes["b"]) == ("A", "B")
    assert isinstance(outcomes["c"], Exception)
    assert sorted(path.name.partition("-")[0] for path in Path(tmp_path).glob("*-*")) == ["a", "b"]
