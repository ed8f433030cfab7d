"""Real outputs of exits that come with eelit, to try things on: ``example:NAME`` in the place of a file.

They are what networks of the benchmark's tracks said of samples that they did not learn from, with labels and counted
costs; `outputs/outputs.toml` says of each which network, how trained, and under which licence.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

PREFIX = "example:"


@dataclass(frozen=True)
class Shipped:
    """One of the files: what it holds, and how it was made."""

    name: str
    title: str
    method: str  # key of the method that trained the network
    variant: str
    track: str  # under whose conditions
    seed: int
    splits: Mapping[str, int]  # parts of the data, and how many samples of each, its first ones
    data: str  # item of the data manifest that the samples are of
    licence: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return folder() / f"{self.name}.npz"

    @property
    def word(self) -> str:
        """What is written in the place of a file."""
        return f"{PREFIX}{self.name}"


def folder() -> Path:
    """Return where the files lie: in a checkout and in an installed package alike."""
    return Path(str(files("eelit.methods"))) / "own" / "outputs"


@cache
def shipped() -> dict[str, Shipped]:
    """Return all of them by name."""
    told = tomllib.loads((folder() / "outputs.toml").read_text(encoding="utf-8"))
    licence = told.pop("licence")
    return {name: Shipped(name=name, licence=licence, **facts) for name, facts in told.items()}
