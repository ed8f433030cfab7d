"""How long `eelit find --policy patience` takes, as a multiple of `python -c pass` in the same run.

Usage: python tests/bench_startup.py [ROUNDS]. It leaves with 1 if either multiple exceeds the limit.
"""

import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

LIMIT = 8.0
MANY = 100_000
COMMAND = [str(Path(sys.executable).with_name("eelit")), "find", "--policy", "patience"]
PASS = [sys.executable, "-c", "pass"]


def synthetic(path, works=MANY):
    """Write a database of so many invented works, through the tables of the real one."""
    from eelit.catalog.database import Content, write
    from eelit.catalog.load import load
    from eelit.catalog.schema import FACETS, Entry
    from eelit.catalog.sources import sources

    loaded = load(sources())
    chance = random.Random(0)
    terms = {facet: list(loaded.terms(facet)) for facet in FACETS}
    models = itertools.cycle(loaded.bibliography.records.values())

    def invented():
        for number in range(works):
            record = next(models)
            key = f"{record.key}x{number}"
            facets = {facet: chance.sample(names, chance.randint(1, 3)) for facet, names in terms.items()}
            entry = Entry(
                key=key, short_name=f"W{number}", role="early-exit", idea=record.title, sources=["x"], **facets
            )
            yield entry, replace(record, key=key, year=2010 + number * 15 // works, tex=())

    write(path, Content(loaded.taxonomy, invented()))


def multiple(database, rounds):
    """Return the median time of the command over that of `python -c pass`, run in turns."""
    environment = os.environ | {"EELIT_DB": str(database)} if database else dict(os.environ)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    taken = {"pass": [], "find": []}
    for _ in range(rounds + 1):
        for name, words in (("pass", PASS), ("find", COMMAND)):
            start = time.perf_counter()
            subprocess.run(words, env=environment, check=True, **silent)
            taken[name].append(time.perf_counter() - start)
    empty, find = (statistics.median(times[1:]) for times in taken.values())  # the first round warms the disk's cache
    return find / empty, find, empty


def main(rounds):
    """Print both multiples; return whether they are within the limit."""
    within = True
    with tempfile.TemporaryDirectory() as folder:
        many = Path(folder, "many.sqlite")
        start = time.perf_counter()
        synthetic(many)
        print(f"{MANY:,} invented works: {many.stat().st_size / 1e6:.0f} MB in {time.perf_counter() - start:.0f} s")
        for name, database in (("the catalogue", None), (f"{MANY:,} works", many)):
            times, find, empty = multiple(database, rounds)
            within &= times <= LIMIT
            print(
                f"{name}: {times:.1f} × `python -c pass` ({find * 1e3:.0f} ms, {empty * 1e3:.0f} ms); limit {LIMIT:g} ×"
            )
    return within


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 21) else 1)
