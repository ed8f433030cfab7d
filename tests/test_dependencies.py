"""The digest of a method's code: changed by what changes a figure, and by nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eelit.methods import dependencies, registry

ROOT = Path(__file__).parents[1]
KEY = "zhou2020pabee"
DIGEST = """
import sys
from pathlib import Path
import eelit.methods.dependencies as d
d.files = lambda package: Path(sys.argv[1])
print(d.digest(Path(sys.argv[1], "papers", f"{sys.argv[2]}.py")))
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
"""


@pytest.fixture
def digest(tmp_path):
    """Return a function that changes the sources by replacing a text in a file, and returns the digest then."""
    copy = shutil.copytree(ROOT / "methods", tmp_path / "methods", ignore=shutil.ignore_patterns("__pycache__"))

    def changed(path=None, old="", new="", key=KEY):
        if path:
            file = copy / path
            text = file.read_text(encoding="utf-8")
            assert old in text
            file.write_text(text.replace(old, new), encoding="utf-8")
        words = [sys.executable, "-c", DIGEST, str(copy), key]
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
        ("policies/confidence.py", "def start(self) -> State:", "def start(self):"),
        ("data/fetch.py", "def fetch(", "NOTHING = 1\n\n\ndef fetch("),  # plumbing
    ],
)
def test_what_changes_no_figure_does_not_count(digest, path, old, new):
    assert digest(path, old, new) == digest()


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("papers/zhou2020pabee.py", "epochs: float = 1.0", "epochs: float = 2.0"),
        ("recipes/joint.py", "/ (exits * (exits + 1) / 2)", "/ exits"),  # two definitions away
        ("policies/patience.py", "before + 1", "before + 2"),
        ("evaluate.py", "== last)] = i", "== last)] = last"),
        ("runner.py", "target = (min(costs) + max(costs)) / 2", "target = max(costs)"),
        ("costs.py", "pairs * (width + value.shape[-1])", "pairs * width"),  # reached through a module's attribute
        ("data/text.py", "train: int = 4000, validation: int = 1000", "train: int = 4000, validation: int = 900"),
    ],
)
def test_what_changes_a_figure_counts(digest, path, old, new):
    assert digest(path, old, new) != digest()


def test_methods_differ():
    keys = registry.keys()
    assert len({dependencies.digest(registry.describe(key).path) for key in keys}) == len(keys)
