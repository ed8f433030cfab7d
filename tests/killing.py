"""Kills a process at a step of its writing: before or after it makes sure of a file, moves or removes one, counted.

In a folder of PYTHONPATH, under the name `sitecustomize.py`, it kills any Python so; `KILL_AT` says when.
"""

import os
import signal


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def at(step, do=kill):
    """Kill this process at this step, counted from 1, or do something else to it."""
    passed = 0

    def watched(function):
        def replacement(*given, **named):
            tick()
            found = function(*given, **named)
            tick()
            return found

        return replacement

    def tick():
        nonlocal passed
        passed += 1
        if passed == step:
            do()

    for name in ("fsync", "replace", "link", "unlink"):
        setattr(os, name, watched(getattr(os, name)))


if "KILL_AT" in os.environ:
    at(int(os.environ["KILL_AT"]))
