"""Mistakes to put into a source, such as an attentive reviewer fears, found by `ast` and spliced into the text.

Left alone is what is no mistake or what no run could show: annotations, messages, labels, defaults of settings, knobs,
claims; and what a type checker reports. See `mutants.py` for what is done with them.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

SAYING = {"__repr__", "__str__", "key", "quality", "claims"}
"""Functions that describe or judge a method; so does every function that returns an `Outcome`."""
TALKING = {"progress", "disable_progress_bar", "print", "warn", "isinstance", "super", "trained"}
"""Calls left alone, with their arguments; what `trained` is told only names its outcome."""
SPOKEN = {"label", "name", "statement", "measured", "strict", "dtype", "device"}
"""Keyword arguments left alone."""
SYMMETRIC = {"max", "min", "maximum", "minimum", "equal", "allclose", "isclose", "zip", "range", "enumerate", "cast"}
SYMMETRIC |= {"einsum", "Linear"}
"""Functions whose first two arguments are not worth swapping: nothing changes, or nothing works."""
OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
}  # fmt: skip
BOTH_WAYS = [
    ("sigmoid", "tanh"), ("sum", "mean"), ("max", "min"), ("amax", "amin"), ("any", "all"), ("argmax", "argmin"),
    ("floor", "ceil"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("softmax", "log_softmax"),
]  # fmt: skip
ATTRIBUTES = {"train": "eval", "no_grad": "enable_grad", "exp": "expm1", "log": "log1p"}
ATTRIBUTES |= dict(BOTH_WAYS) | {after: before for before, after in BOTH_WAYS}
BUILTINS = {"max": "min", "min": "max", "any": "all", "all": "any"}
PARTS = {"train": "validation", "validation": "test", "test": "validation"}
WORDS = {"validation": "test", "test": "validation", "mean": "sum", "sum": "mean", "left": "right", "right": "left"}
SIMPLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return)
NO_NUMBERS = (ast.List, ast.Tuple, ast.ListComp, ast.JoinedStr)


@dataclass(frozen=True, order=True)
class Mutation:
    """A piece of a source, in bytes, and what stands there instead."""

    start: int
    end: int
    text: str
    line: int
    lines: tuple[int, int]  # first and last of those of which one must have been executed
    enclosing: str  # the function
    change: str  # in one line, with what stands around

    def applied(self, source: str) -> str:
        """Return the mutated source."""
        raw = source.encode()
        return (raw[: self.start] + self.text.encode() + raw[self.end :]).decode()


class Signature(NamedTuple):
    """What a type checker knows of a function or a class: types of positional arguments, and those required."""

    types: list[str]
    required: set[str]


def signatures(trees: Iterable[ast.Module]) -> dict[str, list[Signature]]:
    """Return what is known of functions and classes by their name, wherever they are defined."""
    found: dict[str, list[Signature]] = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append(_signature(node))
        elif isinstance(node, ast.ClassDef):
            init = [_signature(f) for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
            types, needed = (
                [ast.unparse(f.annotation) for f in _fields(node)],
                [f for f in _fields(node) if not f.value],
            )
            found.setdefault(node.name, []).extend(init or [Signature(types, {ast.unparse(f.target) for f in needed})])
    return found


def _signature(node: ast.FunctionDef) -> Signature:
    args = [arg for arg in node.args.args if arg.arg not in ("self", "cls")]
    needed = args[: len(args) - len(node.args.defaults)]
    needed += [a for a, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if not value]
    return Signature([ast.unparse(a.annotation) if a.annotation else "" for a in args], {a.arg for a in needed})


def _fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    """Return the settings of a class: its annotated fields, but for class variables."""
    return [f for f in node.body if isinstance(f, ast.AnnAssign) and "ClassVar" not in ast.unparse(f.annotation)]


def mutations(
    source: str,
    names: Collection[str] | None = None,
    known: Mapping[str, list[Signature]] | None = None,
    leave: Collection[str] = (),
) -> list[Mutation]:
    """Return the mutations of the functions and classes of these names at the top of a module (None: of all).

    Calls to what is known are not mutated as a type checker would report; settings to leave are not ignored.
    """
    tree = ast.parse(source)
    finder, same = _Finder(source, known or {}, leave), ast.dump(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (names is None or node.name in names):
            finder.visit(node)
    return [mutation for mutation in sorted(set(finder.found)) if _differs(mutation.applied(source), same)]


def _differs(source: str, same: str) -> bool:
    try:
        return ast.dump(ast.parse(source)) != same
    except SyntaxError:
        return False


class _Finder(ast.NodeVisitor):
    """Collects mutations on its way through a syntax tree."""

    def __init__(self, source: str, known: Mapping[str, list[Signature]], leave: Collection[str]) -> None:
        self.known, self.leave = known, leave
        self.raw = source.encode()
        self.starts = [0]
        for line in self.raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Mutation] = []
        self.settings: dict[str, str] = {}
        self.assigned: set[str] = set()
        self.keys: set[str] = set()  # what goes into the name of a training, and into nothing else
        self.inside: list[str] = []
        self.lines: tuple[int, int] | None = None  # of the simple statement around

    def span(self, node: Any) -> tuple[int, int]:
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.raw[start:end].decode()

    def put(self, node: Any, text: str, start: int | None = None, end: int | None = None) -> None:
        """Note that the node, or only a piece from start to end, may be replaced by the text."""
        whole, lines = self.span(node), self.lines or (node.lineno, node.end_lineno)
        piece = whole[0] if start is None else start, whole[1] if end is None else end
        begin, end = self.raw.rfind(b"\n", 0, piece[0]) + 1, self.raw.find(b"\n", piece[1]) % (len(self.raw) + 1)
        new = self.raw[begin : piece[0]] + text.encode() + self.raw[piece[1] : end]
        change = " → ".join(textwrap.shorten(p.decode(), 200, placeholder=" …") for p in (self.raw[begin:end], new))
        self.found.append(Mutation(*piece, text, node.lineno, lines, ".".join(self.inside), change))

    def operator(self, node: ast.AST, left: ast.AST, op: ast.AST, right: ast.AST) -> None:
        """Note another operator between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        between, words = self.raw[start:end].decode(), OPERATORS.get(type(op))
        if words and words[0] in between:
            self.put(node, between.replace(*words, 1), start, end)

    def rename(self, node: ast.Attribute, name: str) -> None:
        """Note another attribute of the same thing."""
        self.put(node, name, self.span(node)[1] - len(node.attr))

    def negate(self, test: ast.expr) -> None:
        """Note the opposite of a condition, unless another mutation makes it."""
        plain = isinstance(test, ast.Compare) and not isinstance(test.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        if not plain and not isinstance(test, ast.UnaryOp):
            self.put(test, f"not ({self.text(test)})")

    def visit(self, node: ast.AST) -> None:
        """Remember the lines of a simple statement: of several, python need not say that it executed each."""
        before = self.lines
        if isinstance(node, SIMPLE):
            self.lines = node.lineno, node.end_lineno or node.lineno
        elif isinstance(node, ast.stmt | ast.Lambda):
            self.lines = None
        super().visit(node)
        self.lines = before

    # Definitions and statements.

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        given = {ast.unparse(field.target): ast.unparse(field.value) for field in _fields(node) if field.value}
        self.settings = {name: default for name, default in given.items() if name not in self.leave}
        self.inside.append(node.name)
        for function in node.body:
            if isinstance(function, ast.FunctionDef):
                self.visit(function)
        self.inside.pop()
        self.settings = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in SAYING or (node.returns and "Outcome" in ast.unparse(node.returns)):
            return
        before = self.assigned
        self.assigned = before | {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
        calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and _called(call) == "trained"]
        given = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "settings"]
        self.keys |= {name.id for value in given for name in ast.walk(value) if isinstance(name, ast.Name)}
        self.inside.append(node.name)
        for statement in node.body:
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                self.visit(statement)
        self.inside.pop()
        self.assigned = before

    def visit_Raise(self, node: ast.AST) -> None:
        """Errors, and texts, are for people."""

    visit_Assert = visit_JoinedStr = visit_Raise

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            if _called(node.value) in TALKING or "super()" in self.text(node):
                return
            if _called(node.value) != "eval":  # `prepare` does it, too
                self.put(node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        if (names & self.keys and isinstance(node.value, ast.Dict)) or self.text(node).startswith("bench."):
            return
        plain = all(isinstance(target, ast.Name) for target in node.targets)
        if (plain and names <= self.assigned) or (not plain and "requires_grad" in self.text(node.targets[0])):
            self.put(node, "pass")
        self.visit(node.value)
        self.assigned |= names if plain else set()

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.put(node, "pass")
        self.operator(node, node.target, node.op, node.value)
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)
            self.assigned |= {node.target.id} if isinstance(node.target, ast.Name) else set()

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in self.text(node.test) or '"tiny"' in self.text(node.test):
            return  # a network that is for tests alone may be any
        if not isinstance(node.body[0], ast.Raise):
            self.negate(node.test)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        last = node.body[-1]
        if not isinstance(last, ast.Return | ast.Break | ast.Continue | ast.If):
            self.put(last, f"\n{' ' * last.col_offset}break", self.span(last)[1])
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.put(node, "pass")

    # Expressions.

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.body)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            self.operator(node, left, op, right)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        values = [value for value in node.values if not isinstance(value, ast.Constant)]
        if len(values) > 1:  # not `classes or 1`, which pleases the type checker
            self.operator(node, node.values[0], node.op, node.values[1])
        for value in values:
            self.visit(value)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Take another operator, or forget a factor or a term, unless texts or lists are joined."""
        if not any(isinstance(side, NO_NUMBERS) or _is_word(side) for side in (node.left, node.right)):
            self.operator(node, node.left, node.op, node.right)
            if isinstance(node.op, ast.Add | ast.Mult | ast.Sub) and not _is_number(node.right):
                self.put(node, f"({self.text(node.right if isinstance(node.op, ast.Mult) else node.left)})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.operand, ast.Constant) and isinstance(node.op, ast.USub):
            self.put(node, "0" if self.text(node) == "-1" else self.text(node.operand))
        else:
            self.put(node, f"({self.text(node.operand)})")
            self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Take the first for the last; shift or forget the bounds of a slice."""
        for part in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            if isinstance(part, ast.Slice):
                for bound in filter(None, (part.lower, part.upper)):
                    self.put(bound, "") if _is_number(bound) else self.visit(bound)
            elif self.text(part) in ("0", "-1"):
                self.put(part, "-1" if self.text(part) == "0" else "0")
            else:
                self.visit(part)
        self.visit(node.value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Ignore a setting; read another part of the data."""
        base = self.text(node.value)
        if base == "self" and node.attr in self.settings:
            self.put(node, f"({self.settings[node.attr]})")
        if node.attr in PARTS and base not in ("self", "bench"):
            self.rename(node, PARTS[node.attr])
        if node.attr not in ("shape", "device", "dtype"):  # these are the same of all parts and all samples
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        """Forget an argument or `detach`, swap the first two, call a neighbour."""
        name, function = _called(node), node.func
        if name in TALKING:
            return
        self.arguments(node, name)
        bare = not (node.args or node.keywords)
        if isinstance(function, ast.Attribute):
            if bare and name in ("detach", "clone", "abs", "contiguous"):
                end = self.span(function)[1]
                self.put(node, "", end - len(name) - 1)
            elif name in ATTRIBUTES and (bare or name != "train"):
                self.rename(function, ATTRIBUTES[name])
            self.visit(function.value)
        elif name in BUILTINS:
            self.put(function, BUILTINS[name])
        for value in [*node.args[name == "cast" :], *(k.value for k in node.keywords if k.arg not in SPOKEN)]:
            self.visit(value)

    def arguments(self, node: ast.Call, name: str) -> None:
        """Note optional arguments forgotten, and two in the wrong order: the first, or those that `where` chooses."""
        known = [s for s in self.known.get(name, []) if len(s.types) >= len(node.args)]
        pieces = sorted([*node.args, *node.keywords], key=self.span)
        for before, piece in zip([None, *pieces], pieces, strict=False):
            needed = any(isinstance(piece, ast.keyword) and piece.arg in s.required for s in known)
            if isinstance(piece, ast.keyword) and piece.arg and piece.arg not in SPOKEN and not needed:
                self.put(piece, "", self.span(before)[1] if before else None)
        at = int(name == "where")
        pair = node.args[at : at + 2]
        reported = known and all(len(set(s.types[at : at + 2]) - {""}) == 2 for s in known)
        if (
            len(pair) == 2
            and name not in SYMMETRIC
            and not reported
            and not any(isinstance(a, ast.Starred) for a in pair)
        ):
            (a, b), (c, d) = map(self.span, pair)
            self.put(node, self.text(pair[1]) + self.raw[b:c].decode() + self.text(pair[0]), a, d)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Take the other truth, a neighbour of a number, another word where one is known."""
        value = node.value
        if isinstance(value, bool):
            self.put(node, str(not value))
        elif isinstance(value, int):
            self.put(node, str({0: 1, 1: 0}.get(value, value + 1)))
        elif isinstance(value, float) and (value == 0 or abs(value) > 1e-4):  # smaller ones keep from dividing by 0
            self.put(node, str({0.0: 1.0, 1.0: 0.5}.get(value, value * 2)))
        elif isinstance(value, str) and value in WORDS:
            self.put(node, f'"{WORDS[value]}"')


def _is_word(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_number(node: ast.AST) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def _called(node: ast.Call) -> str:
    """Return the last word of what is called."""
    return ast.unparse(node.func).rpartition(".")[2]
