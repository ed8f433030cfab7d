"""Stop when the two most likely classes are far enough apart (softmax difference, schuster2022calm)."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, PerExit, State, exact, logits_of, settle, softmax, threshold_at


def margin(logits: Array) -> Array:
    """Largest minus second largest class probability ``[n]`` of logits ``[n, C]``; 0 for equal logits, at most 1."""
    xp = array_namespace(logits)
    p = softmax(logits)
    classes = xp.arange(p.shape[-1], device=p.device)
    first = classes == xp.argmax(p, axis=-1, keepdims=True)  # cheaper than sorting a vocabulary
    return xp.max(p, axis=-1) - xp.max(xp.where(first, xp.zeros_like(p), p), axis=-1)


@dataclass(frozen=True)
class Margin:
    """Stop when ``margin(logits) >= threshold``.

    0 always stops at the first exit; anything above 1 never stops.
    """

    threshold: PerExit  # one for all exits, or one per exit

    def __post_init__(self) -> None:
        settle(self, "threshold", per_exit=True)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the margin of logits ``[n, C]`` with the exit's threshold."""
        found = exact(margin(logits_of(output)))
        state, threshold = threshold_at(state, self.threshold, found)
        return state, found >= threshold
