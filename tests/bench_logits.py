"""How fast logits become curves, and how often promises fail: `python tests/bench_logits.py [--keep]`, by `make bench`.

All policies that need no more than logits, with 50 settings each, over 10,000 × 12 × 1,000 made logits, on two cores:
the scores of all exits alone within 2 s, everything within 10 s and 2 GiB beyond the input. Then over 50,000 × 24 ×
1,000 of half precision in a file, within 4 GiB. Then 1,000 times a rule is chosen on samples drawn anew from real
outputs: Learn then Test loses more than the risk in a share of at most delta, and conformal risk control no more than
the risk on average, with three standard deviations of room. Each part is measured in a process of its own. It leaves
with 1 if a limit is missed; with ``--keep`` the site shows what was measured: on a machine that does nothing else.
With ``--promises`` only the promises are tried, which any machine can do, and ``--keep`` leaves the kept times.

`python tests/bench_logits.py SAMPLES EXITS CLASSES [--mapped]` measures one size by itself.
"""

import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import promises

from eelit.methods.harness import bench, runner
from eelit.methods.harness.own_speed import OwnSpeed, Timing, keep, stored
from eelit.methods.own.compare import compare
from eelit.methods.own.logits import Logits
from eelit.methods.own.scores import Scores

SCORES, EVERYTHING, BEYOND, MAPPED = 2.0, 10.0, 2.0, 4.0  # seconds, seconds, GiB, GiB
SIZE, LARGE = (10_000, 12, 1_000), (50_000, 24, 1_000)  # samples, exits, classes
SETTINGS = 50
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
    compare(data, settings=SETTINGS)
    return alone, time.perf_counter() - start


def held(samples, exits, classes):
    """Return what it takes with float32 in memory."""
    labels = np.random.default_rng(1).integers(0, classes, samples)
    z = np.empty((exits, samples, classes), dtype=np.float32)
    made(z, labels)
    before = most()
    alone, everything = timed(Logits(z, labels))
    return Timing(
        exits=exits, samples=samples, classes=classes, numbers="float32", mapped=False, settings=SETTINGS, scores=alone,
        everything=everything, memory=most() - before, scores_limit=SCORES, everything_limit=EVERYTHING,
        memory_limit=BEYOND,
    )  # fmt: skip


def mapped(samples, exits, classes):
    """Return what it takes with half precision in a file."""
    labels = np.random.default_rng(1).integers(0, classes, samples)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "logits.npy")
        z = np.lib.format.open_memmap(path, "w+", np.float16, (exits, samples, classes))
        made(z, labels)
        z.flush()
        del z
        alone, everything = timed(Logits(np.load(path, mmap_mode="r"), labels))
    return Timing(
        exits=exits, samples=samples, classes=classes, numbers="float16", mapped=True, settings=SETTINGS, scores=alone,
        everything=everything, memory=most(), scores_limit=None, everything_limit=None, memory_limit=MAPPED,
    )  # fmt: skip


def by_itself(measure, *arguments):
    """Return what a function returns in a process that has done nothing else, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def promised():
    """Return both promises, tried a thousand times each."""
    data = promises.real()
    return [promises.learn_then_test(data)[0], promises.conformal_risk_control(data)[0]]


def told(timing):
    """Return what a timing comes to, in three lines."""
    where = "in a file" if timing.mapped else "in memory"
    limits = [f" (limit {limit:g} s)" if limit else "" for limit in (timing.scores_limit, timing.everything_limit)]
    beyond = "" if timing.mapped else " beyond the outputs"
    return (
        f"{timing.samples:,} × {timing.exits} × {timing.classes:,}, {timing.numbers} {where}:\n"
        f"  scores of all exits: {timing.scores:.2f} s{limits[0]}\n"
        f"  all policies, {timing.settings} settings each: {timing.everything:.2f} s{limits[1]}\n"
        f"  memory{beyond}: {timing.memory:.2f} GiB (limit {timing.memory_limit:g} GiB)"
    )


def told_of(promises_):
    """Print what the promises come to; return whether they were kept."""
    for each in promises_:
        what = "lost on average" if each.delta is None else f"share that loses more than {each.risk:g}"
        print(f"{each.method}: {what} {each.found:.4f} (limit {each.limit:.4f}), {each.draws:,} draws")
    return all(each.kept for each in promises_)


def again(keeping):
    """Try the promises alone, and put them in the place of those that are kept, if asked to."""
    found, before = promised(), stored(bench.folder())
    good = told_of(found)
    if keeping and before is not None:
        new = before.model_copy(update={"promises": found, "promises_commit": runner.commit()})
        print(f"kept as {keep(new, bench.folder())}")
    return good


def main(keeping):
    """Measure all, print it, and keep it if asked to; return whether it is within the limits."""
    timings = [by_itself(held, *SIZE)]
    print(told(timings[-1]), flush=True)
    timings.append(by_itself(mapped, *LARGE))
    print(told(timings[-1]), flush=True)
    kept = by_itself(promised)
    good = told_of(kept)
    if keeping:
        found = OwnSpeed(
            created=datetime.now(UTC).replace(microsecond=0), commit=runner.commit(), versions=runner.versions(),
            machine=runner.machine().model_copy(update={"threads": os.cpu_count() or 1}), timings=timings,
            promises=kept,
        )  # fmt: skip
        print(f"kept as {keep(found, bench.folder())}")
    return all(each.within for each in timings) and good


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if words:
        alone = (mapped if "--mapped" in sys.argv else held)(*map(int, words))
        print(told(alone))
        sys.exit(0 if alone.within else 1)
    measure = again if "--promises" in sys.argv else main
    sys.exit(0 if measure("--keep" in sys.argv) else 1)
