"""Stop when it is likely to leave here, given that nobody left before, by gates sharing one unit (regol2024jeidnn)."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, PerExit, State, exact, settle, threshold_at, values_of


@dataclass(frozen=True)
class ExitProbability:
    """Stop when ``q_l >= threshold``, the probability of leaving at exit l for who came this far.

    Each exit gives a gate ``g_l [n]`` in [0, 1] under the name ``of``. It is the probability of leaving there, as far
    as the exits before have left any: ``P_l = max(0, min(g_l, 1 - sum_{j<l} g_j))``, and
    ``q_l = P_l / prod_{j<l} (1 - q_j)`` in [0, 1]; 0 where nothing is left. A gate that is not finite counts 0.
    A threshold of 0 always stops at the first exit; anything above 1 never stops.
    """

    threshold: PerExit  # one for all exits, or one per exit
    of: str = "gate"  # the gate's name in the output

    def __post_init__(self) -> None:
        settle(self, "threshold", per_exit=True)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Share out by this exit's gate; the state is the sum of gates, the product of 1 - q, and what counts exits."""
        g = exact(values_of(output, self.of))
        xp = array_namespace(g)
        told = g == g  # not NaN, which stands for all that is not finite
        g = xp.where(told, g, 0.0)
        total, stayed, *before = state or (xp.zeros_like(g), xp.ones_like(g))
        counted, threshold = threshold_at(tuple(before), self.threshold, g)
        _, q, stayed = shared_out(g, total, stayed)
        return (total + g, stayed, *counted), told & (q >= threshold)


def shared_out(g: Array, total: Array, stayed: Array) -> tuple[Array, Array, Array]:
    """Return ``P_l``, ``q_l`` and ``prod_{j<=l} (1 - q_j)``, from the gate, the sum of those before, the product."""
    xp = array_namespace(g)
    least = xp.where(g < 1 - total, g, 1 - total)
    P = xp.where(least > 0, least, 0.0)
    q = xp.where(stayed > 0, P / xp.where(stayed > 0, stayed, 1.0), 0.0)
    q = xp.where(q < 1, q, 1.0)
    return P, q, stayed * (1 - q)
