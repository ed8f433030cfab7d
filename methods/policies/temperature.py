"""Temperature scaling: divide the logits of each exit by a number of its own, then ask any policy.

One threshold can serve all exits only if "90% sure" means the same at each; the temperatures see to that. They change
how sure an exit is, never what it answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eelit.methods.policies.base import Array, Output, Policy, State, log_softmax, said, softmax, threshold_at

COLDEST, HOTTEST = 0.01, 100.0


@dataclass(frozen=True)
class Tempered:
    """Ask ``policy`` about ``logits / temperature`` of the exit; a temperature of 1 everywhere changes nothing."""

    temperatures: tuple[float, ...]  # one per exit (the last exit needs none)
    policy: Policy

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Scale logits ``[n, C]`` and hand them on; the state counts exits, then comes the other policy's own."""
        logits = said(output)
        count, temperature = threshold_at(state[:1], self.temperatures, logits)
        inner, stop = self.policy.step(state[1:], logits / temperature)
        return (*count, *inner), stop


def mean_nll(logits: Array, targets: Array) -> float:
    """Mean negative log likelihood of the target classes ``[n]`` under the softmax of logits ``[n, C]``."""
    chosen = log_softmax(np.asarray(logits, dtype=np.float64))[np.arange(len(targets)), np.asarray(targets)]
    return -float(chosen.mean())


def fit_temperature(logits: Array, targets: Array) -> float:
    """Return the temperature at which ``softmax(logits / temperature)`` has the least mean negative log likelihood.

    That likelihood is convex in the inverse temperature, so its slope is bisected. The answer is kept between 0.01
    (every answer is right: the colder, the better) and 100 (no better than chance: the hotter, the better).
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    true = z[np.arange(len(y)), y]
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(50):
        middle = (low + high) / 2
        slope = float(((softmax(z * np.exp(-middle)) * z).sum(axis=-1) - true).mean())  # by the inverse temperature
        low, high = (low, middle) if slope <= 0 else (middle, high)
    return float(np.exp((low + high) / 2))


def calibration_error(outputs: Array, targets: Array, bins: int = 15) -> float:
    """Expected calibration error, mean over exits, of logits ``[E, n, C]``.

    Of one exit: its confidences fall into equal bins; ``|accuracy - mean confidence|`` of each, weighted by its share.
    """
    p = softmax(np.asarray(outputs, dtype=np.float64))
    right = p.argmax(axis=-1) == np.asarray(targets)
    return float(np.mean([expected_error(sure, hit, bins) for sure, hit in zip(p.max(axis=-1), right, strict=True)]))


def expected_error(confidences: Array, right: Array, bins: int = 15) -> float:
    """Expected calibration error of confidences ``[n]``, given which answers are right ``[n]``."""
    sure = np.asarray(confidences, dtype=np.float64)
    excess, where = sure - np.asarray(right), np.ceil(sure * bins)
    return sum(abs(float(excess[where == b].sum())) for b in range(1, bins + 1)) / len(sure)
