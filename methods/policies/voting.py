"""Stop when one answer has collected enough votes from the exits passed so far (sun2021ensemble)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, exact, logits_of, settle, usable


@dataclass(frozen=True)
class Voting:
    """Stop when the leading class has at least ``votes`` votes; each exit has one, and none is ever taken back.

    Whoever stops early gets the answer of the exit where it stops, as its vote was the one that was missing. At the
    last exit the majority of all exits answers, and of equals the one that a deeper exit voted for last.
    1 always stops at the first exit; more votes than exits never stop. An exit whose logits are not finite has no vote,
    and nobody stops there; where no exit had one, the answer is NaN.
    """

    votes: float
    power: float = 0.0  # the votes are divided by this power of the number of exits passed; 0 counts them as they are

    def __post_init__(self) -> None:
        settle(self, "votes")
        settle(self, "power", finite=True)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Count this exit's vote, from logits ``[n, C]``; the state is votes, latest votes ``[n, C]`` and depth."""
        logits = logits_of(output)
        xp = array_namespace(logits)
        zeros = xp.zeros_like(logits)
        tally, latest, depth = state or (zeros, zeros, zeros[:, 0])
        depth = depth + 1
        classes = xp.arange(logits.shape[-1], device=logits.device)
        known = usable(logits)
        voted = (classes == xp.argmax(logits, axis=-1, keepdims=True)) & known[:, None]
        tally = tally + xp.astype(voted, logits.dtype)
        latest = xp.where(voted, depth[:, None], latest)
        share = exact(xp.max(tally, axis=-1)) / exact(depth) ** self.power
        return (tally, latest, depth), (share >= self.votes) & known

    def answer(self, state: State, output: Output) -> Array:
        """Return the votes ``[n, C]``, that of a deeper exit raised a little so that no two classes are equal."""
        tally, latest, depth = state
        xp = array_namespace(tally)
        voted = xp.max(tally, axis=-1, keepdims=True) > 0
        return xp.where(voted, tally + latest / (depth[:, None] + 1), math.nan)
