"""How samples go from one exit, or one member of a cascade, to the next: what a policy decides, and who is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from eelit.methods.engine.costs import decisions_counted
from eelit.methods.engine.multi_exit import joined, select, to_policy
from eelit.methods.policies.base import ANSWER, Array, Assembling, Output, Policy, Routing, State, finite, said


def decide(policy: Policy, state: State, output: Output, sound: Array | None = None) -> tuple[State, Array, Array]:
    """Ask a policy about one exit's output; return its state, who stops ``[n]``, and whose answer is finite ``[n]``.

    Nobody stops by an answer that is not finite (see `policies.base.finite`), whatever the policy says; for what else
    it reads the policy itself sees to that. Where words stop, ``sound [n, W]`` tells of which the answer is finite.
    Raises `ValueError` if the policy says anything but one boolean per sample, or word.
    """
    state, stop = policy.step(state, to_policy(output))
    sound = finite(said(output)) if sound is None else sound
    if getattr(stop, "shape", None) != sound.shape or stop.dtype != sound.dtype:
        told = f"{stop.dtype} {list(stop.shape)}" if hasattr(stop, "shape") else type(stop).__name__
        each, home, other = "word" if sound.ndim > 1 else "sample", _library_of(sound), _library_of(stop)
        where = (
            f" of {other}: it is shown {home}, and answers with {home}" if {home, other} == {"numpy", "torch"} else ""
        )
        raise ValueError(
            f"{type(policy).__name__} must say of each {each} whether it stops, bool {list(sound.shape)}, not {told}"
            f"{where}"
        )
    return state, stop & sound, sound


def _library_of(array: Array) -> str:
    return type(array).__module__.partition(".")[0]


def onward(targets: Tensor, here: int, count: int) -> Tensor:
    """Return which exits or members ``[m]`` are to be asked next. Raises `ValueError` for those that are not later."""
    if len(targets) and (int(targets.min()) <= here or int(targets.max()) >= count):
        raise ValueError(
            f"number {here} of {count} sends samples to {sorted(set(targets.tolist()))} (from 0); only later exits or "
            "members can be asked"
        )
    return targets


@dataclass(frozen=True)
class Course:
    """How samples went: which exit, or member, answers each ``[N]``, what it says, and which were asked ``[M, N]``."""

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
    """Send samples from member to member as the policy says, with ``ask(i, rows [n])`` for what ``i`` says of them.

    Members are the exits of a network, or the models of a cascade. Any exit rule serves; one that is `Routing` also
    says who is asked next. Samples that came by different ways to a member are asked about together, but decided upon
    apart, each with what the policy remembers of its own way.
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
            decision = _Decision(policy, select(output, part), i, members, count)
            memory, stop, own = decision.on(before)
            decisions[group.numpy()] += decision.macs / len(group)
            out, keep = stop.nonzero().flatten(), (~stop).nonzero().flatten()
            if len(out):
                found.append((group[out], select(own, out)))
            for target, there in decision.ways(keep):
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
        with decisions_counted() as counter:
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
            self.next = torch.as_tensor(self.policy.route(memory, to_policy(output)))
        if isinstance(self.policy, Assembling):
            answer = self.policy.answer(memory, to_policy(output))
            output = {**output, ANSWER: answer} if isinstance(output, dict) else answer
        return memory, stop, output

    def ways(self, keep: Tensor) -> list[tuple[int, Tensor]]:
        """Return the next member and the samples that go there, of those ``[m]`` that go on."""
        if not len(keep):
            return []
        if self.next is None:
            return [(self.member + 1, keep)]
        targets = onward(self.next[keep], self.member, self.members)
        return [(target, keep[targets == target]) for target in sorted(set(targets.tolist()))]
