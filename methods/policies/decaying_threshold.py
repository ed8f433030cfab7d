"""A threshold that falls while a sequence is written, as early mistakes are carried on (schuster2022calm)."""

from __future__ import annotations

import math


def decayed(threshold: float, step: int, length: int, temperature: float) -> float:
    """Return the threshold for the token number ``step`` (from 0) of at most ``length``, from one for the sequence.

    ``clip(0.9 * threshold + 0.1 * exp(-temperature * step / length), 0, 1)``: the first tokens need up to 0.1 more than
    the last. A temperature of 0 keeps the threshold constant. The two ends are kept out of it, so that 0 still stops
    every token at the first exit and anything above 1 none.
    """
    if temperature == 0 or threshold <= 0 or threshold > 1:
        return threshold
    return min(1.0, max(0.0, 0.9 * threshold + 0.1 * math.exp(-temperature * step / length)))


def decayed_as_released(threshold: float, step: int, length: int, temperature: float) -> float:
    """Return the threshold as the released code of schuster2022calm has it: ``threshold * (0.9 + 0.1 * exp(...))``.

    Here the first token needs the threshold itself, and a low threshold is hardly raised at the beginning.
    """
    return threshold * (0.9 + 0.1 * math.exp(-temperature * step / length))
