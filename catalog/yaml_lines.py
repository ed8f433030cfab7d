"""YAML read with the line of every field, so that a fault can be reported where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eelit.bib.problems import Problem

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Located:
    """The content of a YAML file and where each part of it starts."""

    path: Path
    data: Any
    lines: dict[Place, int]

    def line(self, *place: str | int) -> int:
        """Return the line of a field, or of the innermost thing around it that the file has."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place, 1)

    def problem(self, place: Place, message: str) -> Problem:
        """Return an error at this place."""
        return Problem(str(self.path), self.line(*place), message)


def read_yaml(path: Path) -> tuple[Located | None, list[Problem]]:
    """Read a YAML file; without its content if it cannot be parsed."""
    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.CSafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, [Problem(str(path), 1, "the file is empty; restore it or fill it in")]
        problems = [Problem(str(path), line, message) for line, message in _repeated_fields(node)]
        data = loader.construct_document(node)
        return Located(path, data, dict(_lines(node, ()))), problems
    except yaml.MarkedYAMLError as error:
        return None, [_syntax_problem(path, text, error)]
    except (OSError, ValueError, yaml.YAMLError) as error:
        return None, [Problem(str(path), 1, f"the file cannot be read: {' '.join(str(error).split())}")]


def _syntax_problem(path: Path, text: str, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    what = " ".join(part for part in (error.context, error.problem) if part)
    if line >= len(text.splitlines()):
        return Problem(str(path), line, f"the file breaks off here ({what}); it looks truncated, restore its end")
    return Problem(str(path), line, f"this is not valid YAML ({what}); mend this line or the one above")


def _lines(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
    yield place, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines(value, (*place, key.value))
            yield (*place, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, (*place, index))


def _repeated_fields(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Yield fields given twice in one mapping, which YAML readers drop in silence."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.start_mark.line + 1, f"the field `{key.value}` is given twice; keep one"
            seen.add(str(key.value))
            yield from _repeated_fields(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_fields(item)
