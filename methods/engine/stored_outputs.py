"""What all exits say on a split, and the simpler rules that every method has to face on the same trained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine.costs import decision_costs
from eelit.methods.engine.evaluate import answered, followed, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.measured import point
from eelit.methods.engine.metrics import Score, judged
from eelit.methods.engine.multi_exit import at_exits
from eelit.methods.engine.records import Baseline, ExitFacts, OperatingPoint
from eelit.methods.policies.base import Output, Policy, Routing, said
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.temperature import calibration_error

CONFIDENCES = (0.0, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.1)
"""Thresholds of the baseline that stops at the surest exit; for more than two classes see `confidences`."""
LOW = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""More of them, for more than two classes, of which the likeliest often has less than half of the probability."""


@dataclass
class StoredOutputs:
    """One split seen by all exits: what they say ``[E, N, ...]`` and what it costs ``[E, N]``."""

    examples: Examples
    outputs: Output  # [E, N, C], [E, N] for regression, or a dictionary of such tensors
    costs: NDArray[np.float64]  # MACs of each sample up to and including each exit
    static_costs: NDArray[np.float64]  # MACs ``[E, N]`` of each sample in the network cut off for good after each exit
    read: Callable[[Output], Tensor] = said  # takes the answers ``[..., C]`` or ``[...]`` from an output

    @property
    def answers(self) -> Tensor:
        """What all exits answer: ``[E, N, C]``, or ``[E, N]`` for regression."""
        return self.read(self.outputs)

    @property
    def full_costs(self) -> NDArray[np.float64]:
        """MACs ``[N]`` of each sample in the plain network."""
        found: NDArray[np.float64] = self.static_costs[-1]
        return found

    @property
    def targets(self) -> Tensor:
        """Classes or values ``[N]``."""
        return self.examples.targets

    def at(self, exits: NDArray[np.int64]) -> Tensor:
        """Return the answer ``[N, C]`` or ``[N]`` of each sample at its exit."""
        return self.read(at_exits(self.outputs, exits))

    def costs_under(self, policy: Policy, shown: Output | None = None) -> NDArray[np.float64]:
        """Return MACs ``[E, N]`` up to each exit, what the policy computes there included."""
        asked = self.outputs if shown is None else shown
        return self.costs + np.array(decision_costs(policy, asked), dtype=np.float64)[:, None]

    def paid(self, policy: Policy, shown: Output | None = None) -> NDArray[np.float64]:
        """Return MACs ``[N]`` that each sample costs under a policy, what the policy computes included.

        Heads that a `Routing` policy passes over cost nothing. What a head costs is how much more the cost rises up to
        the next exit with all heads on the way than with that exit's alone.
        """
        return self._followed(policy, shown)[1]

    def _followed(self, policy: Policy, shown: Output | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the exit ``[N]`` of each sample under a policy, and what it costs (see `paid`)."""
        asked = self.outputs if shown is None else shown
        if not isinstance(policy, Routing):
            exits = replay(policy, asked)
            return exits, self.costs_under(policy, shown)[exits, np.arange(len(exits))]
        course = followed(policy, asked)
        exits, heads = course.exits.numpy(), np.diff(self.costs, axis=0) - np.diff(self.static_costs, axis=0)
        on_the_way = course.visited[:-1].numpy() & (np.arange(len(heads))[:, None] < exits)
        own: NDArray[np.float64] = self.static_costs[exits, np.arange(len(exits))]
        return exits, own + (heads * on_the_way).sum(axis=0) + course.decisions

    def under(self, policy: Policy, score: Score, knob: float = 0.0, shown: Output | None = None) -> OperatingPoint:
        """Replay a policy on the outputs, or on what else it is shown of each exit; the knob is only written down."""
        exits, spent = self._followed(policy, shown)
        answers = self.read(answered(policy, self.outputs, exits)) if shown is None else self.at(exits)
        return self.point(knob, judged(score, answers, self.targets), exits, spent)

    def point(
        self, knob: float, worth: float | NDArray[Any], exits: NDArray[np.int64], spent: NDArray[np.float64]
    ) -> OperatingPoint:
        """Return the point at a knob from what each sample is worth, where it left, and what it cost ``[N]``."""
        full, cost = float(self.full_costs.mean()), float(spent.mean())
        return point(knob, worth, exits, count=len(self.costs), cost=cost, full=full)

    def cut_off(self, score: Score) -> list[OperatingPoint]:
        """Return the network cut off for good after each exit; the knob is the exit's number, from 1."""
        everybody = np.ones(len(self.examples), dtype=np.int64)
        return [
            self.point(i + 1, judged(score, answers, self.targets), i * everybody, spent)
            for i, (answers, spent) in enumerate(zip(self.answers, self.static_costs, strict=True))
        ]


def confidences(classes: int) -> tuple[float, ...]:
    """Return `CONFIDENCES` with those of the `LOW` thresholds that a largest probability can be below, by size.

    The largest of C probabilities is at least 1 / C, so two classes have none of them.
    """
    cheapest, *others = CONFIDENCES
    return (cheapest, *(c for c in LOW if c * classes > 1), *others)


def baselines_of(held: StoredOutputs, test: StoredOutputs, score: Score) -> list[Baseline]:
    """Return each exit as a fixed depth and, for classes, the same model stopped by the largest probability."""
    found = [Baseline(name="static exit", validation=held.cut_off(score), test=test.cut_off(score))]
    if test.answers.dim() == 3:
        every = confidences(test.answers.shape[-1])
        tried = [[seen.under(MaxConfidence(c), score, c, seen.answers) for c in every] for seen in (held, test)]
        found.append(Baseline(name="max-confidence", validation=tried[0], test=tried[1]))
    return found


def exit_facts(points: list[OperatingPoint], outputs: Tensor, labels: Tensor) -> tuple[list[ExitFacts], float | None]:
    """Return quality, cost and calibration error of each exit, and the share of samples that are overthought.

    ``points`` are those of `StoredOutputs.cut_off`, ``outputs [E, N, C]`` or ``[E, N]``, ``labels [N]``. A sample is
    overthought if some earlier exit has it right and the last exit wrong; values are neither right nor wrong.
    """
    if outputs.dim() != 3:
        return [ExitFacts(quality=point.quality, cost=point.cost) for point in points], None
    errors = [calibration_error(output[None], labels) for output in outputs]
    right = outputs.argmax(dim=-1) == labels
    facts = zip(points, errors, strict=True)
    return [ExitFacts(quality=p.quality, cost=p.cost, calibration_error=e) for p, e in facts], overthought(right)


def overthought(right: Tensor) -> float:
    """Share of samples that some earlier exit has right and the last one wrong, given who is right ``[E, N]``."""
    return float((right[:-1].any(dim=0) & ~right[-1]).double().mean())
