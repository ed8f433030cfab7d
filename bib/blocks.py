"""Cut a BibTeX file into its records, so that one that is spoilt costs no other. Takes time in proportion to the file.

Inside a record pybtex reads. Between records only what starts like one counts: the rest is text, as BibTeX has it, and
`%` starts a comment, as biber has it, unless it stands behind a number or word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pybtex.database.input.bibtex import LowLevelParser, UndefinedMacro, month_names
from pybtex.scanner import PrematureEOF, PybtexSyntaxError
from pybtex.utils import CaseInsensitiveDict

from eelit.bib.problems import Severity

TYPES = ("article", "book", "incollection", "inproceedings", "mastersthesis", "misc", "phdthesis", "techreport")
COMMANDS = ("comment", "preamble", "string")
KNOWN = "|".join((*TYPES, *COMMANDS))
LOST_AT = rf"^[ \t]*(?P<lost>{'|'.join(TYPES)})[ \t]*[{{(]\s*(?P<lost_key>[^\s,}}=]+)\s*,"
LOST_BRACE = rf"^[ \t]*@[ \t]*(?P<bare>{'|'.join(TYPES)})[ \t]+(?P<bare_key>[^\s,{{}}()=]+)[ \t]*,"
NAKED = rf"^[ \t]*@[ \t]*(?P<naked>{'|'.join(TYPES)})[ \t]*,?[ \t]*\n\s*[A-Za-z]+[ \t]*="
KEYED_RECORD = rf"@(?:{'|'.join(TYPES)})\s*[{{(]\s*[^\s,{{}}()=]+\s*,"
"""What no address of mail looks like, so that a record may follow a text without a space."""
RECORD = rf"(?:(?<![\w.])|(?={KEYED_RECORD}))@\s*(?P<kind>\w+)\s*(?P<open>[{{(])"
STRAY = r"^[ \t,]*(?P<stray>[A-Za-z]+)[ \t]*=[ \t]*[{\"]"
FLAGS = re.MULTILINE | re.IGNORECASE
EVENT = re.compile("|".join((r"(?<!\w)%[^\n]*", RECORD, LOST_BRACE, NAKED, LOST_AT, STRAY)), FLAGS)
START = rf"(?<![\w.])@\s*(?:{KNOWN})\s*[{{(]\s*[^\s,{{}}()=]+\s*,|{KEYED_RECORD}"
AGAIN = re.compile(rf"^[ \t]*@\s*\w+\s*[{{(]|{START}|{LOST_AT}", FLAGS)
"""Where reading goes on after a record that is never closed."""
WITHIN = re.compile(rf"@\s*(?:{'|'.join(TYPES)})\s*[{{(]\s*(?P<key>[^\s,{{}}()=]+)\s*,", FLAGS)
KEY = re.compile(r"\s*([^\s,{}=]+)\s*")
KEYED = re.compile(rf"{KEY.pattern},")
BRACES = re.compile(r"[{}]")
STARTS = rf"(?P<line>^[ \t]*(?:@|(?:{'|'.join(TYPES)})(?=[ \t]*[{{(])))|@"
IN_BRACES = re.compile(rf"[{{}}]|{STARTS}", FLAGS)
IN_BRACKETS = re.compile(rf"[{{}})\"]|{STARTS}", FLAGS)
INLINE = re.compile(START, FLAGS)
MOST_WITHIN = 20
"""Starts of records, wherever one would go on reading, before a record counts as never closed: each is read past by no
more than so many."""


@dataclass
class Block:
    """A record as it stands in the file: fields in TeX, each with its line, or the fault because of which it is lost.

    A fault with the severity `warning` costs nothing.
    """

    line: int
    kind: str = ""
    key: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)
    lines: list[tuple[str, int]] = field(default_factory=list)
    fault: str = ""
    severity: Severity = "error"


class _Scanner(LowLevelParser):  # type: ignore[misc]  # pybtex has no types
    """pybtex's own scanner, which also remembers the line on which each field starts."""

    def __init__(self, text: str, macros: CaseInsensitiveDict) -> None:
        super().__init__(text, macros=macros)
        self.field_lines: list[tuple[str, int]] = []

    def parse_field(self) -> None:
        """Parse one field and note where its name stood."""
        self.eat_whitespace()
        line = self.lineno
        super().parse_field()
        if self.current_field_name:
            self.field_lines.append((self.current_field_name.lower(), line))


class _Cutter:
    """One pass over a file."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.macros = CaseInsensitiveDict(month_names)
        self.place = 0
        self.counted = 0  # up to here the lines are counted
        self.line_there = 1
        self.closings: dict[int, int] | None = None  # of all braces, once a comment turned out to be never closed
        self.after = ""  # key of the record before this place, until something stray was told

    def line(self, place: int) -> int:
        """Return the line of a place; places come in rising order."""
        self.line_there += self.text.count("\n", self.counted, place)
        self.counted = place
        return self.line_there

    def blocks(self) -> Iterator[Block]:
        """Yield records and faults in the order of the file."""
        while event := EVENT.search(self.text, since := self.place):
            self.place = event.end()
            if event["kind"]:
                yield from self._record(event, since)
            elif event["lost"]:
                yield self._lost(event, f"has lost its `@`; write `@{event['lost']}{{{event['lost_key']},`", "lost")
            elif event["bare"]:
                said = f"has lost its brace; write `@{event['bare']}{{{event['bare_key']},`"
                yield self._lost(event, said, "bare")
            elif event["naked"]:
                self.after = ""
                said = f"this record has lost its brace and its key; write `@{event['naked']}{{surname2020word,`"
                yield Block(self.line(event.start("naked")), fault=said)
            elif event["stray"] and self.after:
                said = f"`{event['stray']} = …` stands outside of any record; a brace too many closes `{self.after}`"
                yield Block(self.line(event.start("stray")), key=self.after, fault=f"{said} before it, take it out")
                self.after = ""

    def _lost(self, event: re.Match[str], said: str, kind: str) -> Block:
        """Return the fault of a record whose start is spoilt, and pass over the record."""
        key, self.after = event[f"{kind}_key"], ""
        block = Block(self.line(event.start(kind)), key=key, fault=f"the record `{key}` {said}")
        opened = self.text.find("{", event.start(kind), event.end())
        end = _end(self.text, opened) if opened >= 0 else None
        self._go_on(end or event.end(), closed=end is not None)
        return block

    def _record(self, event: re.Match[str], since: int) -> Iterator[Block]:
        kind, opened = event["kind"].lower(), event.start("open")
        if not self._is_record(kind, event, since):
            return
        line = self.line(event.start())
        end = self._end_of_comment(opened) if kind == "comment" else _end(self.text, opened)
        found = KEY.match(self.text, opened + 1)
        key = found[1] if found and kind not in COMMANDS else ""
        self.after = key
        if end is None:
            self._go_on(event.end(), closed=False)
            yield _never_closed(line, kind, key)
        elif kind != "comment":
            yield from self._read(line, kind, key, event.start(), end)
        else:
            self.place = end

    def _end_of_comment(self, opened: int) -> int | None:
        """Return where a comment is closed, which may hold any number of records."""
        if self.closings is not None:
            return self.closings.get(opened)
        end = _end(self.text, opened, bounded=False)
        if end is None:
            self.closings = _closings(self.text)
        return end

    def _is_record(self, kind: str, event: re.Match[str], since: int) -> bool:
        """Tell a record from a sentence with an `@` in it; of a type that is unknown it must look the part.

        Text was passed over `since` a place: what stands before that on the same line is no blank.
        """
        if kind in (*TYPES, *COMMANDS) or event["open"] == "(":
            return kind in TYPES or (kind in COMMANDS and (kind, event["open"]) != ("comment", "("))
        start = max(self.text.rfind("\n", since, event.start()) + 1, since)
        first = start == 0 or self.text[start - 1] == "\n"
        alone = first and not self.text[start : event.start()].strip()
        return alone or KEYED.match(self.text, event.end()) is not None

    def _read(self, line: int, kind: str, key: str, start: int, end: int) -> Iterator[Block]:
        """Read one record that is closed, and tell of another that seems to hide in it."""
        text = self.text[start:end]
        within = WITHIN.search(text, 1) if text.count("@") > 1 else None
        self._go_on(end, closed=True)
        if fault := _spoilt_start(line, text):
            self.after = ""
            yield fault
            return
        scanner = _Scanner(text, self.macros)
        try:
            parsed = list(scanner)
        except PybtexSyntaxError as error:
            self.after = ""  # what stands outside now is a consequence, and not told beside its cause
            if within:  # what closes it is likely to be another's brace
                self._go_on(start + within.start(), closed=True)
                yield _never_closed(line, kind, key)
            else:
                yield _spoilt(line, kind, key, error)
            return
        if within:
            told = f"`{key}` holds in a value what looks like the record `{within['key']}`; if it is one, a brace is "
            inner = line + text.count("\n", 0, within.start())
            yield Block(inner, key=key, fault=f"{told}missing before it", severity="warning")
        for command, body in parsed:
            if command.lower() not in COMMANDS:
                fields = [(name.lower(), " ".join("".join(parts).split())) for name, parts in body[1]]
                lines = [(name, line + offset - 1) for name, offset in scanner.field_lines]
                yield Block(line, command.lower(), body[0], fields, lines)

    def _go_on(self, place: int, *, closed: bool) -> None:
        """Go on at a place, or after it where a record seems to start."""
        again = None if closed else AGAIN.search(self.text, place)
        self.place = place if closed else again.start() if again else len(self.text)


def blocks(text: str) -> Iterator[Block]:
    """Yield the records of a file in their order, and what was wrong where."""
    return _Cutter(text).blocks()


def _end(text: str, opened: int, *, bounded: bool = True) -> int | None:
    """Return where the bracket that opens at a place is closed; BibTeX counts braces in quotes and escapes too."""
    if text[opened] == "(":
        return _end_of_brackets(text, opened)
    depth = starts = 0
    for found in IN_BRACES.finditer(text, opened):
        if found[0] == "{":
            depth += 1
        elif found[0] == "}":
            depth -= 1
            if depth == 0:
                return found.end()
        elif bounded:
            starts += _starts(found)
            if starts > MOST_WITHIN:
                return None
    return None


def _starts(found: re.Match[str]) -> bool:
    """Tell whether reading would go on at an `@`, or at a type that has lost it."""
    return found["line"] is not None or INLINE.match(found.string, found.start()) is not None


def _closings(text: str) -> dict[int, int]:
    """Return for the place of each brace that is closed the place behind the brace that closes it."""
    opened, closed = [], {}
    for found in BRACES.finditer(text):
        if found[0] == "{":
            opened.append(found.start())
        elif opened:
            closed[opened.pop()] = found.end()
    return closed


def _end_of_brackets(text: str, opened: int) -> int | None:
    depth = starts = 0
    quoted = False
    for found in IN_BRACKETS.finditer(text, opened + 1):
        sign = found[0]
        if sign == '"' and depth == 0:
            quoted = not quoted
        elif sign in "{}":
            depth += 1 if sign == "{" else -1
        elif sign == ")" and depth == 0 and not quoted:
            return found.end()
        elif sign not in ')"':
            starts += _starts(found)
            if starts > MOST_WITHIN:
                return None
    return None


def _never_closed(line: int, kind: str, key: str) -> Block:
    return Block(line, key=key, fault=f"{_named(kind, key)} is never closed; a brace, quote or comma is missing")


def _named(kind: str, key: str) -> str:
    if kind in COMMANDS:
        return f"this `@{kind}`"
    return f"the record `{key}`" if key else "the record without a key"


def _spoilt_start(line: int, text: str) -> Block | None:
    """Return the fault of a start that pybtex would pass over in silence."""
    start = re.match(r"@\s*(\w+)\s*[{(]\s*", text)
    if not start or start[1].lower() in COMMANDS:
        return None
    found = KEY.match(text, start.end())
    follows = text[found.end() : found.end() + 1] if found else ""
    if not found or follows == "=":
        first = line + text.count("\n", 0, start.end())
        return Block(first, fault=f"this record has no key; write `@{start[1]}{{surname2020word,`")
    if follows not in (",", "}", ")", ""):
        first = line + text.count("\n", 0, found.end(1))
        return Block(first, key=found[1], fault=f"a comma is missing after the key `{found[1]}`; add it")
    return None


def _spoilt(line: int, kind: str, key: str, error: PybtexSyntaxError) -> Block:
    """Return what is wrong with a record that pybtex does not read, and where."""
    if isinstance(error, PrematureEOF):
        return _never_closed(line, kind, key)
    where, what = line + error.lineno - 1, str(error).split(": ", 1)[-1]
    if isinstance(error, UndefinedMacro):
        said = f"uses the name `{what}`, which no `@string` before it explains; put a text in braces or quotes"
        return Block(where, key=key, fault=f"{_named(kind, key)} {said}")
    return Block(where, key=key, fault=f"{_named(kind, key)} is not valid BibTeX ({what}); correct this line")
