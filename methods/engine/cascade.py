"""A chain of separate models, each asked about the samples that no earlier one has settled, or that were sent to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.evaluate import decide
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.exit_outputs import remembered
from eelit.methods.engine.members import Member, Network
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, at_exit, at_exits, evaluating, joined, said_at, select, stacked
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.engine.stored_outputs import Score, StoredOutputs
from eelit.methods.engine.timing import BATCH
from eelit.methods.policies.base import ANSWER, Assembling, Output, Policy, Routing, State, finite, said


class Cascade(nn.Module):
    """Separate models, from the cheapest to the dearest; the last is the full model."""

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


@dataclass(frozen=True)
class Course:
    """How samples went through a cascade: who answers each ``[N]``, what it says, and who was asked ``[M, N]``."""

    exits: Tensor
    outputs: Output  # [N, ...]
    visited: Tensor
    decisions: NDArray[np.float64]  # [N], MACs that the policy itself computed, where they were counted
    not_finite: Tensor  # [m], numbers of the samples of which a member said something that is not finite

    @property
    def answers(self) -> Tensor:
        """The answers ``[N, C]`` (``[N]`` for regression)."""
        found: Tensor = said(self.outputs)
        return found


def follow(
    policy: Policy, ask: Callable[[int, Tensor], Output], members: int, samples: int, *, count: bool = False
) -> Course:
    """Send samples through a cascade as the policy says, with ``ask(i, rows [n])`` for what member ``i`` says of them.

    Any exit rule serves; one that is `Routing` also says who is asked next. Samples that came by different ways to a
    member are asked about together, but decided upon apart, each with what the policy remembers of its own way.
    What members say is brought to the host's memory: they may be on several devices.
    """
    waiting: list[list[tuple[Tensor, State]]] = [[] for _ in range(members)]
    waiting[0] = [(torch.arange(samples), policy.start())]
    visited, exits = torch.zeros(members, samples, dtype=torch.bool), torch.zeros(samples, dtype=torch.int64)
    decisions, found, flawed = np.zeros(samples), [], torch.zeros(samples, dtype=torch.bool)
    for i, groups in enumerate(waiting):
        if not groups:
            continue
        rows = torch.cat([group for group, _ in groups])
        output = pytree.tree_map_only(Tensor, Tensor.cpu, ask(i, rows))
        if len(said(output)) != len(rows):
            raise ValueError(
                f"member {i} says {list(said(output).shape)} of {len(rows)} samples; the first axis is the sample"
            )
        visited[i, rows], exits[rows] = True, i
        flawed[rows] = flawed[rows] | ~finite(output)
        parts = torch.arange(len(rows)).split([len(group) for group, _ in groups])
        for (group, before), part in zip(groups, parts, strict=True):
            decide = _Decision(policy, select(output, part), i, members, count)
            memory, stop, own = decide.on(before)
            decisions[group.numpy()] += decide.macs / len(group)
            out, keep = stop.nonzero().flatten(), (~stop).nonzero().flatten()
            if len(out):
                found.append((group[out], select(own, out)))
            for target, there in decide.ways(keep):
                waiting[target].append((group[there], select(memory, there)))
    order = torch.argsort(torch.cat([group for group, _ in found]))
    return Course(
        exits, select(joined([output for _, output in found]), order), visited, decisions, flawed.nonzero()[:, 0]
    )


class _Decision:
    """What the policy does with what one member says of some samples, its MACs counted if asked for."""

    def __init__(self, policy: Policy, output: Output, member: int, members: int, count: bool) -> None:
        self.policy, self.output, self.member, self.members, self.count = policy, output, member, members, count
        self.macs = 0
        self.next: Tensor | None = None

    def on(self, memory: State) -> tuple[State, Tensor, Output]:
        """Return what is remembered now, who stops ``[n]``, and what they are told."""
        if not self.count:
            return self._decide(memory)
        with MacCounter() as counter:
            found = self._decide(memory)
        self.macs = counter.macs
        return found

    def _decide(self, memory: State) -> tuple[State, Tensor, Output]:
        output, last = self.output, self.member == self.members - 1
        stop = torch.ones(len(said(output)), dtype=torch.bool)
        assembling = isinstance(self.policy, Assembling)
        if assembling or not last:
            memory, chosen, _ = decide(self.policy, memory, output)
            stop = stop if last else chosen
        if isinstance(self.policy, Routing) and not last:
            self.next = torch.as_tensor(self.policy.route(memory, output))
        if isinstance(self.policy, Assembling):
            answer = self.policy.answer(memory, output)
            output = {**output, ANSWER: answer} if isinstance(output, dict) else answer
        return memory, stop, output

    def ways(self, keep: Tensor) -> list[tuple[int, Tensor]]:
        """Return the next member and the samples that go there, of those ``[m]`` that go on."""
        if not len(keep):
            return []
        if self.next is None:
            return [(self.member + 1, keep)]
        targets = self.next[keep]
        if int(targets.min()) <= self.member or int(targets.max()) >= self.members:
            raise ValueError(
                f"member {self.member} of {self.members} sends samples to {sorted(set(targets.tolist()))}; only later "
                "members can be asked"
            )
        return [(target, keep[targets == target]) for target in sorted(set(targets.tolist()))]


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
        cost = float(self.spent(course).mean())
        return OperatingPoint(
            knob=knob,
            quality=score(self.read(told), self.targets),
            cost=cost,
            speed_up=float(self.full_costs.mean()) / cost,
            exits=(torch.bincount(course.exits, minlength=len(self.costs)) / len(course.exits)).tolist(),
        )
