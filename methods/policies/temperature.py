"""Temperature scaling: divide the logits of each exit by a number of its own, then ask any policy.

One threshold can serve all exits only if "90% sure" means the same at each; the temperatures see to that. They change
how sure an exit is, never what it answers.

Four samples of two exits; both have three right, but the first is three times as sure of all its answers:

>>> timid = np.eye(2)[[0, 1, 0, 1]]
>>> outputs, targets = np.stack([3 * timid, timid]), np.array([0, 1, 0, 0])
>>> temperatures = [fit_temperature(output, targets) for output in outputs]
>>> [round(temperature, 3) for temperature in temperatures]  # of logits L and 0: 3 of 4 are right where L / T = ln 3
[2.731, 0.91]
>>> sharper = outputs / np.array(temperatures)[:, None, None]
>>> calibration_error(sharper, targets) < 1e-6 < calibration_error(outputs, targets)
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from array_api_compat import is_array_api_obj, to_device

from eelit.methods.policies.base import (
    Array,
    Output,
    PerExit,
    Policy,
    State,
    asks,
    checked,
    log_softmax,
    logits_of,
    on_host,
    settle,
    softmax,
    threshold_at,
    usable,
)

COLDEST, HOTTEST = 0.01, 100.0


@dataclass(frozen=True)
class Tempered:
    """Ask ``policy`` about ``logits / temperature`` of the exit; a temperature of 1 everywhere changes nothing."""

    temperatures: PerExit  # one per exit (the last exit needs none), or one for all
    policy: Policy

    def __post_init__(self) -> None:
        settle(self, "temperatures", per_exit=True, above=0, finite=True)
        asks(self, "policy")

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Scale logits ``[n, C]`` and hand them on; the state counts exits, then comes the other policy's own."""
        logits = logits_of(output)
        own = int(isinstance(self.temperatures, tuple))  # one for all exits needs no count of them
        count, temperature = threshold_at(state[:own], self.temperatures, logits)
        inner, stop = self.policy.step(state[own:], logits / temperature)
        return (*count, *inner), stop


def _classes(targets: Array) -> Array:
    return np.asarray(to_device(targets, "cpu") if is_array_api_obj(targets) else targets)


def mean_nll(logits: Array, targets: Array) -> float:
    """Mean negative log likelihood of the target classes ``[n]`` under the softmax of logits ``[n, C]``."""
    chosen = log_softmax(on_host(logits_of(logits)))[np.arange(len(targets)), _classes(targets)]
    return -float(chosen.mean())


def fit_temperature(logits: Array, targets: Array) -> float:
    """Return the temperature at which ``softmax(logits / temperature)`` has the least mean negative log likelihood.

    That likelihood is convex in the inverse temperature, so its slope is bisected. The answer is kept between 0.01
    (every answer is right: the colder, the better) and 100 (no better than chance: the hotter, the better). Samples
    whose logits are not `usable` are left out; raises `ValueError` if there are no others.
    """
    z, y = on_host(logits_of(logits)), _classes(targets)
    known = usable(z)
    if not known.any():
        raise ValueError("no temperature can be fitted: no sample has finite logits")
    z, y = z[known], y[known]
    true = z[np.arange(len(y)), y]
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(50):
        middle = (low + high) / 2
        p = softmax(z * np.exp(-middle))
        slope = float(((p * np.where(p == 0, 0.0, z)).sum(axis=-1) - true).mean())  # by the inverse temperature
        low, high = (low, middle) if slope <= 0 else (middle, high)
    return float(np.exp((low + high) / 2))


def calibration_error(outputs: Array, targets: Array, bins: int = 15) -> float:
    """Expected calibration error, mean over exits, of logits ``[E, n, C]``.

    Of one exit: its confidences fall into equal bins; ``|accuracy - mean confidence|`` of each, weighted by its share.
    Raises `ValueError` for logits of a single class, which are always sure.
    """
    p = softmax(np.stack([on_host(logits_of(output)) for output in outputs]))
    right = p.argmax(axis=-1) == _classes(targets)
    return float(np.mean([expected_error(sure, hit, bins) for sure, hit in zip(p.max(axis=-1), right, strict=True)]))


def expected_error(confidences: Array, right: Array, bins: int = 15) -> float:
    """Expected calibration error of confidences ``[n]``, given which answers are right ``[n]``.

    Samples without a finite confidence are left out; NaN if there are no others.
    """
    checked("expected_error", "bins", bins, whole=True, least=1)
    every = on_host(confidences)
    known = np.isfinite(every)
    if not known.any():
        return math.nan
    sure = every[known]
    excess, where = sure - on_host(right)[known], np.ceil(sure * bins)
    return sum(abs(float(excess[where == b].sum())) for b in range(1, bins + 1)) / len(sure)
