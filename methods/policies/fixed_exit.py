"""Stop everything at one exit: the answer that a network gives when its time is up."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, finite, said, settle


@dataclass(frozen=True)
class FixedExit:
    """Stop every sample at the same exit, whatever is answered there; one without a finite answer goes on to the next.

    With E exits, ``exit >= E - 1`` never stops early.
    """

    exit: int  # counted from 0

    def __post_init__(self) -> None:
        settle(self, "exit", whole=True, least=0)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the number of this exit with the fixed one."""
        answer = said(output)
        xp = array_namespace(answer)
        here = state[0] if state else xp.zeros((answer.shape[0],), dtype=xp.int64, device=answer.device)
        return (here + 1,), (here >= self.exit) & finite(answer)
