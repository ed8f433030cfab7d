"""Importing changes nothing but what is imported, and pretrained weights are read without a network all the same."""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = [
    path for room in ("bib", "catalog", "methods", "site/generator", "cli") for path in (ROOT / room).rglob("*.py")
]
CHANGES = ("update", "setdefault", "pop", "clear", "putenv", "unsetenv")


def run_on_import(tree):
    """Yield the nodes of a module that run when it is imported: all but the inside of functions."""
    queue = list(tree.body)
    while queue:
        node = queue.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            queue += ast.iter_child_nodes(node)


def changes_environment(node):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
        return "environ" in ast.unparse(node.func) or node.func.attr.endswith("env")
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return isinstance(node, ast.Assign | ast.AugAssign | ast.Delete) and any(
        "environ" in ast.unparse(t) for t in targets
    )


def test_no_module_changes_the_environment_when_it_is_imported():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in run_on_import(ast.parse(path.read_text(encoding="utf-8")))
        if changes_environment(node)
    ]
    assert found == []
    for bad in ("os.environ.setdefault('A', '1')", "os.environ['A'] = '1'", "del os.environ['A']", "os.environ |= x"):
        assert any(map(changes_environment, run_on_import(ast.parse(f"if True:\n    {bad}")))), bad


NETWORK = ("requests", "requests_cache", "urllib3", "socket", "http", "urllib.request", "httpx")
SERVICES = ("eelit.bib.remote",)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def within(module, roots):
    return any(f"{module}.".startswith(f"{root}.") for root in roots)


def test_only_two_rooms_know_a_network_and_only_the_command_line_has_services_asked():
    asks, uses = set(), set()
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        asks |= {name} if any(within(module, NETWORK) for module in imported(path)) else set()
        uses |= {name} if any(within(module, SERVICES) for module in imported(path)) else set()
    assert {name for name in asks if not name.startswith("bib/remote/")} == {
        "methods/data/sources.py",
        "site/generator/build.py",  # it serves the site on this machine, and asks nobody
    }
    assert {name for name in uses if not name.startswith("bib/remote/")} == {
        "cli/add.py",
        "cli/asking.py",
        "cli/doctor.py",
        "cli/sync.py",
    }


def test_services_are_asked_without_torch_or_the_catalogue():
    program = """
import importlib, pkgutil, sys
package = importlib.import_module("eelit.bib.remote")
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
loaded = {name for name in ("torch", "transformers", "numpy", "eelit.catalog", "eelit.methods") if name in sys.modules}
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def imports_pymoo(node):
    return isinstance(node, ast.Import | ast.ImportFrom) and "pymoo" in ast.unparse(node)


def test_what_only_a_search_needs_is_imported_when_one_runs():
    """NSGA-II takes half a second, and brings packages that nothing else asks for."""
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert [name for name, tree in trees.items() if any(map(imports_pymoo, run_on_import(tree)))] == []
    assert [name for name, tree in trees.items() if any(map(imports_pymoo, ast.walk(tree)))] == [
        "methods/engine/search.py"
    ]


READ = """
import os, socket, sys
import numpy, sklearn, torch, transformers  # what these change is their affair
from transformers import BertConfig, BertModel

before = dict(os.environ)
from eelit.methods.backbones import decoder, encoder
from eelit.methods.families import skimming, tagging, text, tokens
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())

def refuse(*_, **__):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
folder = sys.argv[1]
small = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
BertModel(small).save_pretrained(folder)
encoder.fetch.path = lambda name: folder
assert encoder.encoder("minilm-l6").config.hidden_size == 8
try:
    encoder.fetch.path = lambda name: "nobody/such-a-model"
    encoder.encoder("minilm-l6")
except OSError:
    print("refused")
assert dict(os.environ) == before
"""


def test_weights_are_read_without_a_network_though_no_variable_says_so(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    words = [sys.executable, "-c", READ, tmp_path / "model"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
