"""Seconds of a method and of the full model, taken in turn in one process, so that both meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from statistics import median
from typing import TypeVar

import torch
from torch import nn

BATCH = 64
"""Samples at a time, where no batch size is asked for."""
TIMED = (96, 24)
"""Most samples to time in batches, and one by one."""
X = TypeVar("X")


def devices_of(*models: nn.Module) -> set[torch.device]:
    """Return where the weights of some networks are, for `now`."""
    return {weight.device for model in models for weight in model.parameters()}


def now(devices: Collection[torch.device]) -> float:
    """Return the clock's seconds as soon as all that was asked of the devices is done.

    A device computes while the host goes on: without waiting, only the asking would be timed.
    """
    for device in devices:
        if device.type == "mps":
            torch.mps.synchronize()
        elif device.type != "cpu" and hasattr(torch, device.type):
            getattr(torch, device.type).synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def in_turn(
    ours: Callable[[X], object],
    plain: Callable[[X], object],
    batches: Iterable[X],
    repeats: int,
    devices: Collection[torch.device],
    anew: Callable[[X], X] = lambda x: x,
) -> tuple[float, float]:
    """Return the seconds that each of the two takes on its devices for all batches, after one batch to warm up.

    Each batch is taken in turn by the one and by the other, ``repeats`` times; medians of a batch are added up. So
    what else the machine does for a while meets both alike, or no median at all. Where a batch is used up, as a cache
    is that is written on, ``anew`` copies it for each of them each time, untimed.
    """
    held = list(batches)
    ours(anew(held[0]))
    plain(anew(held[0]))
    mine, full = 0.0, 0.0
    for x in held:
        taken = [_pair(ours, plain, (anew(x), anew(x)), devices) for _ in range(repeats)]
        mine += median(a for a, _ in taken)
        full += median(b for _, b in taken)
    return mine, full


def _pair(
    ours: Callable[[X], object], plain: Callable[[X], object], each: tuple[X, X], devices: Collection[torch.device]
) -> tuple[float, float]:
    mine, other = each
    start = now(devices)
    ours(mine)
    middle = now(devices)
    plain(other)
    return middle - start, now(devices) - middle
