"""What one CI run costs in processor seconds, and what it would come to with eighty methods.

Smoke tests are run with nothing but the data in the cache, so everything is trained anew; then the tests, those of the
methods (conformance and a file per paper) apart from the rest, which does not grow with them.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eelit.methods.data.cache import cache_root
from eelit.methods.harness import registry

ROOT = Path(__file__).parents[1]
OF_METHODS = ["tests/papers", "tests/test_conformance.py"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "loadfile"]
SMOKE_SECONDS, TEST_SECONDS, EIGHTY = 15, 6, 80
"""What a method may cost on average in smoke tests and in tests, and how many methods there shall be."""


def spent(words: list[str], **environment: str) -> tuple[float, float]:
    """Run a command; return its processor seconds, those of the processes that it started included, and the clock's."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(f"{' '.join(words)} ended with {done.returncode}", file=sys.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - start


def smoke() -> tuple[float, float]:
    """Smoke-test every method with a cache that holds data alone."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("data", "derived"):
            if (cache_root() / part).exists():
                Path(folder, part).symlink_to(cache_root() / part)
        return spent([str(Path(sys.executable).with_name("eelit")), "smoke"], EELIT_CACHE=folder)


def main() -> None:
    """Measure and print."""
    n = len(registry.keys())
    smoked, tested = smoke(), spent([*PYTEST, *OF_METHODS])
    rest = spent([*PYTEST, *(f"--ignore={path}" for path in OF_METHODS)])
    print(f"{n} methods on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'':34}{'CPU s':>8}{'clock s':>9}{'a method':>10}{'limit':>7}{f'CPU s at {EIGHTY}':>13}")
    for name, (cpu, clock), limit in (
        ("smoke tests, all trained anew", smoked, SMOKE_SECONDS),
        ("tests of methods", tested, TEST_SECONDS),
    ):
        print(f"{name:34}{cpu:8.0f}{clock:9.0f}{cpu / n:10.1f}{limit:7}{EIGHTY * cpu / n:13.0f}")
    print(f"{'all other tests':34}{rest[0]:8.0f}{rest[1]:9.0f}{'':17}{rest[0]:13.0f}")
    total = EIGHTY * (smoked[0] + tested[0]) / n + rest[0]
    print(f"{f'together at {EIGHTY} methods':34}{'':34}{total:13.0f}, {total / 120:.0f} minutes of two cores")


if __name__ == "__main__":
    main()
