"""Two ways to apply a policy, which must agree: `replay` on stored outputs, and `infer`, which really skips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine.multi_exit import MultiExit, at_exit, at_exits, joined, select
from eelit.methods.policies.base import ANSWER, Assembling, Output, Policy, said


def replay(policy: Policy, outputs: Output) -> NDArray[np.int64]:
    """Return the exit ``[N]`` (from 0) at which each sample stops, from the stored outputs ``[E, N, ...]``.

    Outputs that say more than an answer are a dictionary of such arrays. One forward pass serves any number of
    operating points. The last exit always answers.
    """
    last = len(said(outputs)) - 1
    exits = np.full(said(outputs).shape[1], last, dtype=np.int64)
    state = policy.start()
    for i in range(last):
        state, stop = policy.step(state, at_exit(outputs, i))
        exits[np.asarray(stop, dtype=bool) & (exits == last)] = i
    return exits


def answered(policy: Policy, outputs: Output, exits: NDArray[np.int64]) -> Output:
    """Return what each sample is told ``[N, ...]``, given its exit ``[N]`` and the stored outputs ``[E, N, ...]``.

    That is its exit's output, but for the answer if the policy is one of those that assemble it.
    """
    told = at_exits(outputs, exits)
    if isinstance(policy, Assembling):
        answers, state = said(told).clone(), policy.start()
        for i in range(len(said(outputs))):
            output = at_exit(outputs, i)
            state, _ = policy.step(state, output)
            here = torch.as_tensor(exits == i)
            answers[here] = policy.answer(state, output)[here]
        told = _answering(told, answers)
    return told


def _answering(output: Output, answer: Tensor) -> Output:
    return {**output, ANSWER: answer} if isinstance(output, Mapping) else answer


@dataclass(frozen=True)
class Inference:
    """What `infer` returns: the answering exit ``[N]`` and its output ``[N, ...]``, as the exit gave it."""

    exits: Tensor
    outputs: Output
    macs: NDArray[np.float64]  # [N], what was executed for each sample; empty if no costs were given

    @property
    def answers(self) -> Tensor:
        """The answers ``[N, C]`` (``[N]`` for regression)."""
        found: Tensor = said(self.outputs)
        return found


@torch.inference_mode()
def infer(model: MultiExit, x: Any, policy: Policy, costs: Sequence[float] = ()) -> Inference:
    """Run a batch, dropping each sample as soon as the policy stops it.

    Stages and heads behind a sample's exit are not executed for it, and nothing at all once the batch is empty. What a
    sample gets does not depend on its batch mates. ``costs`` are the MACs of one sample up to each exit (see
    `eelit.methods.engine.costs.exit_costs`, and `decision_costs` for a policy that computes), for inputs of this shape.
    """
    memory, state, rest = policy.start(), x, None
    assembling = policy if isinstance(policy, Assembling) else None
    found: list[tuple[Tensor, int, Output]] = []
    for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
        state = stage(state)
        output = head(state)
        if rest is None:
            rest = torch.arange(len(said(output)), device=said(output).device)
        last = i == model.exits - 1
        if assembling or not last:
            memory, stop = policy.step(memory, output)
        if assembling:
            output = _answering(output, assembling.answer(memory, output))
        if last:
            found.append((rest, i, output))
            break
        if not stop.any():
            continue
        out, keep = stop.nonzero().flatten(), (~stop).nonzero().flatten()
        found.append((rest[out], i, select(output, out)))
        if not len(keep):
            break
        rest, state, memory = rest[keep], select(state, keep), select(memory, keep)
    where = torch.cat([samples for samples, _, _ in found])
    order = torch.argsort(where)
    exits = torch.cat([torch.full_like(samples, i) for samples, i, _ in found])[order]
    spent = np.array(costs, dtype=np.float64)[exits.numpy() if len(costs) else []]
    return Inference(exits, select(joined([output for _, _, output in found]), order), spent)
