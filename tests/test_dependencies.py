"""The digest of a method's code: changed by what changes a figure, and by nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eelit.methods.harness import dependencies, registry

ROOT = Path(__file__).parents[1]
KEY = "zhou2020pabee"
DIGEST = """
import sys
from pathlib import Path
import eelit.methods.harness.dependencies as d
d.files = lambda package: Path(sys.argv[1])
print(d.digest(Path(sys.argv[1], "papers", f"{sys.argv[2]}.py")))
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
"""


@pytest.fixture
def sources(tmp_path):
    """Return a copy of the sources of all methods."""
    return shutil.copytree(
        ROOT / "methods", tmp_path / "methods", ignore=shutil.ignore_patterns("__pycache__", "results")
    )


@pytest.fixture
def digest(sources):
    """Return a function that changes the sources by replacing a text in a file, and returns the digest then."""

    def changed(path=None, old="", new="", key=KEY):
        if path:
            file = sources / path
            text = file.read_text(encoding="utf-8")
            assert old in text
            file.write_text(text.replace(old, new), encoding="utf-8")
        words = [sys.executable, "-c", DIGEST, str(sources), key]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        if path:
            file.write_text(text, encoding="utf-8")
        return found.stdout.strip()

    return changed


def test_it_is_the_same_wherever_the_sources_lie_and_needs_no_torch(digest):
    assert digest() == dependencies.digest(registry.describe(KEY).path)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (
            "papers/zhou2020pabee.py",
            '"""Patience-based early exit. `TextMethod` builds the exits and trains them, as above."""',
            '"""Leaves early."""',
        ),
        ("papers/zhou2020pabee.py", "epochs: float = 1.0  # passes", "epochs: float = 1.0  # rounds"),
        ("recipes/joint.py", "data: Data,", "data: object,"),
        ("recipes/two_stage.py", "READ = 64", "READ = 65"),  # not used here
        ("policies/max_confidence.py", "def start(self) -> State:", "def start(self):"),
        (
            "papers/zhou2020pabee.py",
            "    knob: ClassVar",
            "    others: ClassVar[dict] = {'length': 8}\n    knob: ClassVar",
        ),
        ("families/text.py", '{"train_size": 240,', '{"train_size": 241,'),  # of smoke tests
        ("data/fetch.py", "def fetch(", "NOTHING = 1\n\n\ndef fetch("),  # plumbing
        ("engine/costs.py", " zeros_like\n", " zeros_like never_counted\n"),
    ],
)
def test_what_changes_no_figure_does_not_count(digest, path, old, new):
    assert digest(path, old, new) == digest()


def test_a_definition_may_move_to_another_module(digest, sources):
    before = digest()
    old, new = sources / "policies/patience.py", sources / "recipes/moved.py"
    old.rename(new)
    for file in sources.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        file.write_text(
            text.replace("eelit.methods.policies.patience", "eelit.methods.recipes.moved"), encoding="utf-8"
        )
    assert digest() == before
    new.write_text(new.read_text(encoding="utf-8").replace("before + 1", "before + 2"), encoding="utf-8")
    assert digest() != before  # it was still looked at


def test_what_is_claimed_counts(digest, sources):
    before = digest()
    claims = sources / "claims" / f"{KEY}.py"
    claims.write_text("def claims(method, prepared, bench, curve):\n    return [1]\n", encoding="utf-8")
    assert digest() != before


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("papers/zhou2020pabee.py", "epochs: float = 1.0", "epochs: float = 2.0"),
        ("recipes/joint.py", "/ (exits * (exits + 1) / 2)", "/ exits"),  # two definitions away
        ("policies/patience.py", "before + 1", "before + 2"),
        ("engine/evaluate.py", "== count - 1)] = i", "== count - 1)] = 0"),
        ("harness/runner.py", "target = (min(costs) + max(costs)) / 2", "target = max(costs)"),
        (
            "engine/costs.py",
            "pairs * (width + value.shape[-1])",
            "pairs * width",
        ),  # reached through a module's attribute
        ("data/text.py", "train: int = 4000, validation: int = 1000", "train: int = 4000, validation: int = 900"),
        (
            "engine/evaluate.py",
            "at_exits, evaluating,",
            "at_exits as evaluating, evaluating as at_exits,",
        ),  # each the other's name
        ("recipes/fit.py", "import torch\n", "import numpy as torch\n"),  # another's, under the same name
        (
            "papers/zhou2020pabee.py",
            "    knob: ClassVar",
            "    full: ClassVar[dict] = {'length': 8}\n    knob: ClassVar",
        ),  # tracks are measured with the longer recipe
    ],
)
def test_what_changes_a_figure_counts(digest, path, old, new):
    assert digest(path, old, new) != digest()


def test_settings_of_tests_count_for_tests(sources):
    """A smoke test is run again when what it is run with changes."""
    family = sources / "families" / "text.py"

    def found():
        with_them = DIGEST.replace('.py")))', '.py"), trials=True))')
        words = [sys.executable, "-c", with_them, str(sources), KEY]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    before = found()
    text = family.read_text(encoding="utf-8")
    family.write_text(text.replace('"train_size": 240,', '"train_size": 241,'), encoding="utf-8")
    assert found() != before


def test_methods_differ():
    keys = registry.keys()
    assert len({dependencies.digest(registry.describe(key).path) for key in keys}) == len(keys)
