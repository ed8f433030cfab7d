"""Stop when a learned confidence says that going on would not change the answer (schuster2022calm)."""

from __future__ import annotations

from dataclasses import dataclass

from eelit.methods.policies.base import (
    Array,
    Output,
    PerExit,
    State,
    exact,
    logits_of,
    said,
    settle,
    softmax,
    threshold_at,
    values_of,
)


@dataclass(frozen=True)
class GateConfidence:
    """Stop when the confidence that a trained gate gives is ``>= threshold``.

    The output of an exit is the gate's: logits ``[n, 2]`` of (go on, stop), whose softmax is taken, or a confidence
    ``[n]`` in [0, 1], whole numbers and booleans included. 0 always stops at the first exit; anything above 1 never
    stops.
    """

    threshold: PerExit  # one for all exits, or one per exit
    of: str = "gate"  # the name of what the gate says, in outputs that say more

    def __post_init__(self) -> None:
        settle(self, "threshold", per_exit=True)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the gate's confidence with the exit's threshold."""
        gate = said(output, self.of)
        found = exact(
            values_of(gate) if getattr(gate, "ndim", None) == 1 else softmax(logits_of(gate, classes=2))[:, 1]
        )
        state, threshold = threshold_at(state, self.threshold, found)
        return state, found >= threshold
