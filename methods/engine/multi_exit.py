"""A backbone in stages, with an exit head after each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class MultiExit(nn.Module):
    """Stages and heads: ``heads[i]`` reads the state after ``stages[i]``.

    The first stage takes the input; each stage maps a state to the next. A state is a tensor, or any nesting of tuples,
    lists and dictionaries of tensors, whose first axis is the sample. Heads return logits ``[N, C]``, or values ``[N]``
    for regression. The last head is the full model's.
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

    def forward(self, x: Any) -> Tensor:
        """Return the output of every exit: ``[E, N, C]``, or ``[E, N]`` for regression."""
        return torch.stack([head(state) for head, state in zip(self.heads, self.states(x), strict=True)])

    def states(self, x: Any) -> Iterable[Any]:
        """Yield the state after each stage; a stage is run only when its state is asked for."""
        state = x
        for stage in self.stages:
            state = stage(state)
            yield state

    def full(self, x: Any) -> Tensor:
        """Return the output of the plain network: all stages, the last head, no other head."""
        state = x
        for stage in self.stages:
            state = stage(state)
        return self.heads[-1](state)


def select(state: Any, keep: Tensor) -> Any:
    """Keep the samples numbered in ``keep`` (int64 ``[m]``) in every tensor of a state.

    A tensor whose first axis is 1, such as an attention mask ``[1, 1, 1, T]``, is shared by all samples and stays as it
    is. (It may also be that of a sole sample, who stays.) A mask that differs is ``[N, 1, 1, T]``, the sample first.
    """
    return pytree.tree_map_only(Tensor, lambda t: t if len(t) == 1 and len(keep) else t.index_select(0, keep), state)
