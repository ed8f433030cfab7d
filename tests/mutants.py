"""Tries the tests of a method: puts mistakes into its code, one at a time, and lists those that no test notices.

`make mutants KEY=zhou2020pabee`. A runner of ours, since none of mutmut, cosmic-ray, poodle and pytest-gremlins takes
a seeded sample of a few definitions in a package mapped from another folder, keeps `inspect.getsource` true (by which
trained weights are named) and pays the import of torch once. Here this process imports the libraries, then forks a
child for each mutant, whose importer hands out the mutated text: no file of the checkout is ever written.

Mutated are the functions of `methods/papers/KEY.py` (two thirds of the sample) and those of recipes, backbones,
policies and families that it uses, the nearest first, if a test of the method executes them.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import linecache
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from mutations import Mutation, mutations, signatures  # noqa: E402

ROOMS = ("recipes", "backbones", "policies", "families")
PLUMBING = ("recipes.fit", "families.answers", "families.rivals")
"""Training loop, cache and comparison with rivals, which other tests try."""
HEAVY = ("torch", "numpy", "scipy", "sklearn", "transformers", "tokenizers", "safetensors", "lightgbm", "pandas", "PIL")
"""Libraries imported once, here, as far as the clean run needs them."""
ENOUGH = 0.9
CPU, CPU_MORE, WALL = 3.0, 20.0, 4.0
"""A mutant has 3 times the processor seconds of the clean run and 20 more, and 4 times that by the clock."""


@dataclass(frozen=True)
class Mutant:
    """A mutation of a module; tier 0 is the method's own file, 1 what it uses directly and trains, 2 the rest."""

    module: str
    path: Path
    tier: int
    mutation: Mutation

    @property
    def source(self) -> str:
        return self.mutation.applied(self.path.read_text(encoding="utf-8"))

    @property
    def lines(self) -> set[tuple[str, int]]:
        return {(str(self.path), line) for line in range(self.mutation.first, self.mutation.last + 1)}

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path}:{self.mutation.line}"


@dataclass
class Fate:
    """What became of a run of the tests."""

    fate: str  # survived, killed, timed out, crashed
    by: str = ""  # the first test that failed
    why: str = ""
    seconds: float = 0.0  # of the processor
    output: str = ""


@dataclass
class Clean:
    """What the run without a mistake told: lines executed, and those executed while something was prepared."""

    lines: set[tuple[str, int]]
    preparing: set[tuple[str, int]]
    modules: list[str]  # libraries that it imported
    words: set[str]  # settings that choose data or networks for tests: with their default real data would be loaded


# What is mutated.


def possible(key: str, leave: set[str]) -> list[Mutant]:
    """Return all mutants of a method's code, in a fixed order; settings to leave are not ignored."""
    from eelit.methods.harness import dependencies, registry

    own = registry.describe(key).path
    reached = dependencies.reached(own)
    near = {path for (path, _), steps in reached.items() if steps == 1}
    package = own.parents[1]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in {path for path, _ in reached}]
    known = signatures(trees)
    found = []
    for path in sorted({path for path, _ in reached}):
        place = path.relative_to(package).with_suffix("").parts
        if path == own or (place[0] in ROOMS and ".".join(place) not in PLUMBING):
            tier = 0 if path == own else 1 if path in near or place[0] in ROOMS[:2] else 2
            names = {name for origin, name in reached if origin == path}
            module = ".".join((dependencies.PACKAGE, *place))
            source = path.read_text(encoding="utf-8")
            found += [Mutant(module, path, tier, mutation) for mutation in mutations(source, names, known, leave)]
    return found


def sample(mutants: Sequence[Mutant], n: int, seed: int) -> list[Mutant]:
    """Choose two thirds from the own file, the rest from the nearest of the others; first one mutant of each line."""
    chance = random.Random(seed)
    tiers: list[list[Mutant]] = []
    for tier in range(3):
        shuffled = chance.sample(members := [m for m in mutants if m.tier == tier], len(members))
        seen: dict[str, int] = {}
        turns = {id(m): seen.setdefault(m.place, -1) for m in shuffled}
        for m in shuffled:
            turns[id(m)] = seen[m.place] = seen[m.place] + 1
        tiers.append(sorted(shuffled, key=lambda m: turns[id(m)]))
    share = -(-2 * n // 3)
    chosen = tiers[0][:share]
    for more in (*tiers[1:], tiers[0][share:]):
        chosen += more[: n - len(chosen)]
    return sorted(chosen, key=lambda m: (m.tier, m.module, m.mutation))


# In the child.


class Importer(importlib.abc.MetaPathFinder):
    """Gives one module with mutated text, also to who asks for its source."""

    def __init__(self, mutant: Mutant) -> None:
        self.module, self.path, self.text = mutant.module, str(mutant.path), mutant.source
        lines = self.text.splitlines(keepends=True)
        linecache.cache[self.path] = (len(self.text), None, lines, self.path)  # None: never compared with the file

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=Loader(name, self.path, self.text))


class Loader(importlib.machinery.SourceFileLoader):
    """Reads a given text instead of the file, and leaves no bytecode."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.raw = text.encode()

    def get_data(self, path: str) -> bytes:
        return self.raw if path == self.path else super().get_data(path)

    def path_stats(self, path: str) -> Any:
        raise OSError("bytecode of the file is not that of the text")

    def set_data(self, *_: Any, **__: Any) -> None:
        """Keep nothing."""


class Watch:
    """Tells pytest which tests are meant, and keeps the first failure."""

    def __init__(self, key: str) -> None:
        self.key, self.by, self.why, self.ran = key, "", "", 0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Of the conformance rules only those of the method; everything else that was asked for."""
        items[:] = [
            i for i in items if i.path.name != "test_conformance.py" or self.key in re.split(r"[\[\]-]", i.name)
        ]

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.ran += report.when == "call"
        self.failed(report)

    def pytest_collectreport(self, report: Any) -> None:
        self.failed(report)

    def failed(self, report: Any) -> None:
        if report.failed and not self.by:
            self.by = report.nodeid
            crash = getattr(report.longrepr, "reprcrash", None)
            said = (crash.message if crash else str(report.longrepr).strip().rpartition("\n")[2]).strip()
            self.why = said.partition("\n")[0][:200]


def tested(files: Sequence[str], key: str, cache: Path, folder: Path) -> Fate:
    """Run the tests in this process, up to the first failure."""
    import pytest

    for name in [name for name in sys.modules if name.partition(".")[0] in ("eelit", "conftest")]:
        del sys.modules[name]
    os.environ["EELIT_TEST_CACHE"] = str(cache)
    watch = Watch(key)
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"--basetemp={folder / 'tmp'}"]
    code = pytest.main([*options, *files], plugins=[watch])
    fate = "killed" if watch.by or code in (1, 2) else "survived" if code == 0 and watch.ran else "crashed"
    return Fate(fate, watch.by, watch.why if watch.by else f"pytest ended with {code}")


@contextlib.contextmanager
def traced() -> Iterator[Clean]:
    """Note the lines of `eelit.methods` that are executed, and those while something is prepared or trained."""
    clean, below = Clean(set(), set(), [], set()), 0
    where = str(ROOT / "methods")

    def prepares(frame: FrameType) -> bool:
        return frame.f_code.co_name == "prepare" or frame.f_code.co_name.startswith("train")

    def local(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal below
        if event == "line":
            line = (frame.f_code.co_filename, frame.f_lineno)
            clean.lines.add(line)
            if below:
                clean.preparing.add(line)
        elif event == "return":
            below -= prepares(frame)
        return local

    def called(frame: FrameType, *_: Any) -> Any:
        nonlocal below
        if not frame.f_code.co_filename.startswith(where):
            return None
        below += prepares(frame)
        return local

    threading.settrace(called)
    sys.settrace(called)
    yield clean
    sys.settrace(None)
    clean.modules = [name for name in sys.modules if name.partition(".")[0] in HEAVY]


# In the parent.


def forked(work: Callable[[], object], folder: Path, seconds: float) -> int:
    """Do the work in a child whose result goes to a file and whose words to another; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 3))
        said = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        (folder / "result").write_bytes(pickle.dumps(work()))
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(child: int, folder: Path, begun: float, clock: float) -> tuple[object, float] | None:
    """Return what a child found (or a `Fate`, if it did not come to that) and its processor seconds; None: it runs."""
    pid, status, usage = os.wait4(child, os.WNOHANG)
    late = not pid and time.monotonic() - begun > clock
    if late:
        os.killpg(child, signal.SIGKILL)
        pid, status, usage = os.wait4(child, 0)
    if not pid:
        return None
    seconds = usage.ru_utime + usage.ru_stime
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it may have started
    with contextlib.suppress(FileNotFoundError, EOFError):
        return pickle.loads((folder / "result").read_bytes()), seconds
    stopped = late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL))
    return Fate("timed out" if stopped else "crashed", why=f"wait status {status}"), seconds


def clean_run(files: Sequence[str], key: str, cache: Path, folder: Path) -> tuple[Clean, Fate]:
    """Run the tests once without a mistake, watched line by line; trained weights stay in the cache."""

    def work() -> tuple[Clean, Fate]:
        with traced() as clean:
            fate = tested(files, key, cache, folder)
        from eelit.methods.harness import registry

        clean.words = {name for name, value in registry.get(key).tiny.items() if isinstance(value, str)}
        return clean, fate

    child, begun = forked(work, folder, 3600), time.monotonic()
    while not (done := ended(child, folder, begun, 7200)):
        time.sleep(0.1)
    found, seconds = done
    clean, fate = found if isinstance(found, tuple) else (Clean(set(), set(), [], set()), found)
    fate.seconds, fate.output = seconds, (folder / "output").read_text(errors="replace")
    return clean, fate


def own_cache(mutant: Mutant, clean: Clean, kept: Path) -> Path:
    """Return the mutant's folder of trained weights, with those of the clean run unless it may have trained others."""
    name = hashlib.blake2b(f"{mutant.module} {mutant.source}".encode(), digest_size=8).hexdigest()
    folder = kept / name
    if not folder.exists() and not mutant.lines & clean.preparing:
        for file in (kept / "clean").rglob("*"):
            if file.is_file() and file.suffix != ".lock":
                link = folder / file.relative_to(kept / "clean")
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(file)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def tried(
    mutants: Sequence[Mutant], try_one: Callable[[Mutant, Path], Fate], folder: Path, jobs: int, seconds: float
) -> Iterator[tuple[int, Fate]]:
    """Yield number and fate of each mutant as they come, ``jobs`` at once."""
    waiting = list(enumerate(mutants))
    running: dict[int, tuple[int, Path, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, mutant = waiting.pop(0)
                place = folder / str(number)
                place.mkdir()
                work = lambda mutant=mutant, place=place: try_one(mutant, place)  # noqa: E731
                running[number] = forked(work, place, seconds), place, time.monotonic()
            time.sleep(0.05)
            for number, (child, place, begun) in list(running.items()):
                if done := ended(child, place, begun, WALL * seconds):
                    del running[number]
                    fate = done[0] if isinstance(done[0], Fate) else Fate("crashed")
                    fate.seconds, fate.output = done[1], (place / "output").read_text(errors="replace")
                    shutil.rmtree(place, ignore_errors=True)
                    yield number, fate
    finally:
        for child, *_ in running.values():
            os.killpg(child, signal.SIGKILL)


def code_digest() -> str:
    """Return 16 hexadecimal digits for all code of the methods."""
    h = hashlib.blake2b(digest_size=8)
    for path in sorted((ROOT / "methods").rglob("*.py")):
        h.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return h.hexdigest()


def kept_folder(key: str, digest: str) -> Path:
    """Return the folder of what was trained for this key by this code, and remove what other code trained."""
    folder = ROOT / "build" / "mutants" / key
    for other in folder.glob("*"):
        if other.name != digest:
            shutil.rmtree(other)
    (folder / digest / "clean").mkdir(parents=True, exist_ok=True)
    return folder / digest


def revision() -> str:
    """Return the commit, and whether something differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "methods", "tests")
    return f"commit {git('rev-parse', '--short', 'HEAD') or 'unknown'}{' and changes' if changed else ''}"


def limit(kept: Path, seconds: float) -> float:
    """Return the processor seconds that a mutant has: it may have to train what the clean run found trained."""
    note = kept / "seconds"
    longest = max(seconds, float(note.read_text()) if note.exists() else 0.0)
    note.write_text(str(longest))
    return CPU * longest + CPU_MORE


def main() -> int:
    """Try a sample and say what became of it; 0 if nine of ten die, 1 if not, 2 if it cannot be tried."""
    asked = options()
    from eelit.methods.harness import registry

    own, known = ROOT / "tests" / "papers" / f"test_{asked.key}.py", registry.keys()
    if asked.key not in known or not own.exists():
        print(f"no method with tests is known under the key {asked.key!r}; `eelit methods` lists them", file=sys.stderr)
        return 2
    files = [str(own), str(ROOT / "tests" / "test_conformance.py"), *asked.files]
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        return on_trial(asked, files, Path(name))


def on_trial(asked: argparse.Namespace, files: list[str], folder: Path) -> int:
    """Run the tests without a mistake, then with each of a sample."""
    digest = code_digest()
    kept = kept_folder(asked.key, digest)
    print(f"{asked.key}, {revision()}, code {digest}, seed {asked.seed}: clean run …", flush=True)
    clean, fate = clean_run(files, asked.key, kept / "clean", folder)
    if fate.fate != "survived":
        print(fate.output, f"the tests fail without a mistake: {fate.by} {fate.why}", sep="\n", file=sys.stderr)
        return 2
    mutants = possible(asked.key, clean.words)
    executed = [m for m in mutants if m.lines & clean.lines]
    print(f"clean run: {fate.seconds:.0f} s of processor time; {len(mutants)} mutants, {len(executed)} executed")
    chosen = sample(executed, asked.n, asked.seed)
    for module in clean.modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)

    def try_one(mutant: Mutant, place: Path) -> Fate:
        sys.meta_path.insert(0, Importer(mutant))
        return tested(files, asked.key, own_cache(mutant, clean, kept), place)

    fates: dict[int, Fate] = {}
    for number, found in tried(chosen, try_one, folder, asked.jobs, limit(kept, fate.seconds)):
        fates[number] = found
        print(f"{len(fates)}/{len(chosen)} {found.fate:9} {found.seconds:4.0f} s {chosen[number].place}", flush=True)
    return report(asked, digest, chosen, fates, [m for m in mutants if not m.lines & clean.lines])


def report(
    asked: argparse.Namespace, digest: str, chosen: list[Mutant], fates: dict[int, Fate], idle: list[Mutant]
) -> int:
    """Print the table, write it for programs if asked to, and return the exit code."""
    rows = []
    for number, mutant in enumerate(chosen):
        fate = fates[number]
        told = mutant.mutation.told(mutant.path.read_text(encoding="utf-8"))
        ends = {"killed": f"killed by {fate.by.rpartition('/')[2] or fate.why}", "survived": "SURVIVED"}
        print(f"{number + 1:3} {mutant.place} {mutant.mutation.enclosing}\n      {told}")
        print(f"      {ends.get(fate.fate, fate.fate + ', counts as killed')}")
        rows.append({"place": mutant.place, "function": mutant.mutation.enclosing, "change": told} | asdict(fate))
    unseen = sorted({(m.tier, m.place.rpartition(":")[0], m.mutation.line) for m in idle})
    print(f"not executed by any test of the method, and so not in the sample: {len(unseen)} lines")
    for (_, path), lines in groupby(unseen, key=lambda line: line[:2]):
        print(f"      {path}: {' '.join(str(line) for *_, line in lines)}")
    dead = sum(fate.fate != "survived" for fate in fates.values())
    if asked.out:
        facts = {"key": asked.key, "code": digest, "seed": asked.seed, "killed": dead, "of": len(chosen)}
        asked.out.write_text(
            json.dumps(
                facts | {"mutants": rows, "not_executed": [f"{path}:{line}" for _, path, line in unseen]}, indent=1
            ),
            encoding="utf-8",
        )
    print(f"{dead} of {len(chosen)} killed")
    return 0 if dead >= ENOUGH * len(chosen) else 1


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("key", help="the paper's key")
    parser.add_argument("files", nargs="*", help="more test files to run")
    parser.add_argument("--n", type=int, default=20, help="how many mutants (20)")
    parser.add_argument("--seed", type=int, default=0, help="which sample (0)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (2)")
    parser.add_argument("--out", type=Path, help="a JSON file for programs")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    sys.exit(main())
