"""YAML read with the line of every field, so that a fault can be reported where it stands.

An entry needs fields, lists and plain values. What YAML has beside these is refused, each with its line: aliases (ten
lines of them unfold to gigabytes), tags, merged mappings, names of fields that are no text, nesting without end (at
which the parser ends the process), numbers that are none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eelit.bib.files import read_file
from eelit.bib.problems import Problem

LARGEST = 256_000
"""Bytes of a file; ten times the longest that there is."""
DEEPEST = 20
"""Lists and mappings inside each other; an entry has five."""
GREATEST = 2**63
"""Beyond this no number of an entry means anything, and databases cannot hold it."""
SHORT = 40
"""Characters of a value that a message repeats."""
TEXT = "tag:yaml.org,2002:str"

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

    def texts(self) -> Iterator[tuple[Place, str]]:
        """Yield every text, and where it is."""
        return _texts(self.data, ())


def _texts(data: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(data, str):
        yield place, data
    elif isinstance(data, dict):
        for name, value in data.items():
            yield from _texts(value, (*place, name))
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from _texts(value, (*place, index))


class _Refused(Exception):
    """Something that no file of the catalogue may hold, and its line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.CSafeLoader):
    """Makes values of nodes; one that looks like a number or a date and is none is refused where it stands."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node."""
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            said = f"`{short(node.value)}` looks like {kind} but cannot be read so; correct it, or put it in quotes"
            raise _Refused(_line(node), said) from error
        if isinstance(value, int) and abs(value) >= GREATEST:
            raise _Refused(
                _line(node), f"the number `{short(node.value)}` is too large; correct it, or put it in quotes"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise _Refused(_line(node), f"`{short(node.value)}` is no number; give one, or leave the field out")
        return value


def read_yaml(path: Path) -> tuple[Located | None, list[Problem]]:
    """Read a YAML file; without its content if it cannot be used."""
    text = ""
    try:
        text = _read(path)
        _demand_plain(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise _Refused(1, "the file is empty; restore it or fill it in")
        if not isinstance(node, yaml.MappingNode):
            raise _Refused(_line(node), "the file holds no fields; write them as `name: value`")
        problems = [Problem(str(path), line, message) for line, message in _faults_of_names(node)]
        if any(not _is_text(key) for key, _ in _fields(node)):
            return None, problems
        return Located(path, loader.construct_document(node), dict(_lines(node, ()))), problems
    except _Refused as error:
        return None, [Problem(str(path), error.line, str(error))]
    except yaml.reader.ReaderError as error:
        return None, [_unreadable_character(path, text, error)]
    except yaml.MarkedYAMLError as error:
        return None, [_syntax_problem(path, text, error)]
    except (OSError, ValueError, yaml.YAMLError) as error:
        return None, [Problem(str(path), 1, f"the file cannot be read: {' '.join(str(error).split())}")]


def short(value: object) -> str:
    """Return a value as a message repeats it: on one line, and not the whole of a long one."""
    text = " ".join(str(value).split())
    return text if len(text) <= SHORT else f"{text[:SHORT]}…"


def _read(path: Path) -> str:
    """Return the text of a file, which is not endless."""
    raw = read_file(path, LARGEST + 1)
    if len(raw) > LARGEST:
        raise _Refused(1, f"the file is larger than {LARGEST // 1000} kB, which no entry is; shorten it")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _Refused(line, f"the byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8") from error


def _demand_plain(text: str) -> None:
    """Refuse aliases, tags and deep nesting, before anything is made of them."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(line, f"`*{short(event.anchor)}` stands for something else; write that here")
        if tag := getattr(event, "tag", None):
            tag = str(tag).replace("tag:yaml.org,2002:", "!!")
            raise _Refused(line, f"the tag `{short(tag)}` is not known here; leave it out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise _Refused(line, f"more than {DEEPEST} lists and mappings lie inside each other; no entry needs so")
        depth -= isinstance(event, yaml.CollectionEndEvent)


def _unreadable_character(path: Path, text: str, error: yaml.reader.ReaderError) -> Problem:
    before = text.encode("utf-8")[: error.position]
    found = f"the character U+{error.character:04X}" if isinstance(error.character, int) else "a character"
    return Problem(str(path), before.count(b"\n") + 1, f"{found} may not stand in YAML; remove it")


def _syntax_problem(path: Path, text: str, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    what = " ".join(part for part in (error.context, error.problem) if part)
    if line >= len(text.splitlines()):
        return Problem(str(path), line, f"the file breaks off here ({what}); it looks truncated, restore its end")
    return Problem(str(path), line, f"this is not valid YAML ({what}); correct this line or the one above")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _lines(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
    yield place, _line(node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines(value, (*place, key.value))
            yield (*place, key.value), _line(key)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, (*place, index))


def _fields(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.MappingNode]]:
    """Yield the name of every field in the file, and the mapping that it stands in."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key, node
            yield from _fields(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _fields(item)


def _is_text(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.tag == TEXT


def _faults_of_names(root: yaml.Node) -> Iterator[tuple[int, str]]:
    """Yield names of fields that are no text, and fields given twice in one mapping, which readers drop in silence."""
    seen: set[tuple[int, str]] = set()
    for key, mapping in _fields(root):
        if not isinstance(key, yaml.ScalarNode):
            yield _line(key), "a list or a mapping cannot be the name of a field; write a plain name"
        elif not _is_text(key):
            kind = key.tag.rpartition(":")[2]
            yield _line(key), f"`{short(key.value)}` cannot be the name of a field: YAML reads it as {kind}; quote it"
        elif (id(mapping), key.value) in seen:
            yield _line(key), f"the field `{short(key.value)}` is given twice; keep one"
        else:
            seen.add((id(mapping), key.value))
