"""Which code a method depends on, followed from definition to definition in the sources: nothing is imported.

A stored result names the digest of the code that measured it. As long as the digest is the same, the result is that of
the present code, whatever comments, docstrings, annotations or neighbouring functions have changed since.
"""

from __future__ import annotations

import ast
import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

PACKAGE = "eelit.methods"
Symbol = tuple[str, str]
"""A module's full name, and the name of a function, class or value at its top level."""

MEASURING = ("measure", "timings", "scaled", "SAMPLES", "_prepared")
"""What of the runner has a say in the figures."""
PLUMBING = {
    "cache", "conformance", "records", "registry", "data.fetch", "data.manifest", "data.progress", "data.sources",
}  # fmt: skip
"""Modules that fetch, keep, check or describe figures, and do not make them."""


@dataclass
class Module:
    """The top-level definitions of a module, and where the names that it imports come from."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Symbol] = field(default_factory=dict)  # local name → (module, name); name "" is the module


class _Bare(ast.NodeTransformer):
    """Removes what does not change what a program does: docstrings and annotations."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        return node


def digest(key_path: Path) -> str:
    """Return 16 hexadecimal digits for the code behind the method in the file, and behind running and measuring it."""
    measuring = [symbol for name in MEASURING for symbol in _imported((f"{PACKAGE}.runner", name))]
    found = [
        f"{place}.{name} {ast.dump(statement)}"
        for _, place, name, statements in _followed([*_own(key_path), *measuring])
        for statement in statements
    ]
    return hashlib.blake2b("\n".join(sorted(found)).encode(), digest_size=8).hexdigest()


def reached(key_path: Path) -> dict[Symbol, int]:
    """Return the definitions behind the method in the file, and how far each is: 0 its own, 1 used by these, 2 …."""
    return {(place, name): steps for steps, place, name, _ in _followed(_own(key_path))}


def _own(key_path: Path) -> list[tuple[Module, str, str]]:
    own = _parse(key_path)
    return [(own, key_path.stem, name) for name in own.definitions]


def _followed(start: list[tuple[Module, str, str]]) -> Iterator[tuple[int, str, str, list[ast.stmt]]]:
    """Yield the definitions at the start and all that they lead to, the nearest first: steps, place, name, code."""
    todo = deque((0, *symbol) for symbol in start)
    seen: set[tuple[int, str]] = set()
    while todo:
        steps, inside, place, name = todo.popleft()
        if (id(inside), name) in seen:
            continue
        seen.add((id(inside), name))
        statements = inside.definitions.get(name, [])
        yield steps, place, name, statements
        for statement in statements:
            for node in ast.walk(statement):
                todo += [(steps + 1, *symbol) for symbol in _used(inside, place, node)]


def _used(inside: Module, place: str, node: ast.AST) -> list[tuple[Module, str, str]]:
    """Return the definitions that one node of a syntax tree refers to."""
    if isinstance(node, ast.Name):
        if node.id in inside.definitions:
            return [(inside, place, node.id)]
        return _imported(inside.imports.get(node.id, ("", "")))
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        origin, name = inside.imports.get(node.value.id, ("", ""))
        whole = f"{origin}.{name}".removesuffix(".")
        if origin and module(whole):
            return _imported((whole, node.attr))
    return []


def _imported(symbol: Symbol) -> list[tuple[Module, str, str]]:
    origin, name = symbol
    if origin.removeprefix(f"{PACKAGE}.") in PLUMBING or name in ("FREE", "_NAMES"):
        return []  # the counter asks its free list last: what is added there was an error before, and changes no count
    found = module(origin) if origin else None
    return [(found, origin, name)] if found and name in found.definitions else []


@cache
def module(name: str) -> Module | None:
    """Return a module of `eelit.methods`, or None for a name that is not one."""
    if not f"{name}.".startswith(f"{PACKAGE}."):
        return None
    place = Path(str(files(PACKAGE))).joinpath(*name.split(".")[len(PACKAGE.split(".")) :])
    sources = (place.with_suffix(".py"), place / "__init__.py")
    return next((_parse(path) for path in sources if path.is_file()), None)


@cache
def _parse(path: Path) -> Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = Module()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found.imports |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    for statement in tree.body:
        for name in _names(statement):
            found.definitions.setdefault(name, []).append(_Bare().visit(statement))
    return found


def _names(statement: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)]
