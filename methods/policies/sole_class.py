"""Stop when one class is likely enough and no other is (panda2016cdl): classes are judged each by itself."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import (
    Array,
    Output,
    PerExit,
    State,
    exact,
    logits_of,
    quiet,
    settle,
    threshold_at,
    usable,
)


@dataclass(frozen=True)
class SoleClass:
    """Stop when exactly one class has ``sigmoid(logit) >= threshold``.

    Above 1 nobody stops. A low threshold need not stop more samples than a high one: several classes may reach it, and
    at 0 all do.
    """

    threshold: PerExit  # one for all exits, or one per exit

    def __post_init__(self) -> None:
        settle(self, "threshold", per_exit=True)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    @quiet
    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Count the classes of logits ``[n, C]`` that reach the exit's threshold."""
        logits = logits_of(output)
        xp = array_namespace(logits)
        p = exact(1 / (1 + xp.exp(-logits)))
        state, threshold = threshold_at(state, self.threshold, p)
        reached = xp.sum(xp.astype(p >= threshold, xp.int64), axis=-1)
        return state, (reached == 1) & usable(logits)
