"""How fast stored outputs become curves, in how much memory, and how often what is promised on them fails.

`make bench` measures it on an idle machine; `python tests/bench_logits.py --keep` stores it as
``results/own/logits.json``, and the page on your own model shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from eelit.methods.data.cache import write
from eelit.methods.engine.records import Count, Finite, Machine, Positive, Typed, read

FILE = "own/logits.json"
DEVIATIONS = 3
"""Standard deviations by which a simulated rate may lie above what is promised."""


class Timing(Typed):
    """All policies that need no more than logits, over made outputs of one size."""

    exits: Annotated[Count, Field(ge=1)]
    samples: Annotated[Count, Field(ge=1)]
    classes: Annotated[Count, Field(ge=1)]
    numbers: Literal["float32", "float16"]
    mapped: bool = Field(description="whether the outputs lie in a file that is read piece by piece")
    settings: Annotated[Count, Field(ge=1)] = Field(description="of each policy")
    scores: Positive = Field(description="seconds for the scores of all exits alone")
    everything: Positive = Field(description="seconds for the whole comparison")
    memory: Finite = Field(description="GiB at most: of the process if the outputs are mapped, else beyond the outputs")
    scores_limit: Positive | None = Field(description="what was aimed at; None: nothing")
    everything_limit: Positive | None
    memory_limit: Positive

    @property
    def within(self) -> bool:
        """Whether all that was aimed at was reached."""
        return (
            (self.scores_limit is None or self.scores <= self.scores_limit)
            and (self.everything_limit is None or self.everything <= self.everything_limit)
            and self.memory <= self.memory_limit
        )


class Promise(Typed):
    """What was promised again and again on samples drawn from real outputs, and how often or by how much it failed."""

    method: Literal["Learn then Test", "conformal risk control"]
    risk: Positive
    delta: Positive | None = Field(description="how often more than the risk may be lost; None: the risk is a mean")
    draws: Annotated[Count, Field(ge=1)]
    samples: Annotated[Count, Field(ge=1)] = Field(description="of a draw, half of which are there to choose on")
    found: Finite = Field(description="share of draws whose rule loses more than the risk; or the mean of what is lost")
    deviation: Finite = Field(description="standard deviation of what is found, by the chance of the draws")
    promised: Annotated[Count, Field(ge=1)] = Field(description="draws in which a rule was found that saves something")

    @property
    def limit(self) -> float:
        """What may be found at most."""
        return (self.risk if self.delta is None else self.delta) + DEVIATIONS * self.deviation

    @property
    def kept(self) -> bool:
        """Whether the promise was kept, with room for chance."""
        return self.found <= self.limit


class OwnSpeed(Typed):
    """What was measured on outputs that are yours: `eelit compare`, `eelit advise`, `eelit calibrate`."""

    created: AwareDatetime
    commit: str | None
    versions: dict[str, str]
    machine: Machine
    timings: list[Timing] = Field(min_length=1)
    promises: list[Promise] = Field(min_length=1)
    promises_commit: str | None = Field(None, description="of the promises, if they were tried later than it was timed")


def keep(found: OwnSpeed, place: Path) -> Path:
    """Write it into the folder of all results, in place of an older one. Raises `OSError`."""
    path = place / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, found.model_dump_json(indent=1).encode() + b"\n")
    return path


def stored(place: Path) -> OwnSpeed | None:
    """Return what is known. Raises `Unreadable` for a damaged file."""
    path = place / FILE
    return read(OwnSpeed, path) if path.exists() else None
