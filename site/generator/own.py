"""The pages on your own model: is early exit worth it, and walk-throughs, whose programs the tests run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eelit.methods.engine.records import Unreadable
from eelit.methods.harness import bench, own_speed
from eelit.methods.harness.summary import Row
from eelit.methods.own import advise as advising
from eelit.methods.own.advise import Advice, advise
from eelit.methods.own.deployed import program
from eelit.methods.own.files import read
from eelit.methods.own.recipes import LEFT_OUT, RECIPES
from eelit.methods.own.shipped import shipped
from eelit.site.generator import markup
from eelit.site.generator.plots import Line

FOLDER = "own"
PROGRAMS = "site/examples"
"""Folder of the checkout that holds the walk-throughs and what came of running them."""
TOLERANCE = {"hugging_face": 0.03, "cnn": 0.03, "any_framework": 0.005}
"""Walk-through → by how much a share or a quality may differ from the page's where sums are rounded otherwise."""
WALKS = tuple(TOLERANCE)


@dataclass(frozen=True)
class Walk:
    """A walk-through: its program, and what `site/examples/record.py` wrote down when it ran."""

    name: str
    code: str
    said: str  # what it printed
    quality: str
    exits: int
    samples: int  # on which the rule was chosen and told
    rule: str
    promise: str
    proved: bool
    measured: dict[str, float]
    cut: dict[str, float]  # the network cut off after the exit of the nearest cost, and what the rule gains over it
    lines: list[Line]

    @property
    def page(self) -> str:
        """Its page, without the folder and what names end in."""
        return self.name.replace("_", "-")

    @property
    def tolerance(self) -> float:
        """By how much a share or a quality may differ elsewhere."""
        return TOLERANCE[self.name]

    @property
    def program(self) -> str:
        """Its path in the checkout."""
        return f"{PROGRAMS}/{self.name}.py"

    @property
    def source(self) -> Markup:
        """The program, as a block of code."""
        return markup.fence(self.code, "python")

    @property
    def length(self) -> int:
        """How many lines of code it has: without what is empty, comments and the docstring."""
        return lines_of_code(self.code)


def lines_of_code(code: str) -> int:
    """Return how many lines of a program are neither empty nor comments nor its docstring of one line."""
    lines = (line.strip() for line in code.splitlines())
    return sum(bool(line) and not line.startswith(("#", '"""')) for line in lines)


def walk(root: Path, name: str) -> Walk:
    """Return a walk-through of the checkout ``root``."""
    program = root / PROGRAMS / f"{name}.py"
    told = json.loads(program.with_suffix(".json").read_text(encoding="utf-8"))
    lines = [Line(title, [tuple(point) for point in points]) for title, points in told.pop("lines").items()]
    return Walk(name=name, code=program.read_text(encoding="utf-8"), lines=lines, **told)


def architectures(root: Path) -> dict[str, list[dict[str, str]]]:
    """Return by kind which architectures take exits, and which are refused and why: each was tried."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in json.loads((root / PROGRAMS / "architectures.json").read_text(encoding="utf-8")):
        found.setdefault(row["kind"], []).append(row)
    return found


@cache
def advice() -> dict[str, Advice]:
    """Return what `eelit advise` says of each of the outputs that come with eelit."""
    return {name: advise(read(example.word)) for name, example in shipped().items()}


LONGER = ("text", "zhou2020pabee:classification")
"""Track and row for which the recipe of the walk-through for text trained on more data."""


def longer(board: bench.Board) -> dict[str, Row]:
    """Return the rows of the baselines on that network: stopping at the largest probability, one exit for all."""
    return {row.rule: row for row in board.rows if row.rule and LONGER[1] in (f"{row.key}:{row.variant}", *row.shared)}


def values(root: Path) -> dict[str, Any]:
    """Return what the pages of the walk-throughs show beside these: architectures, recipes, the loop that deploys."""
    return {
        "architectures": architectures(root),
        "recipes": RECIPES,
        "left_out": LEFT_OUT,
        "program": program("onnx"),
        "longer": longer,
    }


def measured() -> own_speed.OwnSpeed | None:
    """Return how fast the commands are and how often promises failed, if it was measured; damage is told on stderr."""
    try:
        return own_speed.stored(bench.folder())
    except Unreadable as fault:
        print(f"eelit: {fault}", file=sys.stderr)
        return None


def pages(render: Callable[..., str], root: Path) -> Iterator[tuple[str, str]]:
    """Yield the pages, as `eelit.site.generator.pages.generated` does."""
    lines = [
        Line(name, [(e.share, e.quality, f"exit {i}") for i, e in enumerate(found.exits, 1)])
        for name, found in advice().items()
    ]
    walks = [walk(root, name) for name in WALKS]
    told: dict[str, Any] = {"advice": advice(), "shipped": shipped(), "lines": lines, "limits": advising}
    yield f"{FOLDER}/worth-it.md", render("worth_it.md.j2", walks=walks, measured=measured(), **told)
    for each in walks:
        yield f"{FOLDER}/{each.page}.md", render(f"{each.name}.md.j2", walk=each, **values(root))
