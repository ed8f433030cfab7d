"""Stop when one of some target classes is recognised; all else goes on (after bonato2021classspecific)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, checked, exact, logits_of, rows_at, softmax


@dataclass(frozen=True)
class TargetClasses:
    """Stop when a target class ``s`` has ``p[s] > threshold``, more than any other target and than all others together.

    ``p`` is the softmax of logits ``[n, C]``; each early exit has a threshold for each target. 1 or more never stops.
    """

    targets: Sequence[int]
    thresholds: Sequence[Sequence[float]] | Any  # [exits, targets]; the last exit needs none

    def __post_init__(self) -> None:
        targets = checked("TargetClasses", "targets", tuple(self.targets), per_exit=True, whole=True, least=0)
        given = self.thresholds.tolist() if hasattr(self.thresholds, "tolist") else self.thresholds
        rows = tuple(checked("TargetClasses", "thresholds", row, per_exit=True) for row in given)
        if any(not isinstance(row, tuple) or len(row) != len(targets) for row in rows):
            raise ValueError(f"TargetClasses: each exit has a threshold for each of {len(targets)} target classes")
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "thresholds", rows)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the probabilities of the targets with the exit's thresholds; the state counts exits."""
        p = exact(softmax(logits_of(output)))
        xp = array_namespace(p)
        index = state[0] if state else xp.zeros((p.shape[0],), dtype=xp.int64, device=p.device)
        own = xp.stack([p[:, s] for s in self.targets], axis=1)
        best = xp.max(own, axis=1, keepdims=True)
        recognised = (
            (own == best)
            & (own > 1 - xp.sum(own, axis=1, keepdims=True))
            & (own > rows_at(self.thresholds, index, own))
        )
        return (index + 1,), xp.any(recognised, axis=1)
