"""Which methods there are: the modules in `papers/`, and those that other packages offer as `eelit.methods`.

A third party registers a method by an entry point of the group ``eelit.methods``, its name the paper's key, its value
the method's class: ``smith2027mine = "their_package.smith2027mine:Mine"``; and, if it likes, a function that tries the
paper's claims by one of the same name in the group ``eelit.claims``.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from eelit.methods import GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from eelit.methods.engine.method import Bench, Method
    from eelit.methods.engine.records import Beside, Curve, Learning, Outcome

CLAIMS = "eelit.claims"


class UnknownMethod(KeyError):
    """No method is registered under this key."""

    def __str__(self) -> str:
        return f"no method is registered under the key {self.args[0]!r}; `eelit methods` lists them"


class BrokenMethod(Exception):
    """A method is registered, but what it is registered for cannot be found or read; the message says why."""


@dataclass(frozen=True)
class Setting:
    """One field of a method's configuration, as its source says it."""

    name: str
    type: str
    default: str
    meaning: str  # the comment beside it


@dataclass(frozen=True)
class MethodInfo:
    """What can be told of a method from its source, without importing it."""

    key: str
    title: str
    sections: dict[str, str]  # heading → text: Idea, Model, Training, Exit rule, Skipped, Deviations …
    deviations: list[str]
    settings: list[Setting]
    data: list[str]  # names in the data manifest
    source: str
    path: Path


@cache
def _own() -> dict[str, Path]:
    folder = files("eelit.methods.papers")
    paths = [Path(str(p)) for p in folder.iterdir()]
    return {p.stem: p for p in sorted(paths) if p.suffix == ".py" and p.stem != "__init__"}


@cache
def _theirs() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def own() -> list[str]:
    """Return the keys of the methods in `papers/`, sorted; those that other packages offer are left out."""
    return sorted(_own())


def keys() -> list[str]:
    """Return the keys of all methods, sorted, without importing any."""
    return sorted({*_own(), *_theirs()})


def resolve(name: str) -> str | None:
    """Return the key that is written so, in any case; None if there is none."""
    known = keys()
    return name if name in known else next((key for key in known if key.casefold() == name.casefold()), None)


def get(key: str) -> Method:
    """Return the method with its default settings, importing its one module.

    Raises `UnknownMethod`, and `BrokenMethod` for one of another package that cannot be imported.
    """
    from eelit.methods.engine.method import Method

    if key in _own():
        module = importlib.import_module(f"eelit.methods.papers.{key}")
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
        ]
        variants = [other for value in found for other in value.variants.values() if isinstance(other, type)]
        main = [value for value in found if value not in variants]
        if len(main) != 1:
            raise TypeError(
                f"{module.__file__}: one class derived from Method is expected, beside those that it names as its "
                f"variants, found {len(main)}"
            )
        return main[0]()
    if key in _theirs():
        with _held(key):
            method: Method = _theirs()[key].load()()
        return method
    raise UnknownMethod(key)


def claims(key: str) -> Callable[[Any, Any, Bench, Curve], list[Outcome]] | None:
    """Return the function that tries a paper's claims on (method, prepared, bench, curve); None if there is none."""
    if key in _own():
        module = _claims(key)
        return module.claims if module else None
    point = next(iter(entry_points(group=CLAIMS, name=key)), None)
    if point is None:
        return None
    with _held(key):
        found: Callable[[Any, Any, Bench, Curve], list[Outcome]] = point.load()
    return found


def learning(key: str) -> Callable[[Any, Any, Bench, Curve], list[Learning]] | None:
    """Return the function that shows how a method learns online, on (method, prepared, bench, curve); None if none is.

    It stands beside the claims, since what it is compared with are rivals.
    """
    return getattr(_claims(key), "learning", None) if key in _own() else None


def beside_curve(key: str) -> Callable[[Any, Any, Bench, Curve], Beside] | None:
    """Return the function that tells another measure beside a curve, on (method, prepared, bench, curve); None if none.

    It stands beside the claims where that measure is an experiment of theirs. Else see `runner.TellsBeside`.
    """
    return getattr(_claims(key), "beside_curve", None) if key in _own() else None


def _claims(key: str) -> ModuleType | None:
    """Return the module with the claims of a method of ours; None if it has none."""
    name = f"eelit.methods.claims.{key}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def describe(key: str) -> MethodInfo:
    """Return what the method's source says, read with `ast`: no torch needed.

    Raises `UnknownMethod`, and `BrokenMethod` if there is no source or it cannot be read.
    """
    if key not in keys():
        raise UnknownMethod(key)
    with _held(key):  # looking for a module imports the package around it
        return _described(key, _own()[key] if key in _own() else _origin(_theirs()[key].module))


def described() -> tuple[list[MethodInfo], list[BrokenMethod]]:
    """Return what can be told of every method, and what is wrong with the others: one bad method hides none."""
    found, broken = [], [_shadowed(key) for key in sorted({*_own()} & {*_theirs()})]
    for key in keys():
        try:
            found.append(describe(key))
        except BrokenMethod as fault:
            broken.append(fault)
    return found, broken


@contextmanager
def _held(key: str) -> Iterator[None]:
    """Hold what is imported meanwhile to account, whatever it does: raise anything, leave the process, or print.

    Raises `BrokenMethod`. What is printed goes to stderr, since stdout may be a document that programs read. Only an
    interruption passes, which is the user's.
    """

    def leave(status: int) -> NoReturn:
        raise SystemExit(status)

    left, os._exit = os._exit, leave
    try:
        with _printing_on_stderr():
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _broken(key, error) from error
    finally:
        os._exit = left


@contextmanager
def _printing_on_stderr() -> Iterator[None]:
    """Send what is printed to stderr, by Python or past it."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _shadowed(key: str) -> BrokenMethod:
    point = _theirs()[key]
    package = point.dist.name if point.dist else "another package"
    return BrokenMethod(
        f"the method `{key}` that {package} offers as `{point.value}` is left out: eelit has one of its own under this "
        "key; offer it under another"
    )


def _broken(key: str, error: BaseException) -> BrokenMethod:
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if key in _own():
        return BrokenMethod(f"the method `{key}` cannot be read ({said}); mend {_own()[key]}")
    point = _theirs()[key]
    package = point.dist.name if point.dist else "another package"
    return BrokenMethod(
        f"the method `{key}`, which {package} offers as `{point.value}`, cannot be read ({said}); "
        f"mend or remove {package}"
    )


def _origin(module: str) -> Path:
    """Return the source file of a module, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
    return Path(spec.origin)


def _described(key: str, path: Path) -> MethodInfo:
    return _told(key, path, path.read_text(encoding="utf-8"))


@cache
def _told(key: str, path: Path, source: str) -> MethodInfo:
    tree = ast.parse(source)
    title, sections = _sections(ast.get_docstring(tree) or "")
    settings: dict[str, Setting] = {}
    data: list[str] = []
    for node in reversed(tree.body):  # the main class stands last, behind those that it names as its variants
        if isinstance(node, ast.ClassDef) and _is_method(node):
            own = _settings(node, source)
            settings = {**settings, **{each.name: each for each in own if each.name not in settings}}
            data += [item for item in _needed(node, tree) if item not in data]
    return MethodInfo(
        key, title, sections, _numbered(sections.get("Deviations", "")), list(settings.values()), data, source, path
    )


def _is_method(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id.endswith("Method") for base in node.bases)


def _sections(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its first line and its sections: an unindented heading over indented text."""
    title, _, body = docstring.partition("\n")
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in body.splitlines():
        if line and not line[0].isspace():
            lines = sections.setdefault(line.strip(), [])
        else:
            lines.append(line.removeprefix("    "))
    return title.strip(), {heading: "\n".join(text).strip() for heading, text in sections.items()}


def _numbered(text: str) -> list[str]:
    """Split ``1. … 2. …`` into its items."""
    items: list[list[str]] = []
    for line in text.splitlines():
        number, dot, rest = line.strip().partition(". ")
        if dot and number.isdigit():
            items.append([rest])
        elif items and line.strip():
            items[-1].append(line.strip())
    return [" ".join(item) for item in items]


def _needed(node: ast.ClassDef, tree: ast.Module) -> list[str]:
    """Return the data items that a class names, or else the first of its bases that stand in modules of ours."""
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == "data" and item.value is not None:
            return list(ast.literal_eval(item.value))
    for base in node.bases:
        for place in tree.body:
            if (
                isinstance(place, ast.ImportFrom)
                and (place.module or "").startswith("eelit.methods.families.")
                and any((each.asname or each.name) == ast.unparse(base) for each in place.names)
            ):
                other = ast.parse(_origin(str(place.module)).read_text(encoding="utf-8"))
                classes = (each for each in other.body if isinstance(each, ast.ClassDef))
                found = [_needed(each, other) for each in classes if each.name == ast.unparse(base)]
                if found and found[0]:
                    return found[0]
    return []


def _settings(node: ast.ClassDef, source: str) -> list[Setting]:
    lines, settings = source.splitlines(), []
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        kind = ast.unparse(item.annotation)
        if kind.startswith("ClassVar"):
            continue
        comment = lines[(item.end_lineno or item.lineno) - 1].partition("  # ")[2]
        default = ast.unparse(item.value) if item.value is not None else ""
        settings.append(Setting(item.target.id, kind, default, comment.strip()))
    return settings
