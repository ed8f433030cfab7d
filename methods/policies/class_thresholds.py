"""Stop when one of two classes is likely enough, with a threshold for each (xin2020ranking)."""

from __future__ import annotations

from dataclasses import dataclass

from eelit.methods.policies.base import Array, Output, State, exact, logits_of, settle, softmax


@dataclass(frozen=True)
class ClassThresholds:
    """Stop when ``p[1] > positive`` or ``p[0] > negative``, strictly, with p the softmax of logits ``[n, 2]``.

    A threshold of 1 or more switches its side off; with both below 0.5 all stop at the first exit.
    """

    positive: float
    negative: float

    def __post_init__(self) -> None:
        settle(self, "positive", "negative")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the probabilities of both classes with their thresholds."""
        p = exact(softmax(logits_of(output, classes=2)))
        return (), (p[:, 1] > self.positive) | (p[:, 0] > self.negative)
