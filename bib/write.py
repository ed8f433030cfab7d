"""Change a BibTeX file as a person would: a record put in its place, a field added or mended, all else left alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from eelit.bib.blocks import Block, blocks
from eelit.bib.record import Person

ORDER = (
    *("author", "title", "year", "booktitle", "journal", "howpublished", "volume", "number", "pages", "articleno"),
    *("publisher", "doi", "eprint", "archiveprefix", "acl", "openreview", "url", "note"),
)
"""The order of fields in a record."""
VERBATIM = ("doi", "eprint", "archiveprefix", "acl", "openreview", "url")
SPECIAL = {sign: f"\\{sign}" for sign in "&%$#_"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "{": "",  # BibTeX counts braces, also behind a backslash: no text can hold one alone
    "}": "",
}
CAPITALS = re.compile(r"(?<![\w{])[\w+\-]*\w[A-Z][\w+\-]*|(?<![\w{])[A-Z]{2,}[\w+\-]*")
"""Words with a capital inside, which a style that writes titles small would spoil."""


class NotWritable(Exception):
    """The file is not in a state in which this could be changed without touching anything else."""


def tex(text: str) -> str:
    """Return plain text as a value of BibTeX."""
    return "".join(SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def tex_title(title: str) -> str:
    """Return a title as a value of BibTeX, its names in braces."""
    return CAPITALS.sub(lambda word: f"{{{word[0]}}}", tex(title))


def tex_names(people: Sequence[Person], *, et_al: bool = False) -> str:
    """Return the authors as a value of BibTeX."""
    written = [f"{{{tex(person.family)}}}" if person.corporate else _name(person) for person in people]
    return " and ".join([*written, *(["others"] if et_al else [])])


def _name(person: Person) -> str:
    """Return a name in BibTeX's order: what follows a name stands in its middle."""
    return ", ".join(tex(part) for part in (person.family, person.suffix, person.given) if part)


def to_block(kind: str, key: str, fields: dict[str, str], comments: Iterable[str] = ()) -> str:
    """Return a record as it stands in the file, its fields in the usual order, under lines of comment."""
    names = sorted((name for name in fields if fields[name]), key=ORDER.index)
    lines = ",\n".join(f"  {name} = {{{fields[name]}}}" for name in names)
    said = "".join(f"% {' '.join(comment.split())}\n" for comment in comments)
    return f"{said}@{kind}{{{key},\n{lines}\n}}\n"


def with_record(text: str, key: str, block: str) -> str:
    """Return a bibliography with one record more, before the first whose key sorts behind its own."""
    lines = text.splitlines(keepends=True)
    later = [found.line - 1 for found in blocks(text) if found.key > key and not found.fault]
    place = later[0] if later else len(lines)
    while later and place and lines[place - 1].lstrip().startswith("%"):
        place -= 1  # comments belong to the record below
    before, after = "".join(lines[:place]).rstrip("\n"), "".join(lines[place:])
    return f"{before}\n\n{block}\n{after}" if after.strip() else f"{before}\n\n{block}".lstrip("\n")


def with_field(text: str, key: str, name: str, value: str) -> str:
    """Return a bibliography in which a record has this value of a field; all else stands as it was.

    Raises `NotWritable`.
    """
    block = _block(text, key)
    lines = [line for field, line in block.lines if field == name]
    if len(lines) > 1:
        raise NotWritable(f"`{key}` gives `{name}` twice")
    changed = _replaced(text, lines[0], name, value) if lines else _added(text, block, name, value)
    _demand_nothing_else(text, changed, key, name, value)
    return changed


def with_comment(text: str, key: str, comment: str) -> str:
    """Return a bibliography with a line of comment above a record. Raises `NotWritable`."""
    start = _start(text, _block(text, key).line)
    return f"{text[:start]}% {' '.join(comment.split())}\n{text[start:]}"


def comments_above(text: str, key: str) -> list[str]:
    """Return what the lines of comment above a record say, the first line first. Raises `NotWritable`."""
    lines, place = text.splitlines(), _block(text, key).line - 1
    first = place
    while first > 0 and lines[first - 1].startswith("%"):
        first -= 1
    return [line.lstrip("% ").strip() for line in lines[first:place]]


def without_comment(text: str, key: str, comment: str) -> str:
    """Return a bibliography without the lines of comment above a record that say this. Raises `NotWritable`."""
    said, place = comments_above(text, key), _block(text, key).line - 1
    lines = text.splitlines(keepends=True)
    kept = [line for line, each in zip(lines[place - len(said) : place], said, strict=True) if each != comment]
    return "".join([*lines[: place - len(said)], *kept, *lines[place:]])


def without_field(text: str, key: str, name: str) -> str:
    """Return a bibliography in which a record has no such field. Raises `NotWritable`."""
    block = _block(text, key)
    lines = [line for field, line in block.lines if field == name]
    if len(lines) != 1:
        raise NotWritable(f"`{key}` has not one `{name}`")
    start, end = _extent(text, lines[0], name)
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end) + 1
    rest = text[end : line_end - 1].strip()
    if text[line_start:start].strip() or rest not in ("", ",") or not line_end:
        raise NotWritable(f"`{name}` of `{key}` stands on one line with something else")
    before = text[:line_start]
    if not rest:  # it was the last field
        before = re.sub(r",(\s*)$", r"\1", before)
    changed = before + text[line_end:]
    _demand_nothing_else(text, changed, key, name, None)
    return changed


def _block(text: str, key: str) -> Block:
    found = [block for block in blocks(text) if block.key == key]
    if len(found) != 1 or found[0].fault:
        raise NotWritable(f"there is not one sound record `{key}`")
    return found[0]


def _start(text: str, line: int) -> int:
    """Return where a line starts."""
    return sum(len(part) for part in text.splitlines(keepends=True)[: line - 1])


def _extent(text: str, line: int, name: str) -> tuple[int, int]:
    """Return where a field starts and its value ends."""
    found = re.compile(rf"\b{re.escape(name)}\s*=\s*", re.IGNORECASE).search(text, _start(text, line))
    if not found:
        raise NotWritable(f"`{name}` was not found in line {line}")
    return found.start(), _end_of_value(text, found.end())


def _end_of_value(text: str, start: int) -> int:
    depth = 0
    quoted = text[start : start + 1] == '"'
    for place in range(start + quoted, len(text)):
        sign = text[place]
        depth += (sign == "{") - (sign == "}")
        if depth < 0 or (not quoted and depth == 0 and sign in ",\n"):
            return place
        if depth == 0 and ((quoted and sign == '"') or (not quoted and sign == "}")):
            return place + 1
    raise NotWritable("a value is never closed")


def _replaced(text: str, line: int, name: str, value: str) -> str:
    start, end = _extent(text, line, name)
    return f"{text[:start]}{name} = {{{value}}}{text[end:]}"


def _added(text: str, block: Block, name: str, value: str) -> str:
    """Return the text with a field more, behind the one that comes before it in the usual order."""
    if not block.lines:
        raise NotWritable(f"`{block.key}` has no field")
    rank = ORDER.index(name)
    before = [place for place in block.lines if place[0] in ORDER and ORDER.index(place[0]) < rank]
    field, line = before[-1] if before else block.lines[-1]
    _, end = _extent(text, line, field)
    return f"{text[:end]},\n  {name} = {{{value}}}{text[end:]}"


def _demand_nothing_else(before: str, after: str, key: str, name: str, value: str | None) -> None:
    """Read both texts and see that they differ in this field alone."""
    old, new = (
        [(block.key, block.kind, block.fault, block.fields) for block in blocks(text)] for text in (before, after)
    )
    changed = [_with(block, name, value) if block[0] == key else block for block in old]
    if [_sorted(block) for block in changed] != [_sorted(block) for block in new]:
        raise NotWritable(f"`{name}` of `{key}` cannot be changed without touching something else")


_Read = tuple[str, str, str, list[tuple[str, str]]]


def _with(block: _Read, name: str, value: str | None) -> _Read:
    fields = [(field, said) for field, said in block[3] if field != name]
    return (*block[:3], fields + ([(name, value)] if value is not None else []))


def _sorted(block: _Read) -> _Read:
    return (*block[:3], sorted(block[3]))
