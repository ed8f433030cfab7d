"""A backbone in stages, with an exit head after each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def of_samples(outputs: Output, which: slice | Tensor) -> Output:
    """Return what all exits say on some of the samples, of `stacked` outputs."""
    if isinstance(outputs, Mapping):
        return {name: part[:, which] for name, part in outputs.items()}
    return outputs[:, which]


def at_exits(outputs: Output, exits: Any) -> Output:
    """Return what each sample ``[N]`` is told by its exit ``[N]``, of `stacked` torch outputs."""
    index = torch.as_tensor(exits)
    rows = torch.arange(len(index))
    if isinstance(outputs, Mapping):
        return {name: part[index, rows] for name, part in outputs.items()}
    return outputs[index, rows]


def select(state: Any, keep: Tensor) -> Any:
    """Keep the samples numbered in ``keep`` (int64 ``[m]``) in every tensor of a state.

    A tensor whose first axis is 1, such as an attention mask ``[1, 1, 1, T]``, is shared by all samples and stays as it
    is. (It may also be that of a sole sample, who stays.) A mask that differs is ``[N, 1, 1, T]``, the sample first.
    """
    return pytree.tree_map_only(Tensor, lambda t: t if len(t) == 1 and len(keep) else t.index_select(0, keep), state)
