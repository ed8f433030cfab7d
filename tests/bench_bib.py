"""Processor time and memory that large bibliographies and citation graphs take: each in a process of its own.

Usage: python tests/bench_bib.py. It leaves with 1 where twice the records take much more than twice the time, or where
a measure of the graph, or `eelit graph --measures` as a whole, takes more seconds or memory than its limit.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECORDS = (20_000, 40_000, 80_000)
WORKS, REFERENCES = 1_000_000, 10
LEAST, MOST_PAIRS = 2, 100_000
TWICE = 2.6
"""Most that twice the records may take, in times of the others."""
SECONDS, GIGABYTES = 60.0, 2.0
COMMAND_SECONDS, COMMAND_GIGABYTES = 120.0, 3.0
RECORD = """\
@inproceedings{{doe{year}k{n},
  author = {{Doe, Jo Ann and {{\\'E}}cole, {{\\L}}ukasz and van den Berg, Anna}},
  title = {{{{N}}etworks that Stop Early, Number {n}: 50\\% of $O(n^2)$ Saved}},
  booktitle = {{Proceedings of the {n}th Conference on Stopping}},
  year = {{{year}}},
  pages = {{{n}--{last}}},
  doi = {{10.1000/early.{n}}},
  url = {{https://example.org/early/{n}}}
}}

"""


def reading(records):
    """Read an invented bibliography of so many records."""
    from eelit.bib.read import read_bibliography

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "many.bib")
        with path.open("w", encoding="utf-8") as file:
            file.writelines(RECORD.format(n=n, year=1990 + n % 37, last=n + 9) for n in range(records))
        start = time.process_time()
        found = read_bibliography(path)
        seconds = time.process_time() - start
    assert (len(found.records), found.problems) == (records, [])
    return seconds


def citations():
    """Return a matrix of citations: each work cites others before it, the old ones most."""
    import numpy as np

    from eelit.bib.matrices import ones

    chance = np.random.default_rng(0)
    citing = np.repeat(np.arange(1, WORKS + 1), REFERENCES)
    cited = (citing * chance.random(len(citing)) ** 2).astype(np.int64)
    return ones(citing, cited, (WORKS + 1, WORKS + 1))


def pagerank():
    """Rank all works."""
    from eelit.bib import matrices

    matrix = citations()
    start = time.process_time()
    assert abs(matrices.pagerank(matrix).sum() - 1) < 1e-6
    return time.process_time() - start


def coupling():
    """Find the works that cite the same works."""
    return _pairs(citations())


def co_citation():
    """Find the works that are cited together."""
    return _pairs(citations().T.tocsr())


def _pairs(matrix):
    from eelit.bib.matrices import shared

    start = time.process_time()
    assert len(shared(matrix, LEAST, MOST_PAIRS)[0]) == MOST_PAIRS
    return time.process_time() - start


def wide():
    """Yield a million citations: each of 100,000 works cites ten before it, the old ones most."""
    chance = random.Random(0)
    for citing in range(1, 100_001):
        yield from ((citing, cited) for cited in {int(citing * chance.random() ** 2) for _ in range(10)})


def long():
    """Yield half a million citations: each of 250,000 works cites the two before it; ways have 52,000 digits."""
    for citing in range(2, 250_001):
        yield from ((citing, citing - 1), (citing, citing - 2))


def command(shape):
    """Run `eelit graph --measures` on a catalogue with invented citations."""
    from eelit.bib.citations import Citation
    from eelit.bib.record import Person, Record
    from eelit.catalog.database import Content, write
    from eelit.catalog.load import load
    from eelit.catalog.schema import Entry
    from eelit.catalog.sources import sources

    pairs = list(shape())
    keys = [f"doe2020k{number:06}" for number in range(max(pairs)[0] + 1)]
    entry = Entry(key=keys[0], short_name="X", role="early-exit", domain=["language"], idea="It stops.", sources=["x"])
    works = (
        (entry.model_copy(update={"key": key, "short_name": key}), Record(key, "misc", "X", (Person("Doe"),), 2020))
        for key in keys
    )
    edges = [Citation(keys[citing], keys[cited], "invented", "bibliography") for citing, cited in pairs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "many.sqlite")
        write(path, Content(load(sources()).taxonomy, works, edges))
        words = [Path(sys.executable).with_name("eelit"), "graph", "--measures", "--format", "json", "--db", path]
        told = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    assert len(json.loads(told)["main_path"]) > 10
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command_wide():
    """Measure the graph that is wide."""
    return command(wide)


def command_long():
    """Measure the graph that is long."""
    return command(long)


def alone(*words):
    """Return seconds and most gigabytes of one measurement, in a process of its own."""
    told = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True).stdout.split()
    return float(told[0]), float(told[1])


def main():
    """Print everything; return whether it is within the limits."""
    took = {}
    for records in RECORDS:
        took[records], memory = alone("reading", str(records))
        print(f"reading {records:,} records: {took[records]:.1f} s, {memory:.2f} GB at most")
    within = all(took[2 * records] <= TWICE * took[records] for records in RECORDS[:-1])
    for name in ("pagerank", "coupling", "co_citation"):
        seconds, memory = alone(name)
        within &= seconds <= SECONDS and memory <= GIGABYTES
        told = f"{WORKS * REFERENCES:,} citations of {WORKS:,} works: {seconds:.1f} s, {memory:.2f} GB at most"
        print(f"{name} of {told}; limits {SECONDS:g} s, {GIGABYTES:g} GB")
    for shape in (wide, long):
        seconds, memory = alone(f"command_{shape.__name__}")
        within &= seconds <= COMMAND_SECONDS and memory <= COMMAND_GIGABYTES
        told = f"{shape.__doc__.partition(':')[0].removeprefix('Yield ')}: {seconds:.1f} s, {memory:.2f} GB at most"
        print(f"eelit graph --measures, {told}; limits {COMMAND_SECONDS:g} s, {COMMAND_GIGABYTES:g} GB")
    return within


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measured = globals()[sys.argv[1]](*map(int, sys.argv[2:]))
        whose = resource.RUSAGE_CHILDREN if sys.argv[1].startswith("command") else resource.RUSAGE_SELF
        print(measured, resource.getrusage(whose).ru_maxrss / 1e6)
    else:
        sys.exit(0 if main() else 1)
