"""Two ways to apply a policy, which must agree: `replay` on stored outputs, and `infer`, which really skips.

>>> from eelit.methods.policies.max_confidence import MaxConfidence
>>> _ = torch.manual_seed(0)
>>> model = MultiExit([nn.Linear(4, 4) for _ in range(3)], [nn.Linear(4, 2) for _ in range(3)]).eval()
>>> x = torch.randn(6, 4)
>>> stored = model(x).detach()  # what every exit says, [E, N, C]
>>> exits = replay(MaxConfidence(0.6), stored)
>>> found = infer(model, x, MaxConfidence(0.6), costs=[24, 48, 72])
>>> found.exits.tolist() == exits.tolist(), found.macs.tolist() == [24 * (i + 1) for i in exits.tolist()]
(True, True)
>>> bool(torch.allclose(found.answers, stored[exits, torch.arange(6)]))
True
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eelit.methods.engine.multi_exit import MultiExit, at_exits, evaluating, joined, said_at, select, to_policy
from eelit.methods.engine.routing import Course, decide, follow, onward
from eelit.methods.policies.base import ANSWER, Array, Assembling, Output, Policy, Routing, State, finite, quiet, said


def replay(policy: Policy, outputs: Output, *, exits: int | None = None) -> NDArray[np.int64]:
    """Return the exit ``[N]`` (from 0) at which each sample stops, from the stored outputs ``[E, N, ...]``.

    Outputs that say more than an answer are a dictionary of such arrays. One forward pass serves any number of
    operating points. The last exit always answers; whose answer is not finite goes on (see `not_finite`). Raises
    `ValueError` if the outputs have not this layout, or not so many ``exits`` as the model is known to have.
    """
    count, samples = _sizes(outputs, exits)
    if isinstance(policy, Routing):
        return followed(policy, outputs).exits.numpy()
    found = np.full(samples, count - 1, dtype=np.int64)
    state, sound = policy.start(), _all_sound(said(outputs))
    for i in range(count - 1):
        state, stop, _ = decide(policy, state, said_at(outputs, i), sound)
        found[_host(stop) & (found == count - 1)] = i
    return found


def followed(policy: Policy, outputs: Output) -> Course:
    """Return the course of each sample through the exits from the stored outputs ``[E, N, ...]``, decisions counted.

    Under a `Routing` policy that is what `replay` gives, and which exits are asked on the way.
    """
    count, samples = _sizes(outputs)
    held = pytree.tree_map(torch.as_tensor, outputs)
    return follow(policy, lambda i, rows: select(said_at(held, i), rows), count, samples, count=True)


def not_finite(outputs: Output, exits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of the samples of which an exit, up to their own ``[N]``, says what is not finite."""
    count, samples = _sizes(outputs)
    found = np.zeros(samples, dtype=bool)
    for i in range(count):
        found |= ~_host(finite(said_at(outputs, i))) & (exits >= i)
    return np.flatnonzero(found)


def _sizes(outputs: Output, exits: int | None = None) -> tuple[int, int]:
    """Return the numbers of exits and of samples."""
    parts = outputs if isinstance(outputs, Mapping) else {ANSWER: outputs}
    for name, part in parts.items():
        real = (
            not part.is_complex()
            if isinstance(part, Tensor)
            else getattr(part, "dtype", np.dtype(object)).kind in "biuf"
        )
        if not real:
            raise ValueError(f"outputs are arrays or tensors of numbers, but {name} is a {type(part).__qualname__}")
    sizes = {tuple(part.shape[:2]) for part in parts.values()}
    if len(sizes) != 1 or any(len(size) < 2 or not size[0] for size in sizes):
        shapes = ", ".join(f"{name} {list(part.shape)}" for name, part in parts.items())
        raise ValueError(f"outputs are [exits, samples, ...] in all their parts, not {shapes}")
    ((count, samples),) = sizes
    if exits is not None and count != exits:
        raise ValueError(f"outputs are [exits, samples, ...]: {exits} exits, not {count} (is the sample first?)")
    return count, samples


@quiet
def _all_sound(answers: Array) -> Array | None:
    """Return that all samples are finite, ``[N]``, if one look at all exits but the last tells so; None if not."""
    if not math.isfinite(answers[:-1].sum().item()):
        return None
    samples = answers.shape[1]
    return answers.new_ones(samples, dtype=torch.bool) if isinstance(answers, Tensor) else np.ones(samples, dtype=bool)


def _host(flags: Array) -> NDArray[np.bool_]:
    return np.asarray(flags.cpu() if isinstance(flags, Tensor) else flags)


def answered(policy: Policy, outputs: Output, exits: NDArray[np.int64]) -> Output:
    """Return what each sample is told ``[N, ...]``, given its exit ``[N]`` and the stored outputs ``[E, N, ...]``.

    That is its exit's output, but for the answer if the policy is one of those that assemble it. Such an answer has
    the precision of the policy, as in `infer`: float32 at least, also from outputs in half precision.
    """
    _sizes(outputs)
    told = at_exits(outputs, exits)
    if isinstance(policy, Assembling):
        answers, state = said(told).clone(), policy.start()
        for i in range(len(said(outputs))):
            output = to_policy(said_at(outputs, i))
            state, _ = policy.step(state, output)
            here, assembled = torch.as_tensor(exits == i), policy.answer(state, output)
            answers = answers.to(assembled.dtype)
            answers[here] = assembled[here]
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
    not_finite: Tensor  # [m], numbers of the samples of which an exit said something that is not finite

    @property
    def answers(self) -> Tensor:
        """The answers ``[N, C]`` (``[N]`` for regression)."""
        found: Tensor = said(self.outputs)
        return found


@torch.inference_mode()
def infer(model: MultiExit, x: Any, policy: Policy, costs: Sequence[float] = ()) -> Inference:
    """Run a batch, dropping each sample as soon as the policy stops it.

    Stages and heads behind a sample's exit are not executed for it, and nothing at all once the batch is empty; nor are
    heads that a `Routing` policy passes over. What a sample gets does not depend on its batch mates: the network is in
    evaluation mode for the call, and each part of it has its own mode back afterwards. ``costs`` are the MACs of one
    sample up to each exit (see `eelit.methods.engine.costs.exit_costs`, and `decision_costs` for a policy that
    computes), for inputs of this shape; a `Routing` policy has no such table (see `StoredOutputs.paid`).
    Raises `ValueError` if costs, outputs, states or the policy's decisions have not one entry for each exit or sample.
    """
    if len(costs) not in (0, model.exits):
        raise ValueError(f"{model.exits} exits need as many costs, not {len(costs)}")
    routing = cast("Routing", policy) if _is(type(policy), Routing) else None
    if len(costs) and routing:
        raise ValueError("costs up to each exit say nothing of a policy that passes exits over; see `paid`")
    with evaluating(model):
        found, seen = _run_routed(model, x, routing) if routing else _run(model, x, policy)
    exits = torch.cat([torch.full_like(samples, i) for samples, i, _ in found])
    outputs = joined([output for _, _, output in found]) if len(found) > 1 else found[0][2]
    if len(found) > 1:  # who left at one exit is in order already
        order = torch.argsort(torch.cat([samples for samples, _, _ in found]))
        exits, outputs = exits[order], select(outputs, order)
    spent = np.array(costs, dtype=np.float64)[exits.cpu().numpy() if len(costs) else []]
    return Inference(exits, outputs, spent, _numbers(len(exits), seen))


@cache
def _is(kind: type, protocol: type) -> bool:
    """Whether policies of a type keep a protocol; to look takes ten microseconds each time."""
    return issubclass(kind, protocol)


def _sound(said_there: list[tuple[Tensor, Output]]) -> list[tuple[Tensor, Tensor]]:
    """Return for samples and what exits said of them whether that is finite, in one look if it is of one kind."""
    samples, outputs = zip(*said_there, strict=True)
    if all(isinstance(output, Tensor) and output.shape[1:] == outputs[0].shape[1:] for output in outputs):
        return [(torch.cat(samples), finite(torch.cat(outputs)))]
    return [(rows, finite(output)) for rows, output in said_there]


def _run(
    model: MultiExit, x: Any, policy: Policy
) -> tuple[list[tuple[Tensor, int, Output]], list[tuple[Tensor, Tensor]]]:
    """Return who left where with which output, and of all who met an exit whether its output was finite."""
    memory, state, rest = policy.start(), x, None
    assembling = cast("Assembling", policy) if _is(type(policy), Assembling) else None
    found, seen, sound = [], [], None
    for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
        state = stage(state)
        output = _heard(head, state, i)
        if rest is None:
            rest = torch.arange(_samples(x, output), device=said(output).device)
        _one_each(output, len(rest), i)
        last = i == model.exits - 1
        seen.append((rest, output))
        if assembling or not last:
            if sound is None or len(sound) != len(rest):
                sound = said(output).new_ones((len(rest),), dtype=torch.bool)
            memory, stop = policy.step(memory, to_policy(output))
            if getattr(stop, "shape", None) != sound.shape or stop.dtype != sound.dtype:
                decide(policy, memory, output, sound)
        going = last or not stop.any()
        if not going:  # of those who stop alone it has to be known that they may
            stop = stop & finite(said(output))
        if assembling:
            output = _answering(output, assembling.answer(memory, to_policy(output)))
        if last:
            found.append((rest, i, output))
            break
        out = stop.nonzero().flatten() if not going else rest[:0]
        if not len(out):
            continue
        if len(out) == len(rest):
            found.append((rest, i, output))
            break
        keep = (~stop).nonzero().flatten()
        found.append((rest[out], i, select(output, out)))
        state, memory = select(state, keep, len(rest)), select(memory, keep, len(rest))
        rest = rest[keep]
    return found, _sound(seen)


def _heard(head: nn.Module, state: Any, i: int) -> Output:
    """Return what a head says. Raises `ValueError` if that is no tensor, and no dictionary of tensors."""
    output: Output = head(state)
    for part in output.values() if isinstance(output, Mapping) else [output]:
        if not isinstance(part, Tensor):
            raise ValueError(
                f"exit {i} says a {type(part).__qualname__}; a head returns logits [N, C], values [N], or a dictionary "
                "of tensors"
            )
    return output


def _samples(x: Any, output: Output) -> int:
    """Return how many samples an input is of: its tensors tell, of which some may be shared by all (first axis 1)."""
    sizes = [len(part) for part in pytree.tree_leaves(x) if isinstance(part, Tensor) and part.dim()]
    return max(sizes) if sizes else len(said(output))


def _run_routed(
    model: MultiExit, x: Any, policy: Routing
) -> tuple[list[tuple[Tensor, int, Output]], list[tuple[Tensor, Tensor]]]:
    """The same under a policy that names the next exit: all stages on the way are run, but only the heads asked for."""
    memory, state = policy.start(), x
    found, seen = [], []
    for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
        state = stage(state)
        if i == 0:  # which is asked about all
            output = _heard(head, state, i)
            here = rest = torch.arange(_samples(x, output), device=said(output).device)
            due = torch.zeros_like(rest)
        else:
            here = (due == i).nonzero().flatten()
            if not len(here):
                continue
            output = _heard(head, select(state, here, len(rest)), i)
        _one_each(output, len(here), i)
        if i == model.exits - 1:
            found.append((rest[here], i, output))
            seen.append((rest[here], finite(output)))
            break
        own, stop, sound = decide(policy, select(memory, here), output)
        seen.append((rest[here], finite(output) if isinstance(output, Mapping) else sound))
        out, on, elsewhere = (flags.nonzero().flatten() for flags in (stop, ~stop, due != i))
        found.append((rest[here[out]], i, select(output, out)))
        targets = onward(torch.as_tensor(policy.route(own, to_policy(output)))[on], i, model.exits)
        keep = torch.cat([elsewhere, here[on]])
        if not len(keep):
            break
        memory = select(own, on) if not len(elsewhere) else _both(select(memory, elsewhere), select(own, on))
        due, state, rest = torch.cat([due[elsewhere], targets]), select(state, keep, len(rest)), rest[keep]
    return found, seen


def _both(some: State, others: State) -> State:
    """Return what is remembered of two groups of samples as that of one."""
    return tuple(torch.cat(parts) for parts in zip(some, others, strict=True))


def _one_each(output: Output, samples: int, exit_: int) -> None:
    for part in output.values() if isinstance(output, Mapping) else (output,):
        if not part.dim() or len(part) != samples:
            raise ValueError(f"exit {exit_} says {list(part.shape)} of {samples} samples; the first axis is the sample")


def _numbers(samples: int, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the numbers of the samples that were not finite when they were ``seen``."""
    who, sound = (torch.cat(part) for part in zip(*seen, strict=True))
    if sound.all():
        return who[:0]
    flawed = torch.zeros(samples, dtype=torch.bool, device=who.device)
    flawed[who[~sound]] = True
    return flawed.nonzero().flatten()
