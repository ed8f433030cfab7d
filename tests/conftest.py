"""Shared by all tests: methods trained once per session in their tiny setting, and the catalogue to break or to ask."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from filelock import FileLock

torch.set_num_threads(1)


@cache
def tiny(key):
    """Return the method, its bench and what it prepared, in the setting for tests."""
    from eelit.methods import registry
    from eelit.methods.method import Bench

    method = registry.get(key)
    method = method.replace(method.tiny)
    bench = Bench(executed=48)
    return method, bench, method.prepare(bench)


@pytest.fixture(scope="session")
def prepared():
    """Return ``tiny``: key → (method, bench, prepared)."""
    return tiny


@pytest.fixture(scope="session")
def made():
    """Return a function: rule → what it is said to have measured, the same point once or more, dearer than anything."""
    from eelit.methods.records import Baseline, OperatingPoint

    def baseline(quality, name="max-confidence", speed_up=1e9, knob=0.5, points=1):
        point = OperatingPoint(knob=knob, quality=quality, cost=1e99, speed_up=speed_up, exits=[1.0])
        return Baseline(name=name, validation=[point] * points, test=[point] * points)

    return baseline


@pytest.fixture
def training_loss(monkeypatch):
    """Return a function that runs a recipe with nothing fitted, and returns the loss that `fit` was to minimise."""

    def caught(recipe, train):
        losses = []
        monkeypatch.setattr(recipe, "fit", lambda parameters, examples, loss, *_, **options: losses.append(loss))
        train()
        return losses[-1]

    return caught


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

    from eelit.cli.main import eelit as command

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
