"""Which code a method depends on, followed from definition to definition in the sources: nothing is imported.

A stored result names the digest of the code that measured it. As long as the digest is the same, the result is that of
the present code, whatever comments, docstrings, annotations or neighbouring functions have changed since, and wherever
a definition stands: the digest holds what is defined, not in which module.
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

MEASURING = ("measure", "timings", "SAMPLES", "_prepared")
"""What of the runner has a say in the figures."""
PLUMBING = {
    "data.cache", "data.fetch", "data.manifest", "data.progress", "data.sources", "engine.content_hash",
    "engine.records", "harness.conformance", "harness.registry",
}  # fmt: skip
"""Modules that fetch, keep, check or describe figures, and do not make them."""
UNCOUNTED = {"FREE", "_NAMES"}
"""What the counter takes for free. It asks this last: what is added there was an error before, and changes no count."""
TRIALS = {"tiny", "tiny_variants", "smoke", "smoke_variants", "others", "exempt"}
"""Attributes of methods that unit and smoke tests read: nothing that is measured at full size does.

``full`` is not among them, as tracks are measured with it.
"""


@dataclass
class Module:
    """The top-level definitions of a module, and where the names that it imports come from."""

    path: Path
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Symbol] = field(default_factory=dict)  # local name → (module, name); name "" is the module
    texts: dict[str, str] = field(default_factory=dict)  # name → digest of what defines it, once asked for
    trials: dict[str, list[ast.stmt]] = field(default_factory=dict)  # class → its attributes for tests
    known: dict[tuple[str, bool], Definition] = field(default_factory=dict)  # by name, and whether with trials

    def defining(self, name: str, *, trials: bool) -> list[ast.stmt]:
        """Return what defines a name; of a class without its attributes for tests, unless they are asked for."""
        return [*self.definitions.get(name, []), *(self.trials.get(name, []) if trials else [])]


@dataclass(frozen=True)
class Definition:
    """What a definition says, with what its names stand for, and which definitions it refers to."""

    says: frozenset[str]
    refers: tuple[tuple[Module, str], ...]


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


@cache
def digest(key_path: Path, *, trials: bool = False) -> str:
    """Return 16 hexadecimal digits for the code behind the method in the file, and behind running and measuring it.

    The experiments of `claims/` are part of what a result says, so those of the same key belong to it. With ``trials``
    the settings that only tests use count, too.
    """
    own = _parse(key_path)
    roots = [(own, name) for name in own.definitions]
    claims = module(f"{PACKAGE}.claims.{key_path.stem}")
    roots += [(claims, name) for name in claims.definitions] if claims else []
    roots += [symbol for name in MEASURING for symbol in _imported((f"{PACKAGE}.harness.runner", name))]
    return _hashed(roots, trials=trials)


def digest_of(name: str) -> str:
    """Return 16 hexadecimal digits for all definitions of a module of `eelit.methods`, and all that they use."""
    found = module(name)
    return _hashed([(found, each) for each in found.definitions] if found else [])


def reached(key_path: Path) -> dict[tuple[Path, str], int]:
    """Return path and name of each definition behind the method in the file, and how far it is: 0 own, 1 used there."""
    own = _parse(key_path)
    found = _followed([(own, name) for name in own.definitions])
    return {(inside.path, name): steps for steps, inside, name in found}


def _hashed(roots: list[tuple[Module, str]], *, trials: bool = False) -> str:
    found: set[str] = set()
    for _, inside, name in _followed(roots, trials=trials):
        found |= _definition(inside, name, trials=trials).says
    return hashlib.blake2b("\n".join(sorted(found)).encode(), digest_size=8).hexdigest()


def _definition(inside: Module, name: str, *, trials: bool) -> Definition:
    """Return what is defined under a name; looked at once, as many methods lead to it."""
    if (name, trials) not in inside.known:
        statements = [(each, [*ast.walk(each)]) for each in inside.defining(name, trials=trials)]
        says = (
            "\n".join([ast.dump(each), *sorted({meant for node in nodes for meant in _meant(inside, node)})])
            for each, nodes in statements
        )
        refers = (symbol for _, nodes in statements for node in nodes for symbol in _used(inside, node))
        inside.known[name, trials] = Definition(frozenset(says), tuple(refers))
    return inside.known[name, trials]


def _meant(inside: Module, node: ast.AST) -> list[str]:
    """Return a name in a definition with what it stands for, which imports under other names may exchange."""
    found = [_text(*symbol) for symbol in _used(inside, node)]
    origin, name = inside.imports.get(node.id, ("", "")) if isinstance(node, ast.Name) else ("", "")
    if origin and not found and not f"{origin}.".startswith(f"{PACKAGE}."):
        found = [f"{origin}.{name}"]
    return [f"{ast.unparse(node)}: {text}" for text in found]


def _followed(roots: list[tuple[Module, str]], *, trials: bool = False) -> Iterator[tuple[int, Module, str]]:
    """Yield the definitions at the roots and all that they lead to, the nearest first, and in how many steps."""
    todo = deque((0, *root) for root in roots)
    seen: set[tuple[int, str]] = set()
    while todo:
        steps, inside, name = todo.popleft()
        if (id(inside), name) in seen:
            continue
        seen.add((id(inside), name))
        yield steps, inside, name
        todo += [(steps + 1, *symbol) for symbol in _definition(inside, name, trials=trials).refers]


def _used(inside: Module, node: ast.AST) -> list[tuple[Module, str]]:
    """Return the definitions that one node of a syntax tree refers to."""
    if isinstance(node, ast.Name):
        if node.id in inside.definitions:
            return [] if node.id in UNCOUNTED else [(inside, node.id)]
        return _imported(inside.imports.get(node.id, ("", "")))
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        origin, name = inside.imports.get(node.value.id, ("", ""))
        whole = f"{origin}.{name}".removesuffix(".")
        if origin and module(whole):
            return _imported((whole, node.attr))
    return []


def _text(inside: Module, name: str) -> str:
    if name not in inside.texts:
        text = "\n".join(ast.dump(statement) for statement in inside.definitions[name])
        inside.texts[name] = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return inside.texts[name]


def _imported(symbol: Symbol) -> list[tuple[Module, str]]:
    origin, name = symbol
    if origin.removeprefix(f"{PACKAGE}.") in PLUMBING or name in UNCOUNTED:
        return []
    found = module(origin) if origin else None
    return [(found, name)] if found and name in found.definitions else []


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
    found = Module(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found.imports |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            tried = [each for each in statement.body if TRIALS & {*_names(each)}]
            found.trials[statement.name] = tried
            statement.body = [each for each in statement.body if each not in tried] or [ast.Pass()]
        for name in _names(statement):
            found.definitions.setdefault(name, []).append(_Bare().visit(statement))
    return found


def _names(statement: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)]
