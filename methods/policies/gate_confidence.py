"""Stop when a learned confidence says that going on would not change the answer (schuster2022calm)."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, said, softmax, threshold_at


@dataclass(frozen=True)
class GateConfidence:
    """Stop when the confidence that a trained gate gives is ``>= threshold``.

    The output of an exit is the gate's: logits ``[n, 2]`` of (go on, stop), whose softmax is taken, or a confidence
    ``[n]`` in [0, 1]. 0 always stops at the first exit; anything above 1 never stops.
    """

    threshold: float | tuple[float, ...]  # one for all exits, or one per exit
    of: str = "gate"  # the name of what the gate says, in outputs that say more

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Compare the gate's confidence with the exit's threshold."""
        gate = said(output, self.of)
        xp = array_namespace(gate)
        found = gate if gate.ndim == 1 else xp.take(softmax(gate), xp.asarray([1], device=gate.device), axis=-1)[:, 0]
        state, threshold = threshold_at(state, self.threshold, found)
        return state, found >= threshold
