"""Stop the words of a sentence when they, or all words near them, are certain."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, Policy, State, entropy, said


def uncertainty(logits: Array) -> Array:
    """Entropy of the softmax of ``[..., K]`` logits divided by its maximum ``ln K``: 0 for certain, 1 for uniform."""
    return entropy(logits) / math.log(logits.shape[-1])


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
    """Stop a word when the largest uncertainty in the window around it is strictly below the threshold.

    0 never stops; anything above 1 stops all words at once.
    """

    threshold: float
    window: int  # odd

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"a window has an odd size, not {self.window}")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Ask the logits ``[n, W, K]`` of sentences of W words; return who stops, ``[n, W]``."""
        logits = said(output)
        return (), window_max(uncertainty(logits), self.window) < self.threshold


@dataclass(frozen=True)
class SentenceUncertainty:
    """Stop all words of a sentence together, when the largest uncertainty is strictly below the threshold."""

    threshold: float

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Ask the logits ``[n, W, K]`` of sentences of W words; return who stops, ``[n, W]``."""
        logits = said(output)
        xp = array_namespace(logits)
        found = uncertainty(logits)
        return (), xp.broadcast_to(xp.max(found, axis=1, keepdims=True), found.shape) < self.threshold


@dataclass(frozen=True)
class Together:
    """Stop all words of a sentence together, as soon as a rule for single words would stop each of them."""

    words: Policy

    def start(self) -> State:
        """Return the state of the rule for words."""
        return self.words.start()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Ask the logits ``[n, W, K]`` of sentences of W words; return who stops, ``[n, W]``."""
        logits = said(output)
        xp = array_namespace(logits)
        state, stop = self.words.step(state, logits)
        return state, xp.broadcast_to(xp.all(stop, axis=1, keepdims=True), stop.shape)
