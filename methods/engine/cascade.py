"""A chain of separate models, each asked about the samples that no earlier one has settled, or that were sent to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.engine.examples import Examples
from eelit.methods.engine.exit_outputs import remembered
from eelit.methods.engine.members import Member, Network
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import Score, judged
from eelit.methods.engine.multi_exit import MultiExit, at_exit, at_exits, evaluating, joined, said_at, select, stacked
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.engine.routing import Course, follow
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.engine.timing import BATCH
from eelit.methods.policies.base import Output, Policy, said


class Cascade(nn.Module):
    """Separate models, from the cheapest to the costliest; the last is the full model."""

    def __init__(self, members: Iterable[Member]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def __len__(self) -> int:
        return len(self.members)

    def full(self, x: Tensor) -> Tensor:
        """Return the answer of the last member alone."""
        answer: Tensor = said(self.members[-1](x))
        return answer

    @torch.inference_mode()
    def run(self, x: Tensor, policy: Policy) -> Course:
        """Run a batch, each member on the samples alone that reach it."""
        with evaluating(self):
            return follow(policy, lambda i, rows: self.members[i](select(x, rows)), len(self), len(x))

    @torch.inference_mode()
    def outputs(self, examples: Examples, bench: Bench, part: str) -> Output:
        """Return what every member says of every example, ``[M, N, ...]``; what networks say is kept in the cache."""
        return stacked([self._outputs(member, examples, bench, part) for member in self.members])

    def _outputs(self, member: nn.Module, examples: Examples, bench: Bench, part: str) -> Output:
        if isinstance(member, Network):
            return at_exit(remembered(MultiExit([member.network], [nn.Identity()]), examples, bench, part), 0)
        found = [(index, member(x)) for index, x in examples.batches(BATCH)]
        return select(joined([out for _, out in found]), torch.argsort(torch.cat([index for index, _ in found])))

    def costs(self, examples: Examples) -> NDArray[np.float64]:
        """Return what every member costs by itself on every example, ``[M, N]``."""
        found = np.zeros((len(self), len(examples)))
        for index, x in examples.batches(BATCH):
            for i, member in enumerate(self.members):
                found[i, index.numpy()] = member.costs(x)  # type: ignore[operator]
        return found


@dataclass
class StoredMembers(StoredOutputs):
    """One part of the data seen by all members of a cascade.

    ``static_costs`` are those of each member alone, ``costs`` those of a chain in which nobody is passed over.
    """

    def followed(self, policy: Policy, shown: Output | None = None) -> Course:
        """Replay a policy, on the outputs or on what else it is shown of each member; no model is run."""
        asked = self.outputs if shown is None else shown
        members, samples = self.static_costs.shape
        return follow(policy, lambda i, rows: select(said_at(asked, i), rows), members, samples, count=True)

    def spent(self, course: Course) -> NDArray[np.float64]:
        """Return what each sample ``[N]`` costs: the members that it visits, and what the policy computes."""
        total: NDArray[np.float64] = (self.static_costs * course.visited.numpy()).sum(axis=0) + course.decisions
        return total

    def under(self, policy: Policy, score: Score, knob: float = 0.0, shown: Output | None = None) -> OperatingPoint:
        """Replay a policy; the knob is only written down."""
        course = self.followed(policy, shown)
        told = course.outputs if shown is None else at_exits(self.outputs, course.exits)
        worth = judged(score, self.read(told), self.targets)
        return self.point(knob, worth, course.exits.numpy(), self.spent(course))
