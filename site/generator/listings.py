"""The code behind each section of a method's docstring, cut out of its source and of the shared parts that it uses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
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
SECTIONS = {"Model": "build", "Training": "train", "Exit rule": "policy"}
"""Section of a docstring → the function of the method's class that does what it says."""
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

    def definitions(self) -> Iterator[ast.FunctionDef | ast.ClassDef]:
        """Yield the functions and classes of the module."""
        return (node for node in self.tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))

    def listing(self, node: ast.FunctionDef | ast.ClassDef, *, shared: bool) -> Listing:
        """Return a function or class as it stands, decorators included."""
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        lines = self.text.splitlines()[first - 1 : node.end_lineno]
        indent = len(lines[0]) - len(lines[0].lstrip())
        code = "\n".join(line[indent:] for line in lines)
        return Listing(node.name, self.path, first, _set(code), shared)


def _set(code: str) -> Markup:
    return Markup(highlight(code, PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True)).strip())


def beside(info: MethodInfo) -> dict[str, list[Listing]]:
    """Return the code that does what each section says; nothing for sections that no single function does."""
    own = _read(info.path, f"methods/papers/{info.path.name}")
    found = {section: list(_of_function(own, name, SHARED.get(section, ""))) for section, name in SECTIONS.items()}
    return {section: listings for section, listings in found.items() if listings}


def _of_function(own: Source, name: str, room: str) -> Iterator[Listing]:
    where = _function(own, name)
    if where is None:
        return
    source, node = where
    yield source.listing(node, shared=source.path != own.path)
    used = {part.id for statement in node.body for part in ast.walk(statement) if isinstance(part, ast.Name)}
    for called in sorted(used):
        module = source.imports.get(called, "")
        if room and module.startswith(f"{PACKAGE}.{room}."):
            part = _module(module)
            yield from (part.listing(n, shared=True) for n in part.definitions() if n.name == called)


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
