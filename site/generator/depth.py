"""How accurate the network of a track is if it ends at one of its exits for all samples: what depth is worth there."""

from __future__ import annotations

from dataclasses import dataclass

from eelit.methods.harness.summary import Row
from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator.collection import Collection

TOGETHER = {"fashion-mnist": ("kaya2019sdn", "SDN training"), "minilm-l6": ("zhou2020pabee", "classification")}
"""Item of the data manifest → method and variant whose exits are all trained together with the network, as in most."""
HALF_A_POINT = 0.005


@dataclass(frozen=True)
class Depth:
    """The exits of one row, from the first to the last, means over seeds on test data."""

    row: Row
    exits: list[tuple[float, float]]  # share of the full model's cost, quality

    @property
    def enough(self) -> int:
        """The first exit, from 1, that is at most half a point less accurate than the last."""
        last = self.exits[-1][1]
        return next(i for i, (_, quality) in enumerate(self.exits, 1) if quality >= last - HALF_A_POINT - 1e-9)

    @property
    def said(self) -> str:
        """What the figures show."""
        (_, first), (share, reached), (_, last) = self.exits[0], self.exits[self.enough - 1], self.exits[-1]
        place = f"at {100 * share:.0f} % of the cost"
        best, most = max(enumerate((quality for _, quality in self.exits), 1), key=lambda exit_: exit_[1])
        more = f", and exit {best}, the most accurate, {most:.3f}" if most > last + HALF_A_POINT else ""
        if self.enough == 1:
            return (
                f"Depth is worth little here: exit 1, {place}, reaches {first:.3f}, the last exit {last:.3f}{more}. "
                "To be as accurate as the whole network at less cost needs no exit rule."
            )
        if self.enough == len(self.exits):
            return (
                f"Accuracy rises up to the last exit, from {first:.3f} to {last:.3f}: every part of the network counts."
            )
        return (
            f"Accuracy rises from {first:.3f} at exit 1 to {reached:.3f} at exit {self.enough}, {place}, which is "
            f"within half a point of the last exit's {last:.3f} or above it{more}. To save what comes after that exit "
            "needs no exit rule."
        )


def of_track(collection: Collection, name: str) -> Depth | None:
    """Return what depth is worth on a track; None where the row that shows it was not measured."""
    asked = TOGETHER.get(TRACKS[name].item)
    rows = (row for row in collection.boards[name].rows if (row.key, row.variant) == asked and not row.rule)
    row = next(rows, None)
    exits = row.baselines.get("static exit") if row else None
    return Depth(row, exits) if row and exits else None
