"""The authors of a record: people, bodies and `others`, read by pybtex; what it would refuse or misread is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from html import unescape
from typing import NamedTuple

from pybtex.database import InvalidNameString
from pybtex.database import Person as TexPerson

from eelit.bib.problems import Severity
from eelit.bib.record import Person
from eelit.bib.tex import plain_text

AND = re.compile(r"(?:^|\s+)and(?=\s|$)", re.IGNORECASE)
OTHERS = "others"
ET_AL = re.compile(r",?\s*\bet\.?\s+al\b\.?,?$", re.IGNORECASE)
EXTENDED = re.compile(r"\b(family|given|prefix|suffix)(?:-i)?\s*=", re.IGNORECASE)
AMPERSAND = re.compile(r"\s+\\?&\s+")
ENTITY = re.compile(r"&#?\w+;")
SEMICOLON = re.compile(";")
SUFFIX = re.compile(r"(jr|sr|[ivx]+|\d(st|nd|rd|th)|ph\.?\s?d|m\.?\s?d|esq|filho|junior|senior|neto)\.?", re.IGNORECASE)
UNKNOWN = "Family, Given"
MOST_MENDED = 10
HIDDEN = "\0"  # stands for what is in braces, which is nobody's comma, `and` or equals sign


class Names(NamedTuple):
    """Who wrote a work; `others` tells that the list goes on. With an error among the faults nobody is named."""

    people: tuple[Person, ...] = ()
    others: bool = False
    faults: tuple[tuple[str, Severity], ...] = ()


class _Fault(NamedTuple):
    """What is wrong with a list or a name, what may be meant, and what else one might do."""

    said: str
    meant: str = ""
    otherwise: str = ""

    def __str__(self) -> str:
        return f"{self.said}; write `{_sound(self.meant)}`{self.otherwise}" if self.meant else self.said


def read_names(tex: str) -> Names:
    """Read a list of names in BibTeX's form; each fault says what to write instead."""
    names = _split(tex, AND)
    if fault := _fault_of_list(tex, names):
        return Names(faults=((str(fault), "error"),))
    others = names[-1].casefold() == OTHERS
    named = names[:-1] if others else names
    faults: list[tuple[str, Severity]] = [(str(fault), "error") for name in named if (fault := _fault_of_name(name))]
    if faults:
        return Names(faults=tuple(faults))
    people = tuple(_person(name) for name in named)
    faults = [(doubt, "warning") for name in named if (doubt := _doubt(name, named))]
    return Names(people, others, tuple(faults))


def _sound(meant: str) -> str:
    """Return advice as the reader itself would take it: faults that it brings along are mended in turn."""
    for _ in range(MOST_MENDED):
        names = _split(meant, AND)
        if fault := _fault_of_list(meant, names):
            meant = fault.meant
            continue
        mended = [fault.meant if (fault := _fault_of_name(name)) else name for name in names]
        if mended == names:
            return meant
        meant = _joined(mended)
        if not meant:
            break
    return UNKNOWN


@lru_cache(maxsize=4_096)
def _hidden(tex: str) -> str:
    """Return a text of the same length in which braces and what they hold are hidden."""
    if "{" not in tex:
        return tex
    depth, shown = 0, []
    for sign in tex:
        depth += (sign == "{") - (sign == "}" and depth > 0)
        shown.append(HIDDEN if depth or sign == "}" else sign)
    return "".join(shown)


def _split(tex: str, mark: re.Pattern[str]) -> list[str]:
    """Return the parts between marks that stand outside of braces."""
    parts, start = [], 0
    for found in mark.finditer(_hidden(tex)):
        parts.append(tex[start : found.start()].strip())
        start = found.end()
    return [*parts, tex[start:].strip()]


def _commas(name: str) -> list[str]:
    return _split(name, re.compile(","))


def _fault_of_list(tex: str, names: list[str]) -> _Fault | None:
    outside = _hidden(tex)
    if found := ENTITY.search(tex):
        return _Fault(f"`{found[0]}` is HTML", unescape(tex) if unescape(tex) != tex else UNKNOWN)
    if ";" in outside:
        return _Fault("names are separated by `and`, not by semicolons", _joined(_split(tex, SEMICOLON)) or UNKNOWN)
    if AMPERSAND.search(outside):
        said = "names are separated by `and`, not by `&`"
        return _Fault(said, _joined(_split(tex, AMPERSAND)) or UNKNOWN, ", or put the name of a body in braces")
    if not all(names):
        return _Fault("an `and` has no name before or after it", _joined(names) or UNKNOWN)
    if OTHERS in (name.casefold() for name in names[:-1]) or names[0].casefold() == OTHERS:
        kept = [name for name in names if name.casefold() != OTHERS] or [UNKNOWN]
        return _Fault("`and others` stands at the end, after a name", _joined([*kept, OTHERS]))
    if cut := next((name for name in names if ET_AL.search(_hidden(name))), None):
        others = [*(ET_AL.sub("", name).strip() for name in names), OTHERS]
        return _Fault(f"`{cut}` is not BibTeX's way to leave authors out", _joined(others))
    return None


def _joined(names: list[str]) -> str:
    return " and ".join(name for name in names if name)


@lru_cache(maxsize=32_768)  # people write more than one paper
def _fault_of_name(name: str) -> _Fault | None:
    """Return what is wrong with one name of a list."""
    if EXTENDED.search(_hidden(name)):
        return _Fault(f"`{name}` is biber's form of a name", _from_extended(name) or UNKNOWN)
    unread = _Fault(f"the name `{name}` is empty, or cannot be read as text; write it or take it out")
    if _body(name):
        return None if plain_text(name) else unread
    parts = _commas(name)
    if len(parts) > 1 and not all(parts):
        said = f"`{name}` has a comma without a name beside it"
        return _Fault(said, ", ".join(part for part in parts if part) or UNKNOWN)
    if len(parts) == 3 and SUFFIX.fullmatch(plain_text(parts[1])):
        return _fault_of_person(name)
    if len(parts) == 3 and SUFFIX.fullmatch(plain_text(parts[2])):
        return _Fault(f"`{name}` has its suffix at the end", f"{parts[0]}, {parts[2]}, {parts[1]}")
    if len(parts) > 2:
        return _Fault(f"`{name}` holds {len(parts) - 1} commas; separate names by `and`", _from_commas(parts))
    return _fault_of_person(name) if plain_text(name) else unread


def _fault_of_person(name: str) -> _Fault | None:
    try:
        family = _person(name).family
    except InvalidNameString:
        return _Fault(f"`{name}` is no name", UNKNOWN)
    return None if family else _Fault(f"`{name}` has no family name", UNKNOWN)


def _from_extended(name: str) -> str:
    """Return `family=Beek, given=Anna` in BibTeX's form."""
    found: dict[str, str] = {}
    for part in _commas(name):
        field, _, value = part.partition("=")
        found[field.strip().casefold()] = value.strip().strip('"')
    family = " ".join(found[part] for part in ("prefix", "family") if found.get(part))
    return ", ".join(part for part in (family, found.get("suffix"), found.get("given")) if part)


def _from_commas(parts: list[str]) -> str:
    """Return what a list of names with commas between them most likely means."""
    if len(parts) > 1 and parts[-1].casefold() == OTHERS:
        return _joined([_from_commas(parts[:-1]), OTHERS])
    if len(parts) % 2 == 0 and not all(" " in part for part in parts):
        return " and ".join(f"{family}, {given}" for family, given in zip(parts[::2], parts[1::2], strict=True))
    return " and ".join(parts)


def _doubt(name: str, names: list[str]) -> str:
    """Return that a name may be two with a comma between; a body, or a family in braces, leaves no doubt."""
    parts = _commas(name)
    if len(parts) != 2 or name.count(" ") < 3 or (len(names) > 1 and all(len(_commas(other)) > 1 for other in names)):
        return ""
    words = [part.split() for part in parts]
    if any(HIDDEN in _hidden(part) for part in parts) or any(len(each) < 2 for each in words):
        return ""
    begun = any(word[0].isupper() and len(word.rstrip(".")) < 2 for word in words[0])  # no family has an initial
    if not begun and any(word[0].islower() or len(word.rstrip(".")) < 2 for each in words for word in each):
        return ""
    return (
        f"`{name}` is taken for one person of the family `{parts[0]}`; if they are two, write "
        f"`{_sound(_joined(parts))}`, else put the family in braces"
    )


def _body(name: str) -> bool:
    """Tell whether a name is wholly in braces, as that of a body is."""
    return name.startswith("{") and _hidden(name).strip(HIDDEN) == "" and len(list(_groups(name))) == 1


def _groups(name: str) -> Iterator[int]:
    """Yield where each outermost pair of braces ends."""
    depth = 0
    for place, sign in enumerate(name):
        depth += (sign == "{") - (sign == "}")
        if sign == "}" and depth == 0:
            yield place


@lru_cache(maxsize=32_768)
def _person(name: str) -> Person:
    if _body(name):
        return Person(plain_text(name), corporate=True)
    person = TexPerson(name)
    given = person.first_names + person.middle_names
    family = person.prelast_names + person.last_names
    family, given, suffix = (plain_text(" ".join(part)) for part in (family, given, person.lineage_names))
    return Person(family, given, suffix)
