"""The wheel: installed into an empty environment, it answers from outside a checkout, with the database it brings.

Once beside all packages that are installed here, and once beside those alone that it requires without any extra.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from eelit.catalog.extras import EXTRAS
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


class Installed:
    """The wheel in an environment of its own, run in an empty folder and without any cache."""

    def __init__(self, wheel, folder):
        self.environment, self.empty = folder / "env", folder / "empty"
        self.empty.mkdir()
        venv.create(self.environment, with_pip=False)
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(self.environment)}))
        install = [sys.executable, "-m", "pip", "--python", str(self.environment / "bin" / "python"), "install"]
        subprocess.run([*install, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)

    def __call__(self, *words, program="eelit", **more):
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("EELIT_", "PYTHON"))}
        variables |= {"HOME": str(self.empty), "XDG_CACHE_HOME": str(self.empty / "cache")} | more
        command = [str(self.environment / "bin" / program), *map(str, words)]
        return subprocess.run(command, cwd=self.empty, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel, built once from a copy of the sources."""
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
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return the wheel beside all packages of this environment."""
    run = Installed(wheel, tmp_path_factory.mktemp("full"))
    # Path files inside the borrowed folder are not followed, so the checkout stays out of sight.
    (run.packages / "borrowed.pth").write_text(f"{distribution('click').locate_file('')}\n", encoding="utf-8")
    return run


def required(requirements, extras=("",)):
    """Return the distributions that these requirements bring here, with all that those require themselves."""
    found = {}
    for requirement in map(Requirement, requirements):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        one = distribution(requirement.name)
        found |= {one.name.lower(): one} | required(one.requires or (), ("", *requirement.extras))
    return found


@pytest.fixture(scope="module")
def light(wheel, tmp_path_factory):
    """Return the wheel beside nothing but the packages that it requires without any extra."""
    run = Installed(wheel, tmp_path_factory.mktemp("light"))
    (own,) = run.packages.glob("eelit-*.dist-info")
    run.required = required(Distribution.at(own).requires)
    for package in run.required.values():
        for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            (run.packages / top).symlink_to(package.locate_file(top))
    labels = np.arange(200) % 4
    surer = np.linspace(1, 6, 3)[:, None, None] * np.eye(4)[labels]
    logits = surer + np.random.default_rng(0).normal(size=(3, 200, 4))
    np.savez(run.empty / "logits.npz", logits=logits, labels=labels, costs=[1.0, 2.0, 3.0], unit="GMACs")
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


def test_without_an_extra_little_is_installed(light):
    few = {"array-api-compat", "click", "networkx", "numpy", "platformdirs"}
    assert few <= {*light.required}
    assert len(light.required) <= 8
    others = {name.partition(".")[0] for names in EXTRAS.values() for name in names}
    program = f"from importlib.util import find_spec; print([name for name in {others} if find_spec(name)])"
    assert light("-c", program, program="python").stdout == "[]\n"


FEW = "--logits logits.npz --settings 6"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("find --text overthinking --format bibtex", "@inproceedings{kaya2019sdn,"),
        ("show pabee", "Wangchunshu Zhou"),
        ("cite pabee --format csl-json", '"id": "zhou2020pabee"'),
        ("graph --path pabee calm", "schuster2022calm"),
        ("graph --around pabee --format graphml", "<graphml"),
        ("taxonomy policy", "patience"),
        ("gaps", "confidence"),
        ("methods --format keys", "zhou2020pabee"),
        ("data list --format keys", "minilm-l6"),
        (f"compare {FEW} --format json", '"max-confidence"'),
        (f"calibrate {FEW} --budget 0.6 --out rule.json", "the mean cost is at most 60.0%"),
        (f"advise {FEW} --format json", '"quality_is"'),
        ("advise --logits example:images --settings 6 --format json", '"name": "example:images"'),
    ],
)
def test_without_an_extra_the_catalogue_and_logits_are_there(light, words, expected):
    found = light(*words.split())
    assert found.returncode == 0, found.stderr
    assert expected in found.stdout
    assert "Traceback" not in found.stderr


def test_without_an_extra_a_rule_is_applied(light):
    made = light("calibrate", *FEW.split(), "--max-drop", "0.02", "--out", "applied.json")
    assert made.returncode == 0, made.stderr
    program = """
from eelit.methods import load_rule, read
exits = load_rule("applied.json").apply(read("logits.npz")).exits
print(len(exits), exits.min() < 2, exits.max() <= 2)
"""
    found = light("-c", program, program="python")
    assert found.stdout == "200 True True\n", found.stderr


@pytest.mark.parametrize(
    ("words", "packages", "extra"),
    [
        ("run pabee", "torch, transformers, sklearn and 15 more packages are", "run"),
        ("smoke", "torch, transformers, sklearn and 15 more packages are", "run"),
        ("data fetch minilm-l6", "filelock is", "run"),
        ("leaderboard", "pydantic is", "run"),
        ("compare pabee deebert", "pydantic is", "run"),
        ("graph --measures", "scipy is", "measures"),
        (f"compare {FEW} --out curves.svg", "matplotlib is", "plot"),
        ("check", "mkdocs, material, jinja2 and 12 more packages are", "site"),
        ("site build", "mkdocs, material, jinja2 and 12 more packages are", "site"),
        ("mcp", "mcp, pydantic and joblib are", "mcp"),
    ],
)
def test_a_missing_extra_is_named_in_one_sentence(light, words, packages, extra):
    found = light(*words.split())
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr == f"eelit: {packages} needed for this and not installed: pip install 'eelit[{extra}]'\n"


def test_help_needs_no_extra(light):
    found = light("run", "--help")
    assert found.returncode == 0, found.stderr
    assert "eelit run pabee" in found.stdout
