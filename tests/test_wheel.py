"""The wheel: installed into an empty environment, it answers from outside a checkout, with the database it brings."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from eelit.methods.data.cache import cache_root

ROOT = Path(__file__).parent.parent
SOURCES = (
    "bib",
    "catalog",
    "cli",
    "methods",
    "site",
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "LICENSE-DATA",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a function that runs the installed `eelit` in an empty folder, without any cache."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in SOURCES:
        place = ROOT / name
        copied = shutil.ignore_patterns("__pycache__")
        shutil.copytree(place, copy / name, ignore=copied) if place.is_dir() else shutil.copy(place, copy / name)
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
    built = subprocess.run(words, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    shutil.rmtree(copy)
    environment = folder / "env"
    venv.create(environment, with_pip=False)
    # Path files inside the borrowed folder are not followed, so the checkout stays out of sight.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install"]
    subprocess.run([*install, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    empty = folder / "empty"
    empty.mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("EELIT_", "PYTHON"))}
    variables |= {"HOME": str(empty), "XDG_CACHE_HOME": str(empty / "cache")}

    def run(*words, **more):
        command = [str(environment / "bin" / "eelit"), *words]
        return subprocess.run(command, cwd=empty, env=variables | more, capture_output=True, text=True, check=False)

    run.packages = packages
    run.empty = empty
    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("find --policy patience --format keys", "zhou2020pabee"),
        ("show pabee", "Wangchunshu Zhou"),
        ("taxonomy policy", "patience"),
        ("cite pabee --format bibtex", "@inproceedings{zhou2020pabee,"),
        ("graph --path pabee calm", "schuster2022calm"),
        ("methods --format keys", "zhou2020pabee"),
        ("data list --format keys", "minilm-l6"),
        ("run --help", "eelit run pabee"),
    ],
)
def test_it_answers_from_anywhere(installed, words, expected):
    found = installed(*words.split())
    assert found.returncode == 0, found.stderr
    assert expected in found.stdout
    assert list(installed.empty.iterdir()) == []  # the shipped database is used as it is


def test_it_runs_a_method(installed, tmp_path):
    words = ["run", "busolin2021lear", "--knob", "0.5", "--out", str(tmp_path), "--format", "json"]
    found = installed(*words, EELIT_CACHE=str(cache_root()))  # data that is fetched already is not fetched again
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["commit"] is None  # not of a checkout
    (done,) = result["curves"][0]["executions"]
    assert done["counted"] == done["claimed"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {f"busolin2021lear.{kind}" for kind in ("json", "png", "svg")}


def test_it_does_not_overwrite_its_own_database(installed):
    found = installed("build")
    assert found.returncode == 2
    assert "--db" in found.stderr


def test_it_does_not_see_the_checkout(installed):
    assert (installed.packages / "eelit" / "catalog" / "catalogue.sqlite").is_file()
    found = installed("find", "--db", "none.sqlite")
    assert found.returncode == 2
    assert "there is no catalogue at" in found.stderr
    assert str(ROOT) not in installed("methods", "--format", "json").stdout


@pytest.mark.parametrize("words", ["site build", "site serve", "new smith2027lazy"])
def test_what_needs_a_checkout_says_so(installed, words):
    found = installed(*words.split())
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "checkout" in found.stderr
