"""A backbone in stages, with an exit head after each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eelit.methods.policies.base import ANSWER, Output, said


class MultiExit(nn.Module):
    """Stages and heads: ``heads[i]`` reads the state after ``stages[i]``.

    The first stage takes the input; each stage maps a state to the next. A state is a tensor, or any nesting of tuples,
    lists and dictionaries of tensors, whose first axis is the sample. Heads return logits ``[N, C]``, or values ``[N]``
    for regression; a head that says more returns a dictionary, with these under "answer". The last head is the full
    model's, and may say no more than its answer, since no policy asks it.
    """

    def __init__(self, stages: Iterable[nn.Module], heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        if len(self.stages) != len(self.heads):
            raise ValueError(f"{len(self.stages)} stages need as many heads, not {len(self.heads)}")

    @property
    def exits(self) -> int:
        """Number of exits, the last one included."""
        return len(self.stages)

    def forward(self, x: Any) -> Any:
        """Return the output of every exit, `stacked`: ``[E, N, C]``, or ``[E, N]`` for regression."""
        return stacked([head(state) for head, state in zip(self.heads, self.states(x), strict=True)])

    def states(self, x: Any) -> Iterable[Any]:
        """Yield the state after each stage; a stage is run only when its state is asked for."""
        state = x
        for stage in self.stages:
            state = stage(state)
            yield state

    def full(self, x: Any) -> Tensor:
        """Return the answer of the plain network: all stages, the last head, no other head."""
        state = x
        for stage in self.stages:
            state = stage(state)
        answer: Tensor = said(self.heads[-1](state))
        return answer

    def plain_network(self) -> Plain:
        """Return the plain network, weights shared: what is left when exits are taken away."""
        return Plain(self.stages, self.heads[-1])


class Plain(nn.Module):
    """A network without exits: all its parts, then the last head.

    How many exits there are and where, the names of its weights do not tell: stages that are mere sequences are taken
    apart. So it is trained, and kept, once for all of them.
    """

    def __init__(self, stages: Iterable[nn.Module], head: nn.Module) -> None:
        super().__init__()
        parts = (part for stage in stages for part in (stage if type(stage) is nn.Sequential else [stage]))
        self.parts, self.head = nn.ModuleList(parts), head

    def forward(self, x: Any) -> Tensor:
        """Return the answer, ``[N, C]`` or ``[N]``."""
        for part in self.parts:
            x = part(x)
        answer: Tensor = said(self.head(x))
        return answer


def stacked(outputs: Sequence[Output]) -> Output:
    """Return what several exits say of the same samples as one output with the exit as first axis, ``[E, n, ...]``.

    What one of them says and another does not, as the last exit may, is NaN there.
    """
    return _joined(outputs, torch.stack)


def joined(outputs: Sequence[Output]) -> Output:
    """Return what is said of several groups of samples as one output, ``[n, ...]``; NaN as in `stacked`."""
    return _joined(outputs, torch.cat)


def _joined(outputs: Sequence[Output], join: Any) -> Output:
    if not any(isinstance(output, Mapping) for output in outputs):
        return join(list(outputs))
    every = [output if isinstance(output, Mapping) else {ANSWER: output} for output in outputs]
    like = {name: tensor for output in reversed(every) for name, tensor in output.items()}
    return {name: join([_part(output, name, like[name]) for output in every]) for name in like}


def _part(output: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """Return a part of an output, or NaN for each of its samples (so whole numbers become floating)."""
    if name in output:
        return output[name]
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return like.new_full((len(said(output)), *like.shape[1:]), torch.nan, dtype=dtype)


def at_exit(outputs: Output, i: int) -> Output:
    """Return what exit ``i`` (from 0) says, of `stacked` outputs."""
    return {name: part[i] for name, part in outputs.items()} if isinstance(outputs, Mapping) else outputs[i]


def said_at(outputs: Output, i: int) -> Output:
    """Return what exit ``i`` says, of `stacked` outputs, without what it does not say: NaN for every sample."""
    found = at_exit(outputs, i)
    if not isinstance(found, Mapping):
        return found
    return {name: part for name, part in found.items() if name == ANSWER or not (part != part).all()}


def of_samples(outputs: Output, which: slice | Tensor) -> Output:
    """Return what all exits say on some of the samples, of `stacked` outputs."""
    if isinstance(outputs, Mapping):
        return {name: part[:, which] for name, part in outputs.items()}
    return outputs[:, which]


def at_exits(outputs: Output, exits: Any) -> Output:
    """Return what each sample ``[N]`` is told by its exit ``[N]``, of `stacked` torch outputs."""
    index = torch.as_tensor(exits)
    if index.shape != said(outputs).shape[1:2]:
        raise ValueError(f"each of {said(outputs).shape[1]} samples has one exit, not {list(index.shape)}")
    rows = torch.arange(len(index))
    if isinstance(outputs, Mapping):
        return {name: part[index, rows] for name, part in outputs.items()}
    return outputs[index, rows]


SHARED = (
    *(type(None), int, float, complex, str, bytes, Enum, np.generic, slice),
    *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format),
)
"""Types of what a state may carry along for all samples alike, beside tensors."""


def select(state: Any, keep: Tensor, samples: int | None = None) -> Any:
    """Keep the samples numbered in ``keep`` (int64 ``[m]``) in every tensor of a state.

    A tensor whose first axis is 1, such as an attention mask ``[1, 1, 1, T]``, is shared by all samples and stays as it
    is; so do a tensor without axes, and numbers, texts and None. (It may also be that of a sole sample, who stays.) A
    mask that differs is ``[N, 1, 1, T]``, the sample first. Raises `ValueError` for a tensor of another length, if it
    is known of how many ``samples`` the state is, and for anything of which it cannot be told what in it belongs to
    which sample, such as a dataclass.
    """
    return pytree.tree_map(lambda part: _selected(part, keep, samples), state)


def _selected(part: Any, keep: Tensor, samples: int | None) -> Any:
    if isinstance(part, Tensor):
        if not part.dim() or (len(part) == 1 and len(keep)):
            return part
        if samples is not None and len(part) != samples:
            raise ValueError(
                f"a state of {samples} samples holds a tensor {list(part.shape)}; the first axis must be the sample, "
                "or 1 for what all share"
            )
        return _rows(part, keep.to(part.device))
    if isinstance(part, SHARED):
        return part
    raise ValueError(
        f"a state holds a {type(part).__qualname__}, and samples cannot be taken out of that; use tuples, lists and "
        "dictionaries of tensors, or register the class with torch.utils._pytree"
    )


def _rows(x: Tensor, keep: Tensor) -> Tensor:
    """Return some rows of a tensor that lie in memory as they did: `index_select` alone puts channels first."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).index_select(0, keep).permute(0, 3, 1, 2)
    return x.index_select(0, keep)


def _learning(model: nn.Module) -> list[nn.Module]:
    """Return all parts in training mode, faster than by `Module.modules`; one in two places stands there twice."""
    found, queue = [], [model]
    while queue:
        part = queue.pop()
        if part.training:
            found.append(part)
        queue += [inner for inner in part._modules.values() if inner is not None]
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have all parts of a network in evaluation mode inside; each has its own mode back afterwards, come what may.

    So dropout drops nothing, and batch normalisation neither looks at the batch nor counts it.
    """
    learning = _learning(model)
    for part in learning:
        part.training = False
    try:
        yield
    finally:
        for part in learning:
            part.training = True


def device_of(model: nn.Module) -> torch.device:
    """Return where a network's weights are; the CPU if it has none."""
    weight = next(model.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device
