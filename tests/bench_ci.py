"""What one CI run costs in processor seconds, and what it would come to with eighty methods.

A run is `make site` and `make test`: each of their steps is measured, and both are summed. What installs is left out.
The steps find nothing but data in the cache, and neither types nor lints of an earlier run, as in a fresh checkout: all
methods are trained anew. The tests of methods (conformance and a file per paper) are run apart from the rest.

Smoke tests and the tests of methods grow in proportion to the methods. So do parts of all other steps: each method has
its pages, its claims, its files to lint, to type and to check, its rows in lists. What these steps would come to lies
between what they cost now and that in proportion, and both are printed. Says which limit is exceeded; ends with 1 if a
step failed, as what it cost until then is no figure.
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
BIN = Path(sys.executable).parent
OF_METHODS = ("tests/papers", "tests/test_conformance.py")
PYTEST = "python -m pytest -n auto --dist loadfile"
SMOKE_SECONDS, TEST_SECONDS, EIGHTY = 15, 6, 80
"""What a method may cost on average in smoke tests and in tests, and how many methods there shall be."""


@dataclass(frozen=True)
class Step:
    """One step of what `make` does, or a part of one."""

    target: str  # of the Makefile
    command: str  # as the Makefile has it
    more: tuple[str, ...] = ()  # arguments that are given here besides
    name: str = ""  # in the table; empty: the command
    limit: float | None = None  # processor seconds a method; None for what does not grow in proportion to the methods

    @property
    def words(self) -> list[str]:
        """What is executed."""
        first, *rest = self.command.split()
        return [str(BIN / first), *rest, *self.more]


STEPS = (
    Step("site", "eelit check"),
    Step("site", "eelit build"),
    Step("site", "eelit smoke", name="eelit smoke, all trained anew", limit=SMOKE_SECONDS),
    Step("site", "eelit site build"),
    Step("test", "ruff format --check .", ("--no-cache",)),
    Step("test", "ruff check .", ("--no-cache",)),
    Step("test", "mypy", ("--cache-dir", os.devnull)),
    Step("test", PYTEST, ("-q", *OF_METHODS), "tests of methods", TEST_SECONDS),
    Step("test", PYTEST, ("-q", *(f"--ignore={path}" for path in OF_METHODS)), "all other tests"),
)


@dataclass(frozen=True)
class Run:
    """What one step cost."""

    step: Step
    cpu: float  # seconds of the processor, those of the processes that it started included
    clock: float  # seconds
    code: int  # with which it ended

    @property
    def name(self) -> str:
        """Of the step."""
        return self.step.name or self.step.command

    def grown(self, n: int) -> tuple[float, float]:
        """Return the least and the most processor seconds with eighty methods, measured with ``n``."""
        grown = EIGHTY * self.cpu / n
        return (grown, grown) if self.step.limit else (min(self.cpu, grown), max(self.cpu, grown))


def run(step: Step, **environment: str) -> Run:
    """Run a step, its output left out but for what it says on stderr."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        step.words, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, check=False
    )
    after, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(step, cpu, clock, done.returncode)


def measured() -> list[Run]:
    """Run all steps with a cache that holds data alone."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("data", "derived"):
            if (cache_root() / part).exists():
                Path(folder, part).symlink_to(cache_root() / part)
        place = {"EELIT_CACHE": folder, "EELIT_DB": str(Path(folder, "catalogue.sqlite"))}
        return [run(step, **(place if step.target == "site" else {})) for step in STEPS]


def seconds(value: float) -> str:
    """Return seconds in whole numbers, or if they are few in tenths."""
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def line(name: str, runs: list[Run], n: int, a_method: str = "", limit: str = "") -> str:
    """Return a row of the table: what the runs cost together."""
    grown = " to ".join(dict.fromkeys(seconds(sum(run.grown(n)[i] for run in runs)) for i in (0, 1)))
    cpu, clock = sum(run.cpu for run in runs), sum(run.clock for run in runs)
    return f"{name:34}{seconds(cpu):>8}{seconds(clock):>9}{a_method:>10}{limit:>7}{grown:>16}"


def report(runs: list[Run], n: int) -> int:
    """Print the table for ``n`` methods and what is wrong; return the exit code.

    A failed step has no figures, and what it is a part of is not summed.
    """
    print(f"{'':34}{'CPU s':>8}{'clock s':>9}{'a method':>10}{'limit':>7}{f'CPU s at {EIGHTY}':>16}")
    for target in dict.fromkeys(run.step.target for run in runs):
        print(f"make {target}")
        own = [run for run in runs if run.step.target == target]
        for each in own:
            if each.code:
                print(f"{'  ' + each.name:34}  failed: ended with {each.code}")
            elif each.step.limit:
                print(line(f"  {each.name}", [each], n, f"{each.cpu / n:.1f}", f"{each.step.limit:g}"))
            else:
                print(line(f"  {each.name}", [each], n))
        if not any(each.code for each in own):
            print(line("  together", own, n))
    failed = [each for each in runs if each.code]
    if not failed:
        minutes = sum(each.grown(n)[1] for each in runs) / 120
        print(f"{line('both', runs, n)}, at most {minutes:.0f} minutes of two cores")
    for each in runs:
        if not each.code and each.step.limit and each.cpu / n > each.step.limit:
            print(f"limit exceeded: {each.name}: {each.cpu / n:.1f} CPU s a method, more than {each.step.limit:g}")
    if failed:
        print(f"failed, so not measured: {', '.join(each.name for each in failed)}", file=sys.stderr)
    return 1 if failed else 0


def main() -> int:
    """Measure and print."""
    n = len(registry.keys())
    runs = measured()
    print(f"{n} methods on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    return report(runs, n)


if __name__ == "__main__":
    sys.exit(main())
