"""Tries the tests of a method: puts mistakes into its code, one at a time, and lists those that no test notices.

`make mutants KEY=zhou2020pabee`. A runner of ours, since none of mutmut, cosmic-ray, poodle and pytest-gremlins takes
a seeded sample of a few definitions in a package mapped from another folder, keeps `inspect.getsource` true (by which
trained weights are named) and pays the import of torch once. Here this process imports the libraries, then forks a
child for each mutant, whose importer hands out the mutated text: no file of the checkout is ever written.

Mutated are the functions of `methods/papers/KEY.py` (two thirds of the sample) and those of recipes, backbones,
policies and families that it uses, the nearest first, if a test of the method executes them.

What several methods use has tests of its own, and they are tried, too: on a mutant of `backbones/encoder.py` those of
`tests/test_encoder.py`, on one of `policies/patience.py` those of `tests/test_policies.py`, whatever the method.
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
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from mutations import Mutation, mutations, signatures  # noqa: E402

ROOMS = ("recipes", "backbones", "policies", "families")
PLUMBING = ("recipes.fit",)
"""The training loop, which other tests try."""
HEAVY = ("torch", "numpy", "scipy", "sklearn", "transformers", "tokenizers", "safetensors", "lightgbm", "pandas", "PIL")
"""Libraries imported once, here, as far as the clean run needs them."""
ENOUGH = 0.9
CPU, CPU_MORE, WALL = 3.0, 20.0, 10.0
"""A mutant has 3 times the processor seconds of the clean run and 20 more, and 10 times that by the clock."""

CHANGED = 3
"""The exit code if the method's code or its tests changed while they were tried."""

ROUND = 0.05
"""Seconds between two looks at what runs."""

Lines = set[tuple[str, int]]
"""Paths and numbers of lines."""


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
    def lines(self) -> Lines:
        first, last = self.mutation.lines
        return {(str(self.path), line) for line in range(first, last + 1)}

    @property
    def file(self) -> str:
        return os.path.relpath(self.path, ROOT)

    @property
    def place(self) -> str:
        return f"{self.file}:{self.mutation.line}"


@dataclass
class Fate:
    """What became of a run of the tests: survived, killed, timed out or crashed."""

    fate: str
    by: list[str] = field(default_factory=list)  # the tests that failed: the first, or in the clean run all
    why: str = ""
    seconds: float = 0.0  # of the processor
    output: str = ""


@dataclass
class Clean:
    """What the run without a mistake told."""

    lines: Lines = field(default_factory=set)  # executed
    preparing: Lines = field(default_factory=set)  # executed while something was prepared or trained
    libraries: list[str] = field(default_factory=list)  # imported
    leave: set[str] = field(default_factory=set)  # settings that choose data and networks for tests


# What is mutated.


def mutated(key: str) -> list[Path]:
    """Return the files of a method's code into which mistakes are put, sorted: its own, and those of the rooms."""
    from eelit.methods.harness import dependencies, registry

    own = registry.describe(key).path

    def meant(path: Path) -> bool:
        place = path.relative_to(own.parents[1]).with_suffix("").parts
        return path == own or (place[0] in ROOMS and ".".join(place) not in PLUMBING)

    return sorted({path for path, _ in dependencies.reached(own) if meant(path)})


def possible(key: str, leave: set[str]) -> list[Mutant]:
    """Return all mutants of a method's code, in a fixed order; settings to leave are not ignored."""
    from eelit.methods.harness import dependencies, registry

    own = registry.describe(key).path
    reached = dependencies.reached(own)
    sources = {path: path.read_text(encoding="utf-8") for path, _ in reached}
    known = signatures(ast.parse(source) for source in sources.values())
    near = {path for (path, _), steps in reached.items() if steps == 1}
    found = []
    for path in mutated(key):
        place = path.relative_to(own.parents[1]).with_suffix("").parts
        tier = 0 if path == own else 1 if path in near or place[0] in ROOMS[:2] else 2
        names = {name for origin, name in reached if origin == path}
        module = ".".join((dependencies.PACKAGE, *place))
        found += [Mutant(module, path, tier, mutation) for mutation in mutations(sources[path], names, known, leave)]
    return found


def named_after(path: Path) -> list[str]:
    """Return the files of tests that are named after a module, or after its room."""
    named = [ROOT / "tests" / f"test_{name}.py" for name in (path.stem, path.parent.name)]
    return [str(file) for file in named if file.exists()]


def sample(mutants: Sequence[Mutant], n: int, seed: int) -> list[Mutant]:
    """Choose two thirds from the own file, the rest from the nearest of the others; first one mutant of each line.

    Each mutant has its lot by itself, so that a sample changes little when others come or go.
    """

    def lot(mutant: Mutant) -> str:
        named = f"{seed} {mutant.module} {mutant.mutation.enclosing} {mutant.mutation.change} {mutant.mutation.text}"
        return hashlib.blake2b(named.encode(), digest_size=8).hexdigest()

    turns: Counter[str] = Counter()
    order: list[tuple[int, Mutant]] = []
    for mutant in sorted(mutants, key=lot):
        order.append((turns[mutant.place], mutant))
        turns[mutant.place] += 1
    drawn = [mutant for _, mutant in sorted(order, key=lambda turn: turn[0])]
    tiers = [[mutant for mutant in drawn if mutant.tier == tier] for tier in range(3)]
    share = -(-2 * n // 3)
    chosen = tiers[0][:share]
    for more in (*tiers[1:], tiers[0][share:]):
        chosen += more[: n - len(chosen)]
    return sorted(chosen, key=lambda mutant: (mutant.tier, mutant.module, mutant.mutation))


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

    def __init__(self, key: str, but: Collection[str], first: str) -> None:
        self.key, self.but, self.first, self.why, self.ran = key, but, first, "", 0
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Of the conformance rules only those of the method; everything else that was asked for."""
        meant = [i for i in items if i.path.name != "test_conformance.py" or self.key in re.split(r"[\[\]-]", i.name)]
        wanted = [item for item in meant if item.nodeid not in self.but]
        items[:] = sorted(wanted, key=lambda item: item.nodeid != self.first)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.ran += report.when == "call"
        self.pytest_collectreport(report)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = crash.message if crash else str(report.longrepr).strip().rpartition("\n")[2]
            self.why = self.why or said.strip().partition("\n")[0][:200]
            self.failed.append(report.nodeid)


def run(files: Sequence[str], key: str, cache: Path, folder: Path, but: Collection[str] | None) -> Fate:
    """Run the tests, but for some, in this process: up to the first failure, or, if ``but`` is None, all.

    What failed the last time is tried first.
    """
    import pytest

    for name in [name for name in sys.modules if name.partition(".")[0] == "eelit"]:
        del sys.modules[name]
    os.environ["EELIT_TEST_CACHE"] = str(cache)
    note = cache / "failed"
    watch = Watch(key, but or (), note.read_text() if note.exists() else "")
    options = ["-q", "--no-header", "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"--basetemp={folder / 'tmp'}"]
    code = pytest.main([*options, *["-x"] * (but is not None), *files], plugins=[watch])
    if watch.failed:
        note.write_text(watch.failed[0])
        return Fate("killed", watch.failed, watch.why)
    return Fate("survived" if code == 0 and watch.ran else "crashed", why=f"pytest ended with {code}")


@contextlib.contextmanager
def traced() -> Iterator[Clean]:
    """Note the lines of `eelit.methods` that are executed, and those while something is prepared or trained."""
    clean, below = Clean(), 0
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
    clean.libraries = [name for name in sys.modules if name.partition(".")[0] in HEAVY]


# In the parent.


class Child:
    """A forked process that does some work; its result and its words lie in a folder."""

    def __init__(self, work: Callable[[], object], folder: Path, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.left = folder, WALL * seconds
        sys.stdout.flush()
        self.id = os.fork()
        if self.id:
            return
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 3))
            said = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
            os.dup2(said, 1)
            os.dup2(said, 2)
            (folder / "result").write_bytes(pickle.dumps(work()))
        except BaseException:  # whatever it is, the child must not go on as its parent
            os.write(2, traceback.format_exc().encode())
        finally:
            sys.stdout.flush()
            os._exit(0)

    def ended(self, passed: float) -> tuple[Any, float, str] | None:
        """Return its result, processor seconds and words; a `Fate` if it came to no result; None while it works.

        By the clock it has what passes while its parent is awake: whoever stops both for a while kills nobody.
        """
        self.left -= passed
        late = self.left < 0
        if late:
            self.kill()
        pid, status, usage = os.wait4(self.id, 0 if late else os.WNOHANG)
        if not pid:
            return None
        self.kill()  # what it may have started
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        result: Any = Fate("timed out" if signalled in (signal.SIGXCPU, signal.SIGKILL) else "crashed")
        with contextlib.suppress(FileNotFoundError, EOFError):
            result = pickle.loads((self.folder / "result").read_bytes())
        output = (self.folder / "output").read_text(errors="replace")
        shutil.rmtree(self.folder)
        return result, usage.ru_utime + usage.ru_stime, output

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.id, signal.SIGKILL)


def tried(
    work: Sequence[Callable[[Path], object]], folder: Path, jobs: int, seconds: float
) -> Iterator[tuple[int, Any]]:
    """Do each work in a child, ``jobs`` at once; yield its number and result as they come."""
    waiting, running = list(enumerate(work)), dict[int, Child]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, each = waiting.pop(0)
                place = folder / str(number)
                running[number] = Child(lambda each=each, place=place: each(place), place, seconds)  # type: ignore[misc]
            time.sleep(ROUND)
            for number, child in list(running.items()):
                if done := child.ended(ROUND):
                    del running[number]
                    fate = done[0] if isinstance(done[0], Fate) else done[0][1]
                    fate.seconds, fate.output = done[1:]
                    yield number, done[0]
    finally:
        for child in running.values():
            child.kill()


def clean_run(files: Sequence[str], shared: Sequence[str], key: str, cache: Path, folder: Path) -> tuple[Clean, Fate]:
    """Run the tests once without a mistake; trained weights stay in the cache.

    Watched line by line are those of the method: what only the shared ones execute does not count as executed.
    """

    def work(place: Path) -> tuple[Clean, Fate]:
        with traced() as clean:
            fate = run(files, key, cache, place, None)
        from eelit.methods.harness import registry

        method = registry.get(key)
        small = [setting for given in (method.tiny, *method.tiny_variants.values()) for setting in given.items()]
        clean.leave = {name for name, value in small if isinstance(value, str)}
        return clean, fate

    def rest(place: Path) -> Fate:
        return run(shared, key, cache, place, None) if shared else Fate("survived")

    fates = dict(tried([work, rest], folder, 1, 3600))
    clean, fate = fates[0] if isinstance(fates[0], tuple) else (Clean(), fates[0])
    worst = fate if fate.fate != "survived" else fates[1]
    return clean, replace(worst, by=[*fate.by, *fates[1].by], seconds=fate.seconds + fates[1].seconds)


def own_cache(mutant: Mutant, clean: Clean, kept: Path) -> Path:
    """Return the mutant's folder of trained weights, with those of the clean run unless it may have trained others.

    Their names alone cannot tell: of what stands at the top of a module they hold functions and plain values only.
    """
    folder = kept / hashlib.blake2b(f"{mutant.module} {mutant.source}".encode(), digest_size=8).hexdigest()
    if not folder.exists() and not mutant.lines & clean.preparing:
        for file in (kept / "clean").rglob("*"):
            if file.is_file() and file.suffix != ".lock" and file.name != "failed":
                link = folder / file.relative_to(kept / "clean")
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(file)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def kept_folder(key: str, digest: str) -> Path:
    """Return the folder of what was trained for this key by this code, and remove what other code trained."""
    folder = ROOT / "build" / "mutants" / key
    for other in folder.glob("*"):
        if other.name != digest:
            shutil.rmtree(other)
    (folder / digest / "clean").mkdir(parents=True, exist_ok=True)
    return folder / digest


def local_imports(tests: Collection[Path]) -> set[Path]:
    """Return test files with the modules beside the tests that they import, and what those import."""
    found, todo = set[Path](), [*tests]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            beside = (ROOT / "tests" / f"{name.partition('.')[0]}.py" for name in names)
            todo += [other for other in beside if other.exists()]
    return found


def behind(key: str, tests: Collection[str]) -> list[Path]:
    """Return the files that decide what becomes of a mutant: the tests, what they reach and the method reaches.

    Papers and claims that none of these refer to do not count, though conformance imports them all.
    """
    from eelit.methods.harness import dependencies, registry

    ours = local_imports({ROOT / "tests" / "conftest.py", *(Path(test).resolve() for test in tests)})
    claims = dependencies.module(f"{dependencies.PACKAGE}.claims.{key}")
    roots = {registry.describe(key).path, *ours, *([claims.path] if claims else [])}
    code = {path for root in roots for path, _ in dependencies.reached(root)}
    plumbing = (dependencies.module(f"{dependencies.PACKAGE}.{name}") for name in dependencies.PLUMBING)
    golden = ROOT / "tests" / "data" / "golden" / f"{key}.json"
    return sorted({*roots, *code, *(each.path for each in plumbing if each), *([golden] if golden.exists() else [])})


def contents(paths: Collection[Path]) -> dict[str, str]:
    """Return for each file, named from the root, 16 hexadecimal digits for what it holds; none if it is gone."""
    return {
        os.path.relpath(path, ROOT): hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
        if path.exists()
        else ""
        for path in paths
    }


def code_digest(held: dict[str, str]) -> str:
    """Return 16 hexadecimal digits for the code of the methods among files that were looked at."""
    code = sorted(f"{name} {digest}" for name, digest in held.items() if name.startswith("methods/"))
    return hashlib.blake2b("\n".join(code).encode(), digest_size=8).hexdigest()


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


def on_trial(asked: argparse.Namespace, files: list[str], folder: Path) -> int:
    """Run the tests without a mistake, then with each of a sample."""
    shared = sorted({file for path in mutated(asked.key) for file in named_after(path)} - {*files})
    watched = behind(asked.key, [*files, *shared])
    before = contents(watched)
    digest = code_digest(before)
    kept = kept_folder(asked.key, digest)
    print(f"{asked.key}, {revision()}, code {digest}, seed {asked.seed}: clean run …", flush=True)
    clean, fate = clean_run(files, shared, asked.key, kept / "clean", folder)
    if fate.fate != "survived":
        print(fate.output, "fails without a mistake: " + (" ".join(fate.by) or fate.why), sep="\n", file=sys.stderr)
        if fate.fate != "killed" or not asked.anyway:
            return 2
        print(f"left out, as they fail anyway: {' '.join(fate.by)}")
    but = fate.by
    mutants = possible(asked.key, clean.leave)
    executed = [mutant for mutant in mutants if mutant.lines & clean.lines]
    print(f"clean run: {fate.seconds:.0f} s of processor time; {len(mutants)} mutants, {len(executed)} executed")
    chosen = sample(executed, asked.n, asked.seed)
    for module in clean.libraries:
        with contextlib.suppress(Exception):
            importlib.import_module(module)

    def with_mistake(mutant: Mutant) -> Callable[[Path], Fate]:
        def work(place: Path) -> Fate:
            sys.meta_path.insert(0, Importer(mutant))
            tests = [*named_after(mutant.path), *files]
            return run(tests, asked.key, own_cache(mutant, clean, kept), place, but)

        return work

    fates: dict[int, Fate] = {}
    for number, found in tried([with_mistake(m) for m in chosen], folder, asked.jobs, limit(kept, fate.seconds)):
        fates[number] = found
        print(f"{len(fates)}/{len(chosen)} {found.fate:9} {found.seconds:4.0f} s {chosen[number].place}", flush=True)
    after = contents(watched)
    changed = [name for name, held in before.items() if after[name] != held]
    idle = [mutant for mutant in mutants if not mutant.lines & clean.lines]
    return report(asked, digest, [(mutant, fates[i]) for i, mutant in enumerate(chosen)], idle, changed)


def report(
    asked: argparse.Namespace,
    digest: str,
    fates: list[tuple[Mutant, Fate]],
    idle: list[Mutant],
    changed: Sequence[str] = (),
) -> int:
    """Print the table, write it for programs if asked to, and return the exit code.

    If files that decide changed meanwhile, the table may mix mutants of the old and the new, which a warning says.
    """
    rows = []
    for number, (mutant, fate) in enumerate(fates, 1):
        ends = {"killed": f"killed by {' '.join(fate.by).rpartition('/')[2]}", "survived": "SURVIVED"}
        print(f"{number:3} {mutant.place} {mutant.mutation.enclosing}\n      {mutant.mutation.change}")
        print(f"      {ends.get(fate.fate, f'{fate.fate}, counts as killed')}")
        rows.append({"place": mutant.place} | asdict(mutant.mutation) | asdict(fate))
    unseen = sorted({(mutant.tier, mutant.file, mutant.mutation.line) for mutant in idle})
    print(f"not executed by any test of the method, and so not in the sample: {len(unseen)} lines")
    for (_, file), lines in groupby(unseen, key=lambda line: line[:2]):
        print(f"      {file}: {' '.join(str(line) for *_, line in lines)}")
    dead = sum(fate.fate != "survived" for _, fate in fates)
    if asked.out:
        facts = {
            "key": asked.key,
            "code": digest,
            "seed": asked.seed,
            "killed": dead,
            "of": len(fates),
            "mutants": rows,
            "changed": [*changed],
        }
        facts["not_executed"] = [f"{file}:{line}" for _, file, line in unseen]
        asked.out.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    print(f"{dead} of {len(fates)} killed")
    if changed:
        print(f"changed meanwhile, so try again to be sure: {' '.join(changed)}", file=sys.stderr)
        return CHANGED
    return 0 if dead >= ENOUGH * len(fates) else 1


def stopped(*_: Any) -> None:
    """End as if by itself, once, so that the children are ended, too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def main() -> int:
    """Try a sample and say what became of it.

    Returns 0 if nine of ten die, 1 if not, 2 if it cannot be tried, 3 if what decides changed meanwhile.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("key", help="the paper's key")
    parser.add_argument("files", nargs="*", help="more test files to run")
    parser.add_argument("--n", type=int, default=20, help="how many mutants (20)")
    parser.add_argument("--seed", type=int, default=0, help="which sample (0)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (2)")
    parser.add_argument("--anyway", action="store_true", help="leave out the tests that fail without a mistake")
    parser.add_argument("--out", type=Path, help="a JSON file for programs")
    asked = parser.parse_args()
    from eelit.methods.harness import registry

    own, known = ROOT / "tests" / "papers" / f"test_{asked.key}.py", registry.keys()
    if asked.key not in known or not own.exists():
        print(f"no method with tests is known under the key {asked.key!r}; `eelit methods` lists them", file=sys.stderr)
        return 2
    files = [str(own), str(ROOT / "tests" / "test_conformance.py"), *asked.files]
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        return on_trial(asked, files, Path(name))


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    signal.signal(signal.SIGTERM, stopped)
    sys.exit(main())
