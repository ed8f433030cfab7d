"""What `eelit.methods` offers: each name where it says, documented, nothing imported before it is asked for."""

import ast
import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import eelit.methods

ROOT = Path(__file__).parent.parent
NEEDS_TORCH = {
    *("CannotAttach", "Inference", "MultiExit", "Network", "TokenNetwork"),
    *("attach", "infer", "infer_stream", "load", "replay"),
}
EXAMPLES = (
    *("eelit.methods", "eelit.methods.engine.evaluate", "eelit.methods.policies"),
    *(f"eelit.methods.own.{name}" for name in ("advise", "attach", "calibrate", "compare", "files", "kept", "logits")),
    *("eelit.methods.data.recordings", "eelit.methods.harness.summary"),
    *("eelit.methods.own.saved", "eelit.methods.policies.entropy", "eelit.methods.policies.temperature"),
)


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def names_imported():
    """Return for each name that a checker of types sees, the module that it is imported from."""
    tree = ast.parse(Path(eelit.methods.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_what_is_offered_is_what_a_checker_of_types_sees():
    assert eelit.methods.__all__ == sorted(eelit.methods.__all__)
    assert names_imported() == eelit.methods._MODULES
    assert set(eelit.methods.__all__) == set(eelit.methods._MODULES)
    assert set(eelit.methods.__all__) <= set(dir(eelit.methods))


@pytest.mark.parametrize("name", eelit.methods.__all__)
def test_every_name_is_documented_and_its_own_module_has_it(name):
    found = getattr(eelit.methods, name)
    home = importlib.import_module(eelit.methods._MODULES[name])
    assert found is getattr(home, name)
    assert found.__module__ == home.__name__
    assert inspect.getdoc(found)
    assert f"`{name}`" in eelit.methods.__doc__ or home.__name__.startswith("eelit.methods.policies.")


def test_importing_costs_neither_numpy_nor_torch_and_a_name_only_what_it_needs():
    program = f"""
import sys
import eelit.methods
assert not {{"numpy", "torch", "eelit.methods.own"}} & {{*sys.modules}}
for name in eelit.methods.__all__:
    if name not in {NEEDS_TORCH!r}:
        getattr(eelit.methods, name)
loaded = {{"torch", "transformers", "sklearn", "scipy", "pydantic", "matplotlib"}} & {{*sys.modules}}
assert not loaded, loaded
"""
    found = run(program)
    assert found.returncode == 0, found.stderr


def test_without_torch_a_name_that_needs_it_says_what_to_install():
    program = f"""
import sys
sys.modules["torch"] = None  # as if it were not installed
import eelit.methods
for name in {sorted(NEEDS_TORCH)!r}:
    try:
        getattr(eelit.methods, name)
    except ModuleNotFoundError as error:
        print(error)
"""
    told = run(program).stdout.splitlines()
    assert told == [
        f"eelit.methods.{name} needs torch, which is not installed: pip install 'eelit[run]'"
        for name in sorted(NEEDS_TORCH)
    ]


def test_all_names_can_be_imported_at_once_where_torch_is_not_installed():
    program = """
import sys
sys.modules["torch"] = None  # as if it were not installed
from eelit.methods import *
import eelit.methods
print(*sorted(eelit.methods.__all__))
assert CannotExport and WrongNetwork and calibrate
"""
    found = run(program)
    assert found.returncode == 0, found.stderr
    assert {*found.stdout.split()} == {*eelit.methods.__all__} - NEEDS_TORCH


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'patiance'"):
        eelit.methods.patiance  # noqa: B018
    assert importlib.import_module("eelit.methods.policies") is eelit.methods.policies


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_run(name):
    flags = doctest.ELLIPSIS if name == "eelit.methods.policies" else 0  # the others say so themselves, where needed
    found = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert found.attempted > 0
    assert found.failed == 0


def has_example(path):
    return any(line.lstrip().startswith(">>> ") for line in path.read_text(encoding="utf-8").splitlines())


def test_no_example_is_forgotten():
    written = {path for path in (ROOT / "methods").rglob("*.py") if has_example(path)}
    listed = {Path(importlib.import_module(name).__file__) for name in EXAMPLES}
    assert written == listed
