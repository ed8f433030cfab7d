"""Test one exit, forecast from its output how many exits further a sample will be sure, go there (li2023predictive)."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.activation import strength
from eelit.methods.policies.base import Array, Output, State, logits_of, quiet, settle, usable


@quiet
def smoothed(values: Array) -> Array:
    """Return ``v_{k-1} + v_k + v_{k+1}`` of values ``[n, C]``, with 0 beyond the ends."""
    xp = array_namespace(values)
    none = xp.zeros_like(values[:, :1])
    wide = xp.concat([none, values, none], axis=1)
    return wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]


@dataclass(frozen=True)
class Forecast:
    """Stop where the strongest output, whatever its sign, reaches the threshold of the exit; else go where it will.

    Each round of `smoothed` stands for one exit further: the sample goes as many exits further as it takes rounds until
    the strongest output is strictly above the threshold of the exit then reached, ``rounds`` at most. A forecast beyond
    the last threshold is taken for that exit, and behind it comes the last exit, which has none. One round asks every
    exit in turn. Thresholds of 0 stop everybody at the first exit, infinite ones nobody.
    """

    threshold: tuple[float, ...]  # one per exit but the last, in the unit of the logits
    rounds: int = 8  # most exits that are gone ahead

    def __post_init__(self) -> None:
        settle(self, "threshold", per_exit=True)
        settle(self, "rounds", whole=True, least=1)
        if not isinstance(self.threshold, tuple):
            raise ValueError(f"Forecast: threshold is one number per exit but the last, not {self.threshold!r}")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the strength of logits ``[n, C]`` with the exit's threshold; the state is the exit to ask next."""
        logits = logits_of(output)
        xp = array_namespace(logits)
        here = state[0] if state else xp.zeros((logits.shape[0],), dtype=xp.int64, device=logits.device)
        found = strength(logits, either_sign=True)
        stop = (found >= self._at(here, found)) & usable(logits)
        last = len(self.threshold) - 1  # of those with a threshold
        further = here + self.ahead(logits, here)
        return (xp.where(here < last, xp.where(further < last, further, last), last + 1),), stop

    def route(self, state: State, output: Output) -> Array:
        """Return the exit ``[n]`` of which it is forecast that a sample will stop there."""
        return state[0]

    def ahead(self, logits: Array, here: Array) -> Array:
        """Return how many exits behind its own, ``here [n]``, each sample will be sure, from logits ``[n, C]``."""
        xp = array_namespace(logits)
        found, values = xp.zeros_like(here), logits
        for i in range(1, self.rounds + 1):
            values = smoothed(values)
            strong = strength(values, either_sign=True)
            found = xp.where((found == 0) & (strong > self._at(here + i, strong)), i, found)
        return xp.where(found == 0, self.rounds, found)

    def _at(self, exits: Array, like: Array) -> Array:
        """Return the threshold ``[n]`` of each of the exits ``[n]``, that of the last for those beyond it."""
        xp = array_namespace(like)
        values, last = xp.asarray(self.threshold, dtype=like.dtype, device=like.device), len(self.threshold) - 1
        return xp.take(values, xp.where(exits < last, exits, last), axis=0)
