"""Seconds of a method and of the full model, taken in turn in one process, so that both meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import TypeVar

import torch

BATCH = 64
"""Samples at a time, where no batch size is asked for."""
TIMED = (128, 32)
"""Most samples to time in batches, and one by one."""
X = TypeVar("X")


@torch.inference_mode()
def in_turn(
    ours: Callable[[X], object], plain: Callable[[X], object], batches: Iterable[X], repeats: int
) -> tuple[float, float]:
    """Return the median seconds that each of the two takes for all batches, after one batch to warm up."""
    held = list(batches)
    ours(held[0])
    plain(held[0])
    taken: list[tuple[float, float]] = []
    for _ in range(repeats):
        start = time.perf_counter()
        for x in held:
            ours(x)
        middle = time.perf_counter()
        for x in held:
            plain(x)
        taken.append((middle - start, time.perf_counter() - middle))
    return median(a for a, _ in taken), median(b for _, b in taken)
