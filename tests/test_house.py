"""The rules of the house: which room imports which, what is never loaded, how long a function may be."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from lengths import MOST, lengths
from packaging.requirements import Requirement

from eelit.catalog.extras import EXTRAS

ROOT = Path(__file__).parent.parent
ROOMS = {
    "bib": set(),
    "catalog": {"bib"},
    "methods": set(),
    "site/generator": {"bib", "catalog", "methods"},
    "cli": {"bib", "catalog", "methods", "site"},
}
OWNERS = {
    "torch": {"methods"},
    "transformers": {"methods"},
    "sqlmodel": {"catalog"},
    "pybtex": {"bib"},
    "pylatexenc": {"bib"},
    "click": {"cli", "site"},
    "simpy": {"methods"},
    "requests_cache": {"bib"},
    "ruamel": {"catalog"},
}
ONLY_IN = {
    "sqlmodel": "catalog/database.py",
    "sqlalchemy": "catalog/database.py",
    "simpy": "methods/world/stream.py",
    "requests_cache": "bib/remote/web.py",
}
STANDARD_ONLY = [
    "bib/record.py",
    "bib/problems.py",
    "catalog/baselines.py",
    "catalog/extras.py",
    "catalog/query.py",
    "catalog/seal.py",
    "catalog/fresh.py",
    "catalog/sources.py",
]
METHOD_ROOMS = (
    *("policies", "data", "engine", "world", "backbones", "recipes", "families", "papers", "claims", "harness"),
    "own",
)
"""The rooms of `methods`, each of which may import those before it, but no paper another."""
AWAITED = {
    "backbones.attached": "exits on encoders that users bring, which no paper's method needs",
    "backbones.whisper": "reads a pretrained encoder from its files, as one reads data: no paper's method is in it",
}
"""What is shared though a single paper uses it as yet, and why."""
LONG = {
    "methods/data/newsgroups.py pairs": 47,
    "methods/engine/weights.py trained": 42,
    "methods/harness/runner.py run": 67,
    "methods/harness/smoke.py smoke": 53,
    "methods/recipes/fit.py fit": 57,
}
"""Functions longer than others may be, and how long they are: sequences of steps. Stored results carry a digest of the
code of `data`, `engine` and `recipes`, so that dividing a function there would make them stale."""
TWICE = {
    ("li2023eenet", "li2023predictive"): {"train", "fit"},
    ("leroux2017cascading", "panda2016cdl"): {"head"},
}
"""Methods that two papers hold alike. They are part of a class whose figures are stored, of li2023predictive and of
panda2016cdl: without them the class would be other code than was measured. They may move when it is measured again."""
COPIED = 400
"""From how many characters of its syntax tree on a function of several statements counts as a part of a method."""


def files(room):
    return sorted(path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


def name(path):
    return path.relative_to(ROOT).as_posix()


@cache
def imports(path):
    """Return the full name of everything a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room):
    own = room.partition("/")[0]
    for path in files(room):
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "eelit":
                assert parts[1] in ROOMS[room] | {own}, f"{name(path)} imports {module}"
            assert own in OWNERS.get(parts[0], {own}), f"{name(path)} imports {module}"
            assert ONLY_IN.get(parts[0], name(path)) == name(path), f"{name(path)} imports {module}"


@pytest.mark.parametrize("room", METHOD_ROOMS)
def test_rooms_of_methods_import_only_those_before_them(room):
    allowed = {*METHOD_ROOMS[: METHOD_ROOMS.index(room)], *({room} - {"papers"}), "GROUP"}
    for path in files(f"methods/{room}"):
        for module in imports(path):
            parts = module.split(".")
            if parts[:2] == ["eelit", "methods"]:
                assert parts[2] in allowed, f"{name(path)} imports {module}"


def test_the_rooms_of_methods_are_these():
    folders = {path.parent.name for path in files("methods")} - {"methods"}
    assert folders == set(METHOD_ROOMS)


def papers_of(module, graph):
    """Return the papers that use a module, by themselves or through what they share with others."""
    found, todo = set(), [module]
    while todo:
        used = todo.pop()
        users = {user for user, modules in graph.items() if used in modules} - found
        found |= users
        todo += [user for user in users if user.split(".")[0] not in ("papers", "claims", "harness")]
    return {user for user in found if user.startswith("papers.")}


@pytest.mark.parametrize("room", ["recipes", "backbones"])
def test_shared_rooms_hold_only_what_two_papers_use(room):
    """What a single paper uses belongs into its file, what a family of a single paper uses into one of the two."""
    every = {".".join(path.relative_to(ROOT / "methods").with_suffix("").parts): path for path in files("methods")}
    graph = {
        user: {
            module
            for imported in imports(path)
            for module in every
            if f"{imported}.".startswith(f"eelit.methods.{module}.")
        }
        for user, path in every.items()
    }
    for module in (module for module in every if module.startswith(f"{room}.") and not module.endswith("__init__")):
        papers = papers_of(module, graph)
        file = f"methods/{module.replace('.', '/')}.py"
        users = {*papers, *(user for user, modules in graph.items() if module in modules)}
        assert len(papers) > 1 or module in AWAITED, f"{file} serves {users or 'nobody'} alone: move it there"
        assert not (len(papers) > 1 and module in AWAITED), f"{file} is shared now: no exception is needed"


class Bare(ast.NodeTransformer):
    """Removes docstrings and annotations."""

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.body = node.body[ast.get_docstring(node) is not None :]
        node.returns = None
        return node

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        return ast.Assign([node.target], node.value) if node.value else node


def parts(source):
    """Return name and syntax tree of the functions and methods that a source defines, as far as they do something.

    One statement, such as a call of what is shared, is none, and neither is `__init__`, which says what there is.
    """
    functions = [node for node in ast.walk(Bare().visit(ast.parse(source))) if isinstance(node, ast.FunctionDef)]
    several = [node for node in functions if len(node.body) > 1 and node.name != "__init__"]
    return {(node.name, tree) for node in several if len(tree := ast.dump(node)) > COPIED}


def test_parts_are_alike_whatever_is_written_about_them():
    plain = "def f(a, b):\n    c = [a + each for each in b]\n    return c, sum(c), max(c, default=a + 1), len(c) * a\n"
    told = plain.replace("(a, b)", "(a: int, b: list[int]) -> object").replace(":\n", ":\n    'Says.'\n", 1)
    told = told.replace("c =", "c: list[int] =")
    assert len(parts(plain)) == 1
    assert parts(plain) == parts(told) == parts(f"class A:\n    {told.replace(chr(10), chr(10) + '    ')}")
    assert parts(plain) != parts(plain.replace("a + 1", "a + 2"))
    assert not parts(plain.replace("def f", "def __init__"))


@pytest.mark.parametrize("room", ["papers", "claims", "policies"])
def test_what_two_use_is_written_once(room):
    """With its second user a part moves to `recipes/`, `backbones/`, `families/`, or `claims/comparisons.py`."""
    holders = {}
    for path in files(f"methods/{room}"):
        for part in parts(path.read_text(encoding="utf-8")):
            holders.setdefault(part, []).append(path.stem)
    found = {}
    for (function, _), stems in holders.items():
        if len(stems) > 1:
            found.setdefault(tuple(stems), set()).add(function)
    assert found == (TWICE if room == "papers" else {}), "move it to a shared room, or take the exception away"


@pytest.mark.parametrize("file", STANDARD_ONLY)
def test_what_every_start_loads_is_standard_library(file):
    for module in imports(ROOT / file):
        top = module.partition(".")[0]
        assert top in sys.stdlib_module_names | {"eelit", "platformdirs"}, f"{file} imports {module}"


def test_torch_is_never_loaded_by_the_other_rooms():
    program = """
import importlib, pkgutil, sys
for room in ("bib", "catalog", "site.generator", "cli"):
    package = importlib.import_module(f"eelit.{room}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
assert "torch" not in sys.modules, "torch was loaded"
assert "transformers" not in sys.modules, "transformers was loaded"
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


def declared(*extras):
    """Return the distributions that `pip install eelit[extras]` asks for by name."""
    lines, found = project()["optional-dependencies"], set()
    for line in [*project()["dependencies"], *(line for extra in extras for line in lines[extra])]:
        requirement = Requirement(line)
        found |= declared(*requirement.extras) if requirement.name == "eelit" else {normal(requirement.name)}
    return found


def distribution_of(package):
    """Return what installs a package; one that is not installed here (ray) has the name that it is imported by."""
    return normal(metadata.packages_distributions().get(package.partition(".")[0], [package])[0])


def test_extras_are_told_as_they_are_declared():
    lines = project()["optional-dependencies"]
    assert {*lines} == {*EXTRAS, "all"}
    light = declared()
    for extra, packages in EXTRAS.items():
        own = {normal(Requirement(line).name) for line in lines[extra]} - {"eelit"}
        told = {distribution_of(package) for package in packages}
        assert own <= told <= declared(extra), extra
        assert not told & light, extra
    assert declared("all") == declared(*EXTRAS)


ROOM_EXTRAS = {
    "bib": ("site",),
    "catalog": ("site",),
    "methods": ("run", "onnx", "cluster", "ray"),
    "site/generator": ("site",),
    "cli": ("site", "mcp"),
}
UNDECLARED = {"pyarrow", "pesq", "urllib3", "sqlalchemy", "markupsafe"}
"""What is read if it happens to be there, and says so if not; and parts of requests, SQLModel and Jinja."""


@pytest.mark.parametrize("room", ROOM_EXTRAS)
def test_what_a_room_imports_is_declared(room):
    known = declared(*ROOM_EXTRAS[room]) | UNDECLARED
    for path in files(room):
        for module in imports(path):
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names | {"eelit"}:
                assert distribution_of(top) in known, f"{name(path)} imports {module}"


def test_the_list_of_packages_is_that_of_the_tree():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    in_tree = {
        "eelit." + ".".join(path.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for path in files(room)
        if path.stem == "__init__"
    }
    assert set(settings["packages"]) == in_tree
    with_code = {path.parent for room in ROOMS for path in files(room)}
    assert {path for path in with_code if not (path / "__init__.py").exists()} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_functions_are_short(room):
    """An exception may not grow, and goes once it is short or gone."""
    found = {f"{name(path)} {function}": lines for path in files(room) for function, lines in of(path) if lines > MOST}
    named = {function for function in LONG if function.startswith(f"{room}/")}
    assert {function: lines for function, lines in found.items() if lines > LONG.get(function, MOST)} == {}
    assert named <= found.keys(), "no exception is needed any more"


def of(path):
    return lengths(path.read_text(encoding="utf-8"))


def test_lines_of_a_docstring_are_not_counted():
    """Those of a comment and of the head of a function are, and functions within functions and classes are seen."""
    source = """
class Some:
    async def far(
        self,
    ):
        '''One.

        Two.
        '''
        # why

        def inner():
            '''Nothing.'''

        return inner

def bare(): pass
"""
    assert sorted(lengths(source)) == [("bare", 1), ("far", 9), ("inner", 1)]


def test_the_glossary_names_what_is_there():
    """What a row says to be the place of its words is a module of `methods` and something defined in it."""
    glossary = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Glossary\n")[2].partition("\n## ")[0]
    )
    places = [place for line in glossary.splitlines() for place in re.findall(r"`(\w+/\w+\.\w+)`", line)]
    assert len(places) > 20
    for place in places:
        module, _, wanted = place.partition(".")
        tree = ast.parse((ROOT / "methods" / f"{module}.py").read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        named = {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}
        assert wanted in defined | named, place


def test_names_say_what_is_inside():
    vague = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
    assert [name(path) for room in ROOMS for path in files(room) if path.name in vague] == []


def test_one_key_everywhere():
    entries = {path.stem for path in (ROOT / "catalog/entries").glob("*.yaml")}
    methods = {path.stem for path in (ROOT / "methods/papers").glob("*.py")} - {"__init__"}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests/papers").glob("test_*.py")}
    assert methods <= entries
    assert methods == tests
    claims = {path.stem for path in (ROOT / "methods/claims").glob("*.py")} - {
        "__init__",
        "alone",
        "comparisons",
        "leads",
        "paired",
        "resampling",
    }
    assert claims == methods
