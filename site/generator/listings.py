"""The code behind each section of a method's docstring, cut out of its source and of the shared parts that it uses.

A paper's own parts come first, in the order of its file, then the functions of its class that put them to use, then
what it takes from the shared rooms.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from eelit.methods.harness.registry import MethodInfo

PACKAGE = "eelit.methods"
Definition = ast.FunctionDef | ast.ClassDef
SECTIONS = {
    "Model": ("build",),
    "Training": ("train", "tuned"),
    "Exit rule": ("policy", "rule", "fit", "answers", "beside"),
}
"""Section of a docstring → the functions of the method's class that do what it says."""
SHARED = {"Training": "recipes", "Exit rule": "policies"}
"""Section → where the shared parts lie that its function calls."""


@dataclass(frozen=True)
class Listing:
    """A piece of code, set, with where it stands."""

    name: str
    path: str  # below the checkout
    line: int
    code: Markup
    shared: bool  # from a part that other methods use too


@dataclass(frozen=True)
class Source:
    """A module, taken apart."""

    path: str
    text: str
    tree: ast.Module

    @property
    def imports(self) -> dict[str, str]:
        """Names and the modules of this package that they come from."""
        found = (node for node in self.tree.body if isinstance(node, ast.ImportFrom) and node.module)
        return {alias.name: node.module or "" for node in found for alias in node.names}

    def classes(self) -> Iterator[ast.ClassDef]:
        """Yield the classes of the module."""
        return (node for node in self.tree.body if isinstance(node, ast.ClassDef))

    def definitions(self) -> Iterator[Definition]:
        """Yield the functions and classes of the module."""
        return (node for node in self.tree.body if isinstance(node, Definition))

    @property
    def constants(self) -> dict[str, ast.stmt]:
        """Names of the module and what is assigned to them; through a table, say, a function uses others."""
        found = (
            (node, node.targets if isinstance(node, ast.Assign) else [node.target])
            for node in self.tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
        )
        return {target.id: node for node, targets in found for target in targets if isinstance(target, ast.Name)}

    def listing(self, node: Definition, *, shared: bool) -> Listing:
        """Return a function or class as it stands, decorators included."""
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        lines = self.text.splitlines()[first - 1 : node.end_lineno]
        indent = len(lines[0]) - len(lines[0].lstrip())
        code = "\n".join(line[indent:] for line in lines)
        return Listing(node.name, self.path, first, _set(code), shared)


@cache  # many methods use the same recipe, and setting it takes longest
def _set(code: str) -> Markup:
    return Markup(highlight(code, PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True)).strip())


def beside(info: MethodInfo) -> dict[str, list[Listing]]:
    """Return the code that does what each section says; each part of the paper's own file at most once.

    A part is shown in the first section whose function needs it, directly or through others. Sections that no single
    function does are left out. What the method itself does not need, such as a measure of its own that claims are tried
    with, stands beside the section that names it, or else beside the idea.
    """
    own = _read(info.path, f"methods/papers/{info.path.name}")
    shown: set[str] = set()
    found: dict[str, list[Listing]] = {}
    for section, (main, *more) in SECTIONS.items():
        entries: list[tuple[Source, ast.FunctionDef]] = [
            entry for name in (main, *more) if (entry := _function(own, name)) is not None
        ]
        entries = [(source, node) for source, node in entries if source.path == own.path or node.name == main]
        parts, methods = _needed(own, [node for source, node in entries if source.path == own.path])
        entries += [(own, node) for node in methods]
        new = [own.listing(node, shared=False) for node in parts if node.name not in shown]
        shown |= {part.name for part in new}
        new += [source.listing(node, shared=source.path != own.path) for source, node in entries]
        users: list[tuple[Source, Definition]] = [*entries, *((own, part) for part in parts)]
        new += _shared(users, SHARED.get(section, ""))
        if new:
            found[section] = new
    for part in own.definitions():
        if part.name not in shown and not _is_method(own, part):
            section = next((title for title, text in info.sections.items() if part.name in text), "Idea")
            found.setdefault(section, []).append(own.listing(part, shared=False))
    return found


def _is_method(own: Source, part: Definition) -> bool:
    """Tell whether this is a class of the method, which the settings stand for: it derives from a family's."""
    bases = {base.id for base in part.bases if isinstance(base, ast.Name)} if isinstance(part, ast.ClassDef) else set()
    inherited = any(_is_method(own, node) for node in own.classes() if node.name in bases)
    return inherited or any(base.endswith("Method") and base in own.imports for base in bases)


def _needed(own: Source, start: Sequence[ast.FunctionDef]) -> tuple[list[Definition], list[ast.FunctionDef]]:
    """Return the paper's own functions and classes that these use, directly or through others, as they stand.

    And the further functions of their class that they call.
    """
    named: dict[str, ast.stmt] = {node.name: node for node in own.definitions()} | own.constants
    holders = [owner for owner in own.classes() if any(node in owner.body for node in start)]
    methods = {node.name: node for owner in holders for node in owner.body if isinstance(node, ast.FunctionDef)}
    reached: set[str] = {owner.name for owner in holders}
    called = {node.name for node in start}
    waiting: list[ast.stmt] = list(start)
    while waiting:
        node = waiting.pop()
        names = _names(node)
        waiting += [named[name] for name in names & named.keys() - reached]
        reached |= names
        if node in methods.values():
            further = _own_attributes(node) & methods.keys() - called
            waiting += [methods[name] for name in further]
            called |= further
    parts = [node for node in own.definitions() if node.name in reached and node not in holders]
    return parts, [node for name, node in methods.items() if name in called and node not in start]


def _names(node: ast.AST, *, annotations: bool = True) -> set[str]:
    """Return the names that code reads."""
    if isinstance(node, ast.Name):
        return {node.id}
    left_out = () if annotations else ("annotation", "returns")
    values = (value for field, value in ast.iter_fields(node) if field not in left_out)
    children = (x for value in values for x in (value if isinstance(value, list) else [value]))
    return {name for x in children if isinstance(x, ast.AST) for name in _names(x, annotations=annotations)}


def _own_attributes(node: ast.AST) -> set[str]:
    """Return what code reads as ``self.NAME``."""
    found = (part for part in ast.walk(node) if isinstance(part, ast.Attribute))
    return {part.attr for part in found if isinstance(part.value, ast.Name) and part.value.id == "self"}


def _shared(users: Sequence[tuple[Source, Definition]], room: str) -> list[Listing]:
    """Return what these functions and classes take from a shared room, by name."""
    names = ((source, _names(node, annotations=False) & source.imports.keys()) for source, node in users)
    used = {(name, source.imports[name]) for source, found in names for name in found}
    modules = [(name, _module(module)) for name, module in sorted(used) if module.startswith(f"{PACKAGE}.{room}.")]
    return [
        part.listing(node, shared=True) for name, part in modules for node in part.definitions() if node.name == name
    ]


def _function(source: Source, name: str) -> tuple[Source, ast.FunctionDef] | None:
    """Return the function of the method's class, or of the family it is derived from, with its module."""
    for owner in source.classes():
        for node in owner.body:
            if isinstance(node, ast.FunctionDef) and node.name == name and not _is_abstract(node):
                return source, node
    for owner in source.classes():
        for base in (base.id for base in owner.bases if isinstance(base, ast.Name)):
            module = source.imports.get(base, "")
            if module.startswith(f"{PACKAGE}.families."):
                return _function(_module(module), name)
    return None


def _is_abstract(node: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "abstractmethod" for mark in node.decorator_list)


@cache
def _module(name: str) -> Source:
    inside = "/".join(name.split(".")[2:]) + ".py"
    return _read(Path(str(files(PACKAGE))) / inside, f"methods/{inside}")


def _read(path: Path, shown: str) -> Source:
    text = path.read_text(encoding="utf-8")
    return Source(shown, text, ast.parse(text))
