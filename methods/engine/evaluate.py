"""Two ways to apply a policy, which must agree: `replay` on stored outputs, and `infer`, which really skips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine.multi_exit import MultiExit, select
from eelit.methods.policies.base import Array, Assembling, Policy


def replay(policy: Policy, outputs: Array) -> NDArray[np.int64]:
    """Return the exit ``[N]`` (from 0) at which each sample stops, from the stored outputs ``[E, N, ...]``.

    One forward pass serves any number of operating points. The last exit always answers.
    """
    last = len(outputs) - 1
    exits = np.full(outputs.shape[1], last, dtype=np.int64)
    state = policy.start()
    for i in range(last):
        state, stop = policy.step(state, outputs[i])
        exits[np.asarray(stop, dtype=bool) & (exits == last)] = i
    return exits


def answered(policy: Policy, outputs: Tensor, exits: NDArray[np.int64]) -> Tensor:
    """Return what each sample is answered ``[N, ...]``, given its exit ``[N]`` and the stored outputs ``[E, N, ...]``.

    That is its exit's output, unless the policy is one of those that assemble the answer.
    """
    said = outputs[torch.as_tensor(exits), torch.arange(len(exits))]
    if isinstance(policy, Assembling):
        state = policy.start()
        for i, output in enumerate(outputs):
            state, _ = policy.step(state, output)
            here = torch.as_tensor(exits == i)
            said[here] = policy.answer(state, output)[here]
    return said


@dataclass(frozen=True)
class Inference:
    """What `infer` returns: the answering exit ``[N]`` and its output ``[N, C]`` (``[N]`` for regression)."""

    exits: Tensor
    outputs: Tensor
    macs: NDArray[np.float64]  # [N], what was executed for each sample; empty if no costs were given


@torch.inference_mode()
def infer(model: MultiExit, x: Any, policy: Policy, costs: Sequence[float] = ()) -> Inference:
    """Run a batch, dropping each sample as soon as the policy stops it.

    Stages and heads behind a sample's exit are not executed for it, and nothing at all once the batch is empty. What a
    sample gets does not depend on its batch mates. ``costs`` are the MACs of one sample up to each exit (see
    `eelit.methods.engine.costs.exit_costs`), for inputs of this shape.
    """
    memory, state, rest = policy.start(), x, None
    assembling = policy if isinstance(policy, Assembling) else None
    found: list[tuple[Tensor, int, Tensor]] = []
    for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
        state = stage(state)
        output = head(state)
        if rest is None:
            rest = torch.arange(len(output), device=output.device)
        last = i == model.exits - 1
        if assembling or not last:
            memory, stop = policy.step(memory, output)
        if assembling:
            output = assembling.answer(memory, output)
        if last:
            found.append((rest, i, output))
            break
        if not stop.any():
            continue
        out, keep = stop.nonzero().flatten(), (~stop).nonzero().flatten()
        found.append((rest[out], i, output[out]))
        if not len(keep):
            break
        rest, state, memory = rest[keep], select(state, keep), select(memory, keep)
    where = torch.cat([samples for samples, _, _ in found])
    order = torch.argsort(where)
    exits = torch.cat([torch.full_like(samples, i) for samples, i, _ in found])
    exits = exits[order]
    spent = np.array(costs, dtype=np.float64)[exits.numpy() if len(costs) else []]
    return Inference(exits, torch.cat([output for _, _, output in found])[order], spent)
