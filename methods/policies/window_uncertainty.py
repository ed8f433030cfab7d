"""Stop the words of a sentence when they, or all words near them, are certain."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, Policy, State, asks, exact, logits_of, settle, uncertainty


def window_max(values: Array, window: int) -> Array:
    """Largest of the values ``[n, W]`` in a window of odd size around each; beyond the ends there is nothing."""
    xp = array_namespace(values)
    found, width = values, values.shape[1]
    for shift in range(1, min((window - 1) // 2, width - 1) + 1):
        beyond = xp.full_like(values[:, :shift], -math.inf)
        found = xp.maximum(found, xp.concat([values[:, shift:], beyond], axis=1))
        found = xp.maximum(found, xp.concat([beyond, values[:, : width - shift]], axis=1))
    return found


@dataclass(frozen=True)
class WindowUncertainty:
    """Stop a word when the largest uncertainty in the window around it is strictly below that of the rule.

    0 never stops; anything above 1 stops all words at once. A word whose logits are not finite holds its neighbours.
    """

    uncertainty: float  # a share of ln K, without unit
    window: int  # odd

    def __post_init__(self) -> None:
        settle(self, "uncertainty")
        settle(self, "window", whole=True, least=1)
        if self.window % 2 == 0:
            raise ValueError(f"WindowUncertainty: window is an odd number, not {self.window}")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Ask the logits ``[n, W, K]`` of sentences of W words; return who stops, ``[n, W]``."""
        found = exact(uncertainty(logits_of(output, axes=(3,))))
        return (), window_max(found, self.window) < self.uncertainty


@dataclass(frozen=True)
class SentenceUncertainty:
    """Stop all words of a sentence together, when the largest uncertainty is strictly below that of the rule."""

    uncertainty: float  # a share of ln K, without unit

    def __post_init__(self) -> None:
        settle(self, "uncertainty")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Ask the logits ``[n, W, K]`` of sentences of W words; return who stops, ``[n, W]``."""
        found = exact(uncertainty(logits_of(output, axes=(3,))))
        xp = array_namespace(found)
        return (), xp.broadcast_to(xp.max(found, axis=1, keepdims=True), found.shape) < self.uncertainty


@dataclass(frozen=True)
class Together:
    """Stop all words of a sentence together, as soon as a rule for single words would stop each of them."""

    words: Policy

    def __post_init__(self) -> None:
        asks(self, "words")

    def start(self) -> State:
        """Return the state of the rule for words."""
        return self.words.start()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Ask the logits ``[n, W, K]`` of sentences of W words; return who stops, ``[n, W]``."""
        logits = logits_of(output, axes=(3,))
        xp = array_namespace(logits)
        state, stop = self.words.step(state, logits)
        return state, xp.broadcast_to(xp.all(stop, axis=1, keepdims=True), stop.shape)
