"""How long functions are: what tests of the house and of each method measure."""

import ast

MOST = 40
"""Lines that a function may have, those of its docstring left out: a command's docstring is its help page."""


def lengths(source):
    """Yield the name of each function of a source, and its lines without its docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            told = first.end_lineno - first.lineno + 1 if ast.get_docstring(node, clean=False) is not None else 0
            yield node.name, node.end_lineno - node.lineno + 1 - told
