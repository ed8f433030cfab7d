"""Stop when consecutive exits have agreed often enough (zhou2020pabee)."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, said


@dataclass(frozen=True)
class Patience:
    """Stop when the answer has equalled the previous exit's ``patience`` times in a row.

    The counter is 0 at the first exit, so the earliest exit (counted from 0) is number ``patience``: 0 always stops at
    the first exit, and with E exits ``patience >= E - 1`` never stops early. Each sample has its own counter.
    """

    patience: int
    tolerance: float | None = (
        None  # for real values [n]: equal means |y_i - y_{i-1}| < tolerance; None compares classes
    )

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the answer of this exit (logits ``[n, C]`` or values ``[n]``) with the one before."""
        values = said(output)
        if self.tolerance is not None and values.ndim != 1:
            raise ValueError(f"a tolerance compares one value per sample, [n], not {tuple(values.shape)}")
        xp = array_namespace(values)
        answer = xp.argmax(values, axis=-1) if self.tolerance is None else values
        if not state:
            count = xp.zeros((values.shape[0],), dtype=xp.int64, device=values.device)
        else:
            previous, before = state
            equal = answer == previous if self.tolerance is None else xp.abs(answer - previous) < self.tolerance
            count = xp.where(equal, before + 1, xp.zeros_like(before))
        return (answer, count), count >= self.patience
