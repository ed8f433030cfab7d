"""How fast logits become curves: `python tests/bench_logits.py [SAMPLES EXITS CLASSES]`, by `make bench`.

All policies that need no more than logits, with 50 settings each, over 10,000 × 12 × 1,000 made logits, on two cores:
the scores of all exits alone within 2 s, everything within 10 s and 2 GiB beyond the input. It leaves with 1 if a
limit is missed. With `--mapped` the input is 50,000 × 24 × 1,000 of half precision in a file, and everything has to
stay within 4 GiB.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from eelit.methods.own.compare import compare
from eelit.methods.own.logits import Logits
from eelit.methods.own.scores import Scores

SCORES, EVERYTHING, BEYOND, MAPPED = 2.0, 10.0, 2.0, 4.0  # seconds, seconds, GiB, GiB
GIB = 1 << 30


def made(z, labels, seed=0):
    """Fill logits ``[E, N, C]`` in place, exit by exit: the deeper, the surer of the label."""
    rng = np.random.default_rng(seed)
    rows = np.arange(z.shape[1])
    ease = rng.normal(size=z.shape[1])
    for e in range(len(z)):
        own = rng.standard_normal(z.shape[1:], dtype=np.float32)
        own[rows, labels] += 3 + 0.4 * e + ease
        z[e] = own


def most():
    """Return the memory in GiB that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def timed(data):
    """Return the seconds for all scores of all exits alone, and those for the whole comparison, from the beginning."""
    start = time.perf_counter()
    scores = Scores(data)
    scores.entropy  # noqa: B018 - one pass computes all
    alone = time.perf_counter() - start
    del scores
    start = time.perf_counter()
    compare(data, settings=50)
    return alone, time.perf_counter() - start


def main(samples, exits, classes):
    """Print times and memory; return whether they are within the limits."""
    labels = np.random.default_rng(1).integers(0, classes, samples)
    z = np.empty((exits, samples, classes), dtype=np.float32)
    made(z, labels)
    before = most()
    alone, everything = timed(Logits(z, labels))
    beyond = most() - before
    print(f"{samples:,} × {exits} × {classes:,}, float32, {z.nbytes / GIB:.2f} GiB:")
    print(f"  scores of all exits: {alone:.2f} s (limit {SCORES:g} s)")
    print(f"  all policies, 50 settings each: {everything:.2f} s (limit {EVERYTHING:g} s)")
    print(f"  memory beyond the input: {beyond:.2f} GiB (limit {BEYOND:g} GiB)")
    return alone <= SCORES and everything <= EVERYTHING and beyond <= BEYOND


def mapped(samples=50_000, exits=24, classes=1_000):
    """The same for half precision in a file."""
    labels = np.random.default_rng(1).integers(0, classes, samples)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "logits.npy")
        z = np.lib.format.open_memmap(path, "w+", np.float16, (exits, samples, classes))
        made(z, labels)
        z.flush()
        del z
        alone, everything = timed(Logits(np.load(path, mmap_mode="r"), labels))
    print(f"{samples:,} × {exits} × {classes:,}, float16 in a file: scores {alone:.1f} s, all {everything:.1f} s")
    print(f"  memory: {most():.2f} GiB (limit {MAPPED:g} GiB)")
    return most() <= MAPPED


if __name__ == "__main__":
    words = sys.argv[1:]
    if "--mapped" in words:
        sys.exit(0 if mapped(*map(int, [word for word in words if word != "--mapped"])) else 1)
    sys.exit(0 if main(*(map(int, words) if words else (10_000, 12, 1_000))) else 1)
