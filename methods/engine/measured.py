"""An operating point of what was measured of each sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eelit.methods.engine.records import OperatingPoint, Samples


def point(
    knob: float, worth: float | NDArray[Any], exits: ArrayLike, *, count: int, cost: float, full: float
) -> OperatingPoint:
    """Return the point at a knob.

    ``worth`` is what each sample's answer is worth, ``[N]``, or the quality of all together (`metrics.judged`);
    ``exits`` say at which of ``count`` exits each sample (or token, document) left (-1: at none); ``cost`` is the mean
    of a sample, and ``full`` that of the plain full model.
    """
    left = np.asarray(exits).ravel()
    return OperatingPoint(
        knob=knob,
        quality=float(np.mean(worth, dtype=np.float64)),
        cost=cost,
        speed_up=full / cost,
        exits=(np.bincount(left[left >= 0], minlength=count) / len(left)).tolist(),
        samples=Samples(
            worth if isinstance(worth, np.ndarray) else None,
            np.where(left < 0, count, left).astype(np.min_scalar_type(count)),
        ),
    )
