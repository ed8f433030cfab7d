"""Mistakes to put into a source, such as an attentive reviewer fears, found by `ast` and spliced into the text.

Left alone is what no run could show, or what is no mistake: annotations, messages, labels, the class-level defaults of
settings and knobs, claims. See `mutants.py` for what is done with them.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

SAYING = {"__repr__", "__str__", "key", "quality", "claims"}
"""Functions that describe or judge a method; so does every function that returns an `Outcome`."""
TALKING = {"progress", "disable_progress_bar", "print", "warn", "isinstance", "super", "trained"}
"""Calls left alone, with their arguments; what `trained` is told only names its outcome."""
SPOKEN = {"label", "name", "statement", "measured", "strict", "dtype", "device"}
"""Keyword arguments left alone."""
SYMMETRIC = {
    "max",
    "min",
    "maximum",
    "minimum",
    "equal",
    "allclose",
    "isclose",
    "zip",
    "range",
    "cast",
    "einsum",
    "enumerate",
}
"""Functions whose first two arguments are not worth swapping."""
COMPARISONS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
}  # fmt: skip
NO_NUMBERS = (ast.List, ast.Tuple, ast.ListComp, ast.JoinedStr)
PAIRS = [
    ("softmax", "log_softmax"), ("sigmoid", "tanh"), ("sum", "mean"), ("max", "min"), ("amax", "amin"), ("any", "all"),
    ("argmax", "argmin"), ("floor", "ceil"), ("zeros", "ones"), ("zeros_like", "ones_like"),
    ("train", "eval"), ("no_grad", "enable_grad"), ("flatten", "clone"),
    ("exp", "expm1"), ("log", "log1p"),
]  # fmt: skip
NAMES = dict(PAIRS) | {after: before for before, after in PAIRS[:10]}  # neither `train` nor those after it
BUILTINS = {"max": "min", "min": "max", "any": "all", "all": "any"}
PARTS = {"train": "validation", "validation": "test", "test": "validation"}
WORDS = {"validation": "test", "test": "validation", "mean": "sum", "sum": "mean", "left": "right", "right": "left"}


@dataclass(frozen=True, order=True)
class Mutation:
    """A piece of a source, in bytes, and what stands there instead."""

    start: int
    end: int
    text: str
    line: int
    first: int  # the lines of which one must have been executed
    last: int
    enclosing: str  # the function, for people

    def applied(self, source: str) -> str:
        """Return the mutated source."""
        raw = source.encode()
        return (raw[: self.start] + self.text.encode() + raw[self.end :]).decode()

    def told(self, source: str) -> str:
        """Return the change in one line."""
        before, after = source.splitlines(), self.applied(source).splitlines()
        first = next((i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), len(before))
        if len(after) > len(before):
            first -= 1  # show after what something was added
        same = min(len(before), len(after)) - first
        tail = next((i for i in range(same) if before[-1 - i] != after[-1 - i]), same)
        old, new = (" ".join(" ".join(lines[first : len(lines) - tail]).split()) for lines in (before, after))
        return f"{_cut(old, new) or 'nothing'} → {_cut(new, old) or 'nothing'}"


def _cut(text: str, other: str, most: int = 110, around: int = 45) -> str:
    """Return the text, or only the neighbourhood of where it begins to differ from the other."""
    if len(text) <= most:
        return text
    at = next((i for i, pair in enumerate(zip(text, other, strict=False)) if pair[0] != pair[1]), 0)
    return f"{'… ' if at > around else ''}{text[max(0, at - around) : at + most - around]} …"


@dataclass(frozen=True)
class Signature:
    """What a type checker knows of a function: a mistake that it reports no test need find."""

    types: tuple[str, ...]  # of the positional arguments
    required: frozenset[str]

    def catches_swap(self, first: int) -> bool:
        types = self.types[first : first + 2]
        return len(types) == 2 and all(types) and types[0] != types[1]


def signatures(trees: Iterable[ast.Module]) -> dict[str, list[Signature]]:
    """Return what is known of functions and classes by their name, wherever they are defined."""
    found: dict[str, list[Signature]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
                found.setdefault(node.name, []).append(_of_function(init, 1) if init else _of_fields(node))
            elif isinstance(node, ast.FunctionDef):
                bound = bool(node.args.args) and node.args.args[0].arg in ("self", "cls")
                found.setdefault(node.name, []).append(_of_function(node, int(bound)))
    return found


def _of_function(node: ast.FunctionDef, bound: int) -> Signature:
    args = node.args.args[bound:]
    required = {arg.arg for arg in args[: len(args) - len(node.args.defaults)]}
    required |= {arg.arg for arg, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if not value}
    return Signature(tuple(ast.unparse(arg.annotation) if arg.annotation else "" for arg in args), frozenset(required))


def _of_fields(node: ast.ClassDef) -> Signature:
    required = {ast.unparse(field.target) for field in _fields(node) if not field.value}
    return Signature(tuple(ast.unparse(field.annotation) for field in _fields(node)), frozenset(required))


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

    Left out are those that a type checker would report of calls to what is known, and settings to leave.
    """
    finder = _Finder(source, known or {}, leave)
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (names is None or node.name in names):
            finder.visit(node)
    same = ast.dump(ast.parse(source))
    return [m for m in sorted(set(finder.found)) if _differs(m.applied(source), same)]


def _differs(source: str, same: str) -> bool:
    try:
        return ast.dump(ast.parse(source)) != same
    except SyntaxError:
        return False


class _Finder(ast.NodeVisitor):
    """Collects mutations on its way through a syntax tree."""

    def __init__(self, source: str, signatures: Mapping[str, list[Signature]], leave: Collection[str]) -> None:
        self.signatures, self.leave = signatures, leave
        self.raw = source.encode()
        self.starts = [0]
        for line in self.raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Mutation] = []
        self.settings: dict[str, str] = {}
        self.known: set[str] = set()
        self.naming: set[str] = set()
        self.inside: list[str] = []
        self.lines: tuple[int, int] | None = None  # of the simple statement around

    def span(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.raw[start:end].decode()

    def put(self, node: ast.AST, text: str, start: int | None = None, end: int | None = None) -> None:
        """Note that the node, or a part of it, may be replaced by the text."""
        line, last = node.lineno, node.end_lineno  # type: ignore[attr-defined]
        whole = self.span(node)
        a, b = whole[0] if start is None else start, whole[1] if end is None else end
        first, last = self.lines or (line, last)
        self.found.append(Mutation(a, b, text, line, first, last, ".".join(self.inside)))

    def visit(self, node: ast.AST) -> None:
        """Remember the lines of a simple statement: python counts an expression over several lines as one or more."""
        before = self.lines
        if isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Return):
            self.lines = node.lineno, node.end_lineno or node.lineno
        elif isinstance(node, ast.stmt | ast.Lambda):
            self.lines = None
        super().visit(node)
        self.lines = before

    def swap(self, node: ast.AST, left: ast.AST, right: ast.AST, words: tuple[str, str]) -> None:
        """Note another operator between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        between = self.raw[start:end].decode()
        if words[0] in between:
            self.put(node, between.replace(*words, 1), start, end)

    # Definitions.

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Go into the methods, knowing the settings; their defaults and other class variables stay."""
        given = {ast.unparse(field.target): ast.unparse(field.value) for field in _fields(node) if field.value}
        self.settings = {name: default for name, default in given.items() if name not in self.leave}
        self.inside.append(node.name)
        for function in node.body:
            if isinstance(function, ast.FunctionDef):
                self.visit(function)
        self.inside.pop()
        self.settings = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Go through the body of a function that computes something."""
        if node.name in SAYING or (node.returns and "Outcome" in ast.unparse(node.returns)):
            return
        before = self.known
        self.known = before | {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
        self.naming |= {name for call in ast.walk(node) for name in _naming(call)}
        self.inside.append(node.name)
        for statement in node.body:
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                self.visit(statement)
        self.inside.pop()
        self.known = before

    # Statements.

    def visit_Raise(self, node: ast.AST) -> None:
        """Errors are told in words."""

    visit_Assert = visit_JoinedStr = visit_Raise

    def visit_Expr(self, node: ast.Expr) -> None:
        """Drop a call for its effect."""
        if isinstance(node.value, ast.Call):
            if _called(node.value) in TALKING or "super()" in self.text(node):
                return
            if _called(node.value) != "eval":  # `prepare` does it, too
                self.put(node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Drop an assignment to what has a value already."""
        names = {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        if (names & self.naming and isinstance(node.value, ast.Dict)) or self.text(node).startswith("bench."):
            return
        plain = all(isinstance(target, ast.Name) for target in node.targets)
        if (plain and names <= self.known) or (not plain and "requires_grad" in self.text(node.targets[0])):
            self.put(node, "pass")
        self.visit(node.value)
        self.known |= names if plain else set()

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Drop it, or turn the sign."""
        self.put(node, "pass")
        if type(node.op) in ARITHMETIC:
            self.swap(node, node.target, node.value, ARITHMETIC[type(node.op)])
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The annotation stays."""
        if node.value:
            self.visit(node.value)
            self.known |= {node.target.id} if isinstance(node.target, ast.Name) else set()

    def visit_If(self, node: ast.If) -> None:
        """Turn the condition round."""
        if "TYPE_CHECKING" in self.text(node.test) or '"tiny"' in self.text(node.test):
            return  # a network that is for tests alone may be any
        if not isinstance(node.body[0], ast.Raise):
            self.negate(node.test)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        """Leave after the first round."""
        last = node.body[-1]
        if not isinstance(last, ast.Return | ast.Break | ast.Continue | ast.If):
            end = self.span(last)[1]
            self.put(last, "\n" + " " * last.col_offset + "break", end, end)
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        """Go on as if nothing was."""
        self.put(node, "pass")

    # Expressions.

    def negate(self, test: ast.expr) -> None:
        """Note the opposite of a condition, unless another mutation makes it."""
        plain = isinstance(test, ast.Compare) and not isinstance(test.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        if not plain and not isinstance(test, ast.UnaryOp):
            self.put(test, f"not ({self.text(test)})")

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Take the other value."""
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Choose the others."""
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Lose or gain the equal, or say the opposite."""
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            self.swap(node, left, right, COMPARISONS[type(op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Take one for the other."""
        values = [value for value in node.values if not isinstance(value, ast.Constant)]
        if len(values) > 1:  # not `classes or 1`, which pleases the type checker
            self.swap(node, node.values[0], node.values[1], COMPARISONS[type(node.op)])
        for value in values:
            self.visit(value)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Take another operator, or forget a factor or a term, unless texts or lists are joined."""
        sides = node.left, node.right
        if type(node.op) in ARITHMETIC and not any(isinstance(s, NO_NUMBERS) or _is_word(s) for s in sides):
            self.swap(node, *sides, ARITHMETIC[type(node.op)])
            if isinstance(node.op, ast.Add | ast.Mult | ast.Sub) and not _is_number(node.right):
                self.put(node, f"({self.text(node.right if isinstance(node.op, ast.Mult) else node.left)})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Forget `not` or the sign."""
        if isinstance(node.operand, ast.Constant) and isinstance(node.op, ast.USub):
            self.put(node, {"-1": "0"}.get(self.text(node), self.text(node.operand)))
            return
        self.put(node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Take the first for the last; shift or forget the bounds of a slice."""
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for part in parts:
            for bound in (part.lower, part.upper) if isinstance(part, ast.Slice) else ():
                if bound and not _is_number(bound):
                    self.visit(bound)
                elif bound:
                    self.put(bound, "")
            if not isinstance(part, ast.Slice) and self.text(part) in ("0", "-1"):
                self.put(part, "-1" if self.text(part) == "0" else "0")
            elif not isinstance(part, ast.Slice):
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
        name = _called(node)
        if name in TALKING:
            return
        for start, keyword in self.optional(node):
            self.put(keyword, "", start, self.span(keyword)[1])
        self.exchange(node, name)
        if isinstance(node.func, ast.Attribute):
            self.method(node, node.func)
            self.visit(node.func.value)
        elif name in BUILTINS:
            self.put(node.func, BUILTINS[name])
        for value in [*node.args[name == "cast" :], *(k.value for k in node.keywords if k.arg not in SPOKEN)]:
            self.visit(value)

    def exchange(self, node: ast.Call, name: str) -> None:
        """Note two arguments in the wrong order, the first two or the two values of `where`."""
        first = int(name == "where")
        pair = node.args[first : first + 2]
        known = self.fitting(node)
        if len(pair) < 2 or name in SYMMETRIC or any(isinstance(a, ast.Starred) for a in pair):
            return
        if not known or not all(signature.catches_swap(first) for signature in known):
            (a, b), (c, d) = map(self.span, pair)
            self.put(node, self.text(pair[1]) + self.raw[b:c].decode() + self.text(pair[0]), a, d)

    def fitting(self, node: ast.Call) -> list[Signature]:
        """Return what may be called here: of all that have the name, what takes so many arguments."""
        return [s for s in self.signatures.get(_called(node), []) if len(s.types) >= len(node.args)]

    def optional(self, node: ast.Call) -> Iterator[tuple[int, ast.keyword]]:
        """Yield the keyword arguments worth forgetting, and where the piece to cut begins."""
        pieces = sorted([*node.args, *node.keywords], key=self.span)
        required = [signature.required for signature in self.fitting(node)]
        for before, piece in zip([None, *pieces], pieces, strict=False):
            if not isinstance(piece, ast.keyword) or not piece.arg or piece.arg in SPOKEN:
                continue
            if not required or not all(piece.arg in names for names in required):
                yield self.span(before)[1] if before else self.span(piece)[0], piece

    def method(self, node: ast.Call, function: ast.Attribute) -> None:
        """Note what else might be called on the same thing."""
        name, bare = function.attr, not (node.args or node.keywords)
        if bare and name in ("detach", "clone", "abs", "contiguous"):
            self.put(node, "", self.span(function.value)[1] + self.closing(function), self.span(node)[1])
        elif name in NAMES and (name != "train" or bare):
            self.rename(function, NAMES[name])

    def closing(self, node: ast.Attribute) -> int:
        """Return how many bytes stand between what has the attribute and the dot: brackets, perhaps a new line."""
        start, end = self.span(node.value)[1], self.span(node)[1]
        return self.raw[start:end].decode().rindex(f".{node.attr}")

    def rename(self, node: ast.Attribute, name: str) -> None:
        """Note another attribute of the same thing."""
        end = self.span(node)[1]
        self.put(node, name, end - len(node.attr), end)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Its arguments stay."""
        self.visit(node.body)

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


def _is_word(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_number(node: ast.AST) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def _called(node: ast.Call) -> str:
    """Return the last word of what is called."""
    return ast.unparse(node.func).rpartition(".")[2]


def _naming(node: ast.AST) -> Iterator[str]:
    """Yield the names of which the name of a cached training is made."""
    if isinstance(node, ast.Call) and _called(node) == "trained":
        for keyword in node.keywords:
            yield from (n.id for n in ast.walk(keyword.value) if isinstance(n, ast.Name) and keyword.arg == "settings")
