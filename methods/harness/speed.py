"""How much of the saved computation is saved time on a track's network, by batch size: kept beside the results.

`make bench` measures it on an idle machine, in more batch sizes than a run of a benchmark has time for, and
`python tests/bench_speed.py --keep` stores it as ``results/TRACK/speed.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AwareDatetime, Field

from eelit.methods.data.cache import write
from eelit.methods.engine.records import Count, Finite, Machine, Positive, Typed, Unreadable, read
from eelit.methods.harness.bench import code

GOAL, FLOOR = 0.95, 0.85
"""Time saved ÷ MACs saved: what is aimed at in `LARGE` batches where half of the MACs are saved, and the least."""
LARGE = (32, 128)
HALF = 0.5
FILE = "speed.json"


class Cell(Typed):
    """One operating point in batches of one size."""

    aimed: Finite = Field(description="share of the MACs that the threshold was chosen to save, over all batches")
    batch: Annotated[Count, Field(ge=1)]
    saved: Positive = Field(description="share of the full model's MACs that was not computed on the timed samples")
    time_saved: float = Field(allow_inf_nan=False, description="share of the full model's time; negative: it is slower")
    joined: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="the same where such batches come one after the other and survivors are joined (`infer_stream`)",
    )

    @property
    def efficiency(self) -> float:
        """Share of time saved ÷ share of MACs saved; 1 is perfect."""
        return self.time_saved / self.saved

    @property
    def joined_efficiency(self) -> float | None:
        """The same in a stream; none where this was not measured."""
        return None if self.joined is None else self.joined / self.saved

    @property
    def bound(self) -> bool:
        """Whether goal and floor are stated for it."""
        return self.aimed == HALF and self.batch in LARGE


class Price(Typed):
    """What a sample pays for a stage of the network, and for being asked at an exit, in batches of one size."""

    batch: Annotated[Count, Field(ge=1)]
    stage: Positive = Field(description="milliseconds, on average over the stages")
    exit: float = Field(allow_inf_nan=False, description="milliseconds for exit head, policy and what keeps the books")


class Size(Typed):
    """The same in a network of the track's kind that is untrained, where about half of the MACs are saved."""

    macs: Positive = Field(description="of the full model for one sample")
    blocks: Annotated[Count, Field(ge=1)] = Field(description="of each width")
    cells: list[Cell] = Field(min_length=1, description="one per batch size")


class Speed(Typed):
    """What was measured of one track's network, and of others of its kind."""

    track: str
    key: str = Field(description="whose trained network it is")
    code: str = Field(description="digest of the code that measured this, see `dependencies`")
    created: AwareDatetime
    commit: str | None
    versions: dict[str, str]
    machine: Machine
    cells: list[Cell] = Field(min_length=1)
    prices: list[Price] = Field(min_length=1)
    sizes: list[Size] = Field(default_factory=list, description="by the number of blocks")

    @property
    def current(self) -> bool:
        """Whether the present code of that method measured it."""
        return self.code == code(self.key)

    def at(self, batch: int) -> list[Cell]:
        """Return the cells of a batch size."""
        return [cell for cell in self.cells if cell.batch == batch]

    goal: ClassVar[float] = GOAL
    floor: ClassVar[float] = FLOOR
    bounds: ClassVar[tuple[int, ...]] = LARGE

    @property
    def below(self) -> list[Cell]:
        """Cells that miss the floor which is stated for them, each batch by itself."""
        return [cell for cell in self.cells if cell.bound and cell.efficiency < FLOOR]

    @property
    def reached(self) -> bool:
        """Whether a cell reaches the goal, among those for which it is stated."""
        return any(cell.bound and cell.efficiency >= GOAL for cell in self.cells)

    @property
    def streams(self) -> list[Cell]:
        """Cells that were measured in a stream, too, by batch size."""
        return [cell for cell in self.cells if cell.joined is not None]


def keep(speed: Speed, place: Path) -> Path:
    """Write it into the folder of all results, in place of an older one. Raises `OSError`."""
    path = place / speed.track / FILE
    write(path, speed.model_dump_json(indent=1).encode() + b"\n")
    return path


def stored(track: str, place: Path) -> Speed | None:
    """Return what is known of a track's network. Raises `Unreadable` for a damaged file."""
    path = place / track / FILE
    if not path.exists():
        return None
    found = read(Speed, path)
    if found.track != track:
        raise Unreadable(path, f"it is that of the track {found.track}")
    return found
