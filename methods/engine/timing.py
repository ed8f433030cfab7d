"""Seconds of a method and of the full model, taken in turn in one process, so that both meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import TypeVar

import torch

BATCH = 64
"""Samples at a time, where no batch size is asked for."""
TIMED = (96, 24)
"""Most samples to time in batches, and one by one."""
X = TypeVar("X")


@torch.inference_mode()
def in_turn(
    ours: Callable[[X], object], plain: Callable[[X], object], batches: Iterable[X], repeats: int
) -> tuple[float, float]:
    """Return the seconds that each of the two takes for all batches, after one batch to warm up.

    Each batch is taken in turn by the one and by the other, ``repeats`` times; medians of a batch are added up. So
    what else the machine does for a while meets both alike, or no median at all.
    """
    held = list(batches)
    ours(held[0])
    plain(held[0])
    mine, full = 0.0, 0.0
    for x in held:
        taken = [_pair(ours, plain, x) for _ in range(repeats)]
        mine += median(a for a, _ in taken)
        full += median(b for _, b in taken)
    return mine, full


def _pair(ours: Callable[[X], object], plain: Callable[[X], object], x: X) -> tuple[float, float]:
    start = time.perf_counter()
    ours(x)
    middle = time.perf_counter()
    plain(x)
    return middle - start, time.perf_counter() - middle
