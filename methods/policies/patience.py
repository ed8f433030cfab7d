"""Stop when consecutive exits have agreed often enough (zhou2020pabee)."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, exact, logits_of, settle, usable, values_of


@dataclass(frozen=True)
class Patience:
    """Stop when the answer has equalled the previous exit's ``patience`` times in a row.

    The counter is 0 at the first exit, so the earliest exit (counted from 0) is number ``patience``: 0 always stops at
    the first exit, and with E exits ``patience >= E - 1`` never stops early. Each sample has its own counter.
    An answer that is not finite agrees with none, and never stops.
    """

    patience: int
    tolerance: float | None = (
        None  # for real values [n]: equal means |y_i - y_{i-1}| < tolerance; None compares classes
    )

    def __post_init__(self) -> None:
        settle(self, "patience", whole=True, least=0)
        settle(self, *([] if self.tolerance is None else ["tolerance"]), least=0)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the answer of this exit (logits ``[n, C]`` or values ``[n]``) with the one before."""
        if self.tolerance is None:
            logits = logits_of(output)
            xp, known = array_namespace(logits), usable(logits)
            answer = xp.where(known, xp.argmax(logits, axis=-1), -1)  # no answer equals a later one
        else:
            answer = values_of(output)
            xp = array_namespace(answer)
            known = xp.isfinite(answer)
        if not state:
            count = xp.zeros((answer.shape[0],), dtype=xp.int64, device=answer.device)
        else:
            previous, before = state
            equal = answer == previous if self.tolerance is None else exact(xp.abs(answer - previous)) < self.tolerance
            count = xp.where(equal & known, before + 1, xp.zeros_like(before))
        return (answer, count), (count >= self.patience) & known
