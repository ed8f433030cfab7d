"""What one CI run costs in processor seconds, and what it would come to with eighty methods.

Smoke tests are run with nothing but the data in the cache, so everything is trained anew; then the tests, those of the
methods (conformance and a file per paper) apart from the rest, which does not grow with them. Says which limit is
exceeded; ends with 1 if a run failed, as what it cost until then is no figure.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from eelit.methods.data.cache import cache_root
from eelit.methods.harness import registry

ROOT = Path(__file__).parents[1]
OF_METHODS = ["tests/papers", "tests/test_conformance.py"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "loadfile"]
SMOKE_SECONDS, TEST_SECONDS, EIGHTY = 15, 6, 80
"""What a method may cost on average in smoke tests and in tests, and how many methods there shall be."""


@dataclass(frozen=True)
class Run:
    """What one command cost."""

    name: str
    cpu: float  # seconds of the processor, those of the processes that it started included
    clock: float  # seconds
    code: int  # with which it ended
    limit: float | None = None  # processor seconds a method; None for what does not grow with the methods


def run(name: str, words: list[str], *, limit: float | None = None, **environment: str) -> Run:
    """Run a command, its output left out but for what it says on stderr."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, check=False)
    after, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(name, cpu, clock, done.returncode, limit)


def smoke() -> Run:
    """Smoke-test every method with a cache that holds data alone."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("data", "derived"):
            if (cache_root() / part).exists():
                Path(folder, part).symlink_to(cache_root() / part)
        words = [str(Path(sys.executable).with_name("eelit")), "smoke"]
        return run("smoke tests, all trained anew", words, limit=SMOKE_SECONDS, EELIT_CACHE=folder)


def report(runs: list[Run], n: int) -> int:
    """Print the table for ``n`` methods and what is wrong; return the exit code.

    A failed run has no figures, and what it would come to with others is not summed.
    """
    print(f"{'':34}{'CPU s':>8}{'clock s':>9}{'a method':>10}{'limit':>7}{f'CPU s at {EIGHTY}':>13}")
    total = 0.0
    for each in runs:
        if each.code:
            print(f"{each.name:34}  failed: ended with {each.code}")
            continue
        a_method, limit = (f"{each.cpu / n:.1f}", f"{each.limit:g}") if each.limit else ("", "")
        grown = EIGHTY * each.cpu / n if each.limit else each.cpu
        total += grown
        print(f"{each.name:34}{each.cpu:8.0f}{each.clock:9.0f}{a_method:>10}{limit:>7}{grown:13.0f}")
    failed = [each for each in runs if each.code]
    if not failed:
        print(f"{f'together at {EIGHTY} methods':34}{'':34}{total:13.0f}, {total / 120:.0f} minutes of two cores")
    for each in runs:
        if not each.code and each.limit and each.cpu / n > each.limit:
            print(f"limit exceeded: {each.name} take {each.cpu / n:.1f} CPU s a method, more than {each.limit:g}")
    if failed:
        print(f"failed, so not measured: {', '.join(each.name for each in failed)}", file=sys.stderr)
    return 1 if failed else 0


def main() -> int:
    """Measure and print."""
    n = len(registry.keys())
    runs = [
        smoke(),
        run("tests of methods", [*PYTEST, *OF_METHODS], limit=TEST_SECONDS),
        run("all other tests", [*PYTEST, *(f"--ignore={path}" for path in OF_METHODS)]),
    ]
    print(f"{n} methods on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    return report(runs, n)


if __name__ == "__main__":
    sys.exit(main())
