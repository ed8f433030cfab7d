"""A problem in a source file: where it is, what is wrong and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, order=True)
class Problem:
    """One finding, said in one sentence; a warning leaves the data usable."""

    path: str
    line: int
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        said = self.message if self.severity == "error" else f"warning: {self.message}"
        return f"{shown(self.path)}:{self.line}: {said}"


def shown(path: str | Path) -> str:
    """Return the path as the user would type it: relative when it lies under the working directory."""
    here = Path(path)
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return `; did you mean …?` if a known word is close, else nothing."""
    return _hint(word, tuple(known))


@lru_cache(maxsize=1_000)  # a field that nothing knows comes with every record of a file
def _hint(word: str, known: tuple[str, ...]) -> str:
    import difflib  # only needed once something is wrong

    close = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(f'`{word}`' for word in close)}?" if close else ""
