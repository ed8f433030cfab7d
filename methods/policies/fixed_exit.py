"""Stop everything at one exit: a depth that is set beforehand, or the answer that a network gives when time is up."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, finite, logits_of, quiet, said, settle, softmax, usable


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


@dataclass(frozen=True)
class SoleExit(FixedExit):
    """The same for an exit that is known beforehand: the first exit is asked, as always, and then no other before it.

    With E exits, ``exit`` is at most E - 1.
    """

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare as `FixedExit` does; the state is the exit to ask next."""
        (after,), stop = super().step(state, output)
        return (array_namespace(after).where(after < self.exit, self.exit, after),), stop

    def route(self, state: State, output: Output) -> Array:
        """Return the fixed exit ``[n]``, or the next one if that had no finite answer."""
        return state[0]


@dataclass(frozen=True)
class MeanSoFar(FixedExit):
    """The same, answered by the mean of the probabilities of all exits so far (phuong2019distillation).

    An exit whose logits are not finite has no part in the mean; where no exit has, the answer is NaN.
    """

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Count exits and add up the softmax of logits ``[n, C]``; the state has its sum, and of how many exits."""
        logits = logits_of(output)
        xp, known = array_namespace(logits), usable(logits)[:, None]
        total, of = state[1:] or (xp.zeros_like(logits), xp.zeros_like(logits[:, :1]))
        here, stop = super().step(state[:1], output)
        return (*here, total + xp.where(known, softmax(logits), 0.0), of + xp.astype(known, of.dtype)), stop

    @quiet
    def answer(self, state: State, output: Output) -> Array:
        """Return the logarithm ``[n, C]`` of the mean of the probabilities."""
        _, total, of = state
        xp, mean = array_namespace(total), total / of
        least = xp.finfo(mean.dtype).smallest_normal
        return xp.log(xp.where(mean < least, least, mean))
