"""Stop when leaving is worth more than going on, at a price of computation that each request names (dai2020epnet)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from eelit.methods.policies.base import Array, Output, State, exact, logits_of, quiet, settle, usable


@dataclass(frozen=True)
class PricedGain:
    """Stop when the gain of leaving, at the price, is strictly above 0.

    Each exit gives this gain at some prices, ``[n, P]`` under the name ``of``. Between two of them it lies on the
    straight line through both, below and above all on that through the two nearest. Infinity always stops at the first
    exit, minus infinity never stops. Raises `ValueError` unless ``prices`` are two at least, finite and all different.
    """

    price: float
    prices: Sequence[float]  # [P], at which exits give the gain, in any order
    of: str = "gain"  # the gains' name in the output

    def __post_init__(self) -> None:
        settle(self, "price")
        settle(self, "prices", per_exit=True)
        known = self.prices if isinstance(self.prices, tuple) else ()
        if len(set(known)) < max(2, len(known)) or not all(map(math.isfinite, known)):
            raise ValueError(f"PricedGain: prices are two at least, finite and all different, not {self.prices}")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    @quiet
    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Read the gain at the price from gains ``[n, P]``."""
        gains = exact(logits_of(output, self.of, classes=len(self.prices)))
        if math.isinf(self.price):
            return state, usable(gains) & (self.price > 0)
        low, high, share = self.line()
        gain = gains[:, low] + share * (gains[:, high] - gains[:, low])
        return state, usable(gains) & (gain > 0)

    def line(self) -> tuple[int, int, float]:
        """Return on which two prices' line the gain is read, by their numbers, and how far from the lower one."""
        rising = sorted(range(len(self.prices)), key=self.prices.__getitem__)
        place = bisect_right([self.prices[i] for i in rising], self.price)
        low, high = (rising[max(1, min(place, len(rising) - 1)) - i] for i in (1, 0))
        return low, high, (self.price - self.prices[low]) / (self.prices[high] - self.prices[low])
