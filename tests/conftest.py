"""Shared by all tests: methods trained once per session in their tiny setting, and the catalogue to break or to ask."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from filelock import FileLock

torch.set_num_threads(1)
# What is installed stays while tests run, and telling takes a second: a training's name asks it of each package.
importlib.metadata.packages_distributions = cache(importlib.metadata.packages_distributions)


KEPT = "EELIT_TEST_CACHE"


def pytest_configure(config):
    """Let all processes of a run share one folder of trained weights, gone at the end; `mutants.py` keeps its own."""
    if KEPT not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="eelit-tests-")
        os.environ[KEPT] = folder.name  # processes that xdist starts inherit it
        config.add_cleanup(folder.cleanup)
        config.add_cleanup(lambda: os.environ.pop(KEPT))


@cache
def tiny(key, variant=None):
    """Return the method as a variant has it (the first if None), its bench and what it prepared, in test settings.

    It is trained once for all processes. So a test that trains while something is patched does it with a `Bench()` of
    its own, which keeps nothing.
    """
    from eelit.methods.engine.method import Bench
    from eelit.methods.harness import registry

    method = registry.get(key)
    method = method.variant(next(iter(method.variants)) if variant is None else variant, "tiny")
    bench = Bench(test=400, executed=48, repeats=1, cache=Path(os.environ[KEPT]))
    return method, bench, method.prepare(bench)


@pytest.fixture(scope="session")
def prepared():
    """Return ``tiny``: key and variant → (method, bench, prepared)."""
    return tiny


@pytest.fixture
def stages():
    """Return a function: method → the stages of its training as `fit` is told of them, and nothing is trained.

    Of each stage a test can see the loss, which it may call on a batch of its own making (`Stage.batch_of`), the data,
    the parameters with their rates, and for how long.
    """
    from eelit.methods.engine.method import Bench

    def of(method, **bench):
        found = []
        method.prepare(Bench(most_steps=0, watch=lambda stage: found.append(stage) if stage else None, **bench))
        return found

    return of


@pytest.fixture
def wired(monkeypatch):
    """Return a function: method → its network as built, and the stages of its training; nothing is trained.

    ``stage.in_training`` of each tells whether the network was in training mode when it began, and ``stage.learning``
    names the parts with dropout that were.
    """
    from eelit.methods.engine.method import Bench

    def of(method):
        models, found = [], []
        build = type(method).build

        def watch(stage):
            if stage:
                parts = models[0].named_modules()
                on = {name for name, part in parts if isinstance(part, torch.nn.Dropout) and part.training}
                object.__setattr__(stage, "learning", on)
                object.__setattr__(stage, "in_training", models[0].training)
                found.append(stage)

        with monkeypatch.context() as patch:
            patch.setattr(type(method), "build", lambda *given: models.append(build(*given)) or models[-1])
            method.prepare(Bench(most_steps=0, watch=watch))
        return models[0], found

    return of


@pytest.fixture
def one_stage(wired):
    """Return a function: method → its network, and its only stage of training, which begins in training mode.

    For methods of several stages, see `wired`.
    """

    def of(method):
        network, (stage,) = wired(method)
        assert stage.in_training
        return network, stage

    return of


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory):
    """Return a folder with random weights of EfficientNet-Lite0 in a file of the form of the pretrained ones."""
    from eelit.methods.backbones import efficientnet

    torch.manual_seed(0)
    weights = {str(i): tensor for i, tensor in enumerate(efficientnet.network().state_dict().values())}
    classifier = {"_fc.weight": torch.zeros(1000, efficientnet.LAST), "_fc.bias": torch.zeros(1000)}
    folder = tmp_path_factory.mktemp("weights")
    torch.save(weights | classifier, folder / f"{efficientnet.ITEM}.pth")
    return folder


@pytest.fixture
def untrained(random_weights, monkeypatch):
    """Put random weights in the place of EfficientNet's pretrained ones, and return their folder."""
    from eelit.methods.backbones import efficientnet

    monkeypatch.setattr(efficientnet.fetch, "path", lambda name: random_weights)
    return random_weights


@pytest.fixture(scope="session")
def made():
    """Return a function: rule → what it is said to have measured, the same point once or more, dearer than anything."""
    from eelit.methods.engine.records import Baseline, OperatingPoint

    def baseline(quality, name="max-confidence", speed_up=1e9, knob=0.5, points=1):
        point = OperatingPoint(knob=knob, quality=quality, cost=1e99, speed_up=speed_up, exits=[1.0])
        return Baseline(name=name, validation=[point] * points, test=[point] * points)

    return baseline


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return a copy of the catalogue's sources, which commands take for the checkout; the database lies beside it."""
    here = Path(__file__).parent.parent
    root = tmp_path / "checkout"
    for room in ("bib", "catalog"):
        shutil.copytree(here / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    papers = root / "methods" / "papers"
    papers.mkdir(parents=True)
    for entry in (root / "catalog" / "entries").glob("*.yaml"):
        if "\nimplementation:" in entry.read_text(encoding="utf-8"):
            (papers / entry.name).with_suffix(".py").touch()
    monkeypatch.setenv("EELIT_ROOT", str(root))
    monkeypatch.setenv("EELIT_DB", str(tmp_path / "catalogue.sqlite"))
    return root


@pytest.fixture
def methodless(tree):
    """Return the key of a work without a method: an invented one, since a real one may get its method any day."""
    key = "doe2027plain"
    facets = "placement: [every-layer]\ntraining: [joint]\npolicy: [entropy]\ndomain: [language]\n"
    entry = f"key: {key}\nshort_name: PlainExit\nrole: early-exit\n{facets}idea: It stops.\nsources: [nothing]\n"
    (tree / "catalog" / "entries" / f"{key}.yaml").write_text(entry, encoding="utf-8")
    with (tree / "bib" / "early-exit.bib").open("a", encoding="utf-8") as file:
        file.write(
            f"\n@misc{{{key},\n  author = {{Doe, Jo}},\n  title = {{Stopping Plainly}},\n  year = {{2027}}\n}}\n"
        )
    return key


@pytest.fixture
def eelit(monkeypatch):
    """Return a function that runs the command line in this process and returns click's result."""
    from click.testing import CliRunner

    from eelit.cli.group import eelit as command

    monkeypatch.delenv("COLUMNS", raising=False)
    return lambda *words: CliRunner().invoke(command, [str(word) for word in words], prog_name="eelit")


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """Return a database of the real catalogue."""
    from eelit.catalog.database import build
    from eelit.catalog.sources import sources

    path = tmp_path_factory.mktemp("database") / "catalogue.sqlite"
    build(path, sources())
    return path


def made_once(factory, name, make):
    """Return a folder that `make` fills, once for all processes that run tests; it is read only."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


BUILD = """
import sys
from pathlib import Path
from eelit.site.generator.build import build

folder = Path(sys.argv[1])
build(smoke_reports=folder / "none", out=folder / "site")
heavy = {name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "sklearn"}
(folder / "heavy.txt").write_text(" ".join(heavy))
"""


@pytest.fixture(scope="session")
def hostile_site(tmp_path_factory):
    """Return the folder of a site made from a hostile catalogue."""
    from hostile import written

    return made_once(tmp_path_factory, "hostile", written) / "site"


@pytest.fixture(scope="session")
def build_site():
    """Return a function that builds the site of the checkout into a folder, told where it and its sources stand."""

    def built(folder, address="", repository=""):
        environment = os.environ | {"EELIT_SITE_URL": address, "EELIT_REPO_URL": repository}
        words = [sys.executable, "-c", BUILD, folder]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return built


@pytest.fixture(scope="session")
def built_site(tmp_path_factory, build_site):
    """Return the folder of the site, built without a smoke test and not told where it will stand."""
    return made_once(tmp_path_factory, "built", build_site) / "site"
