"""Stop when a predictor sees no prospect in going on (busolin2021lear)."""

from __future__ import annotations

from dataclasses import dataclass

from eelit.methods.policies.base import Array, Output, State, exact, settle, values_of


@dataclass(frozen=True)
class ContinuationThreshold:
    """Stop when the predicted probability that going on is worth while is at most ``threshold``.

    A threshold of 1 stops everybody; one below the smallest probability (0, for a logistic predictor) stops nobody.
    """

    threshold: float

    def __post_init__(self) -> None:
        settle(self, "threshold")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Take the probabilities ``[n]`` of going on."""
        return (), exact(values_of(output)) <= self.threshold
