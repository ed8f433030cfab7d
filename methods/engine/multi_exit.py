"""A backbone in stages, with an exit head after each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eelit.methods.policies.base import ANSWER, Array, Output, said

UNSAID = {"bfloat16": 0x7FED, "float16": 0x7F68, "float32": 0x7FED_0000, "float64": 0x7FFD_A000_0000_0000}
"""The bits, by precision, of the NaN that stands where an exit says nothing, and that a wider precision makes of them.

So it can be told from one that an exit has said, wherever outputs were stored, and though that was of all samples.
"""


class MultiExit(nn.Module):
    """Stages and heads: ``heads[i]`` reads the state after ``stages[i]``.

    The first stage takes the input; each stage maps a state to the next. A state is a tensor, or any nesting of tuples,
    lists and dictionaries of tensors, whose first axis is the sample. Heads return logits ``[N, C]``, or values ``[N]``
    for regression; a head that says more returns a dictionary, with these under "answer". The last head is the full
    model's, and may say no more than its answer, since no policy asks it; one before it that says less than others is
    read as it is.
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

    What one of them says and another does not, as the last exit may, is NaN there, and known to be (see `UNSAID`).
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
    """Return a part of an output, or the NaN of `UNSAID` for each of its samples (so whole numbers become floating)."""
    if name in output:
        return output[name]
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    shape, bits = (len(said(output)), *like.shape[1:]), UNSAID.get(str(dtype).removeprefix("torch."))
    if bits is None:
        return like.new_full(shape, torch.nan, dtype=dtype)
    return like.new_full(shape, bits, dtype=getattr(torch, f"int{8 * dtype.itemsize}")).view(dtype)


def _is_unsaid(part: Array) -> bool:
    """Whether a part of `stacked` outputs is what no exit has said: computed NaN have other bits."""
    if 0 in part.shape or not (part != part).all():
        return False
    bits = UNSAID.get(str(part.dtype).removeprefix("torch."))
    numbers = getattr(torch if isinstance(part, Tensor) else np, f"int{8 * part.dtype.itemsize}")
    return bits is None or bool((part.view(numbers) == bits).all())


def at_exit(outputs: Output, i: int) -> Output:
    """Return what exit ``i`` (from 0) says, of `stacked` outputs."""
    return {name: part[i] for name, part in outputs.items()} if isinstance(outputs, Mapping) else outputs[i]


def said_at(outputs: Output, i: int) -> Output:
    """Return what exit ``i`` says, of `stacked` outputs, without what it does not say."""
    found = at_exit(outputs, i)
    if not isinstance(found, Mapping):
        return found
    return {name: part for name, part in found.items() if name == ANSWER or not _is_unsaid(part)}


def to_policy(output: Output) -> Output:
    """Return what an exit says as a policy is shown it: the answer by itself if it has said nothing else.

    So a policy is shown the same of stored outputs, which hold all names that any exit uses, as of a head itself.
    """
    return output[ANSWER] if isinstance(output, Mapping) and [*output] == [ANSWER] else output


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


NUMBERS = (int, float, complex, str, bytes, np.generic)
"""Types of values of which a list might hold one for each sample."""
SHARED = (
    *(*NUMBERS, type(None), Enum, slice),
    *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format),
)
"""Types of what a state may carry along for all samples alike, beside tensors."""


def select(state: Any, keep: Tensor, samples: int | None = None) -> Any:
    """Keep the samples numbered in ``keep`` (int64 ``[m]``) in every tensor of a state.

    A tensor whose first axis is 1, such as an attention mask ``[1, 1, 1, T]``, is shared by all samples and stays as it
    is; so do a tensor without axes, and numbers, texts and None. (It may also be that of a sole sample, who stays.) A
    mask that differs is ``[N, 1, 1, T]``, the sample first. Raises `ValueError` as `parts_of` does.
    """
    if isinstance(state, Tensor):  # as most are
        if samples is not None and state.dim():
            _check_axes(state, samples, [state])
        return _selected(state, keep)
    parts, structure = parts_of(state, samples)
    return pytree.tree_unflatten([_selected(part, keep) for part in parts], structure)


def _selected(part: Any, keep: Tensor) -> Any:
    if not isinstance(part, Tensor) or not part.dim() or (len(part) == 1 and len(keep)):
        return part
    return _rows(part, keep.to(part.device))


def parts_of(state: Any, samples: int | None = None) -> tuple[list[Any], Any]:
    """Return the parts of a state, and how they are nested.

    Raises `ValueError` for whatever it cannot be told of what in it belongs to which sample: a list of numbers or
    texts, which might be one for each (a tuple is shared by all); anything else that is no tensor, such as a dataclass;
    and, if it is known of how many ``samples`` the state is, a tensor of another length, or ``[1, N, d]``, as a
    recurrent network has its state. One that all share, as positions ``[1, T, d]`` are, may be as long as there are
    samples if the samples' own tensors have that length somewhere, too; another one is given as ``[1, 1, T, d]``.
    """
    parts, structure = pytree.tree_flatten(state, is_leaf=_is_list_of_numbers)
    for part in parts:
        if isinstance(part, Tensor):
            if samples is not None and part.dim():
                _check_axes(part, samples, parts)
        elif _is_list_of_numbers(part):
            raise ValueError(
                f"a state holds a list of {len(part)} numbers or texts, and it cannot be told whether each is that of "
                "a sample; make it a tensor whose first axis is the sample, or a tuple if all samples share it"
            )
        elif not isinstance(part, SHARED):
            raise ValueError(
                f"a state holds a {type(part).__qualname__}, and samples cannot be taken out of that; use tuples, "
                "lists and dictionaries of tensors, or register the class with torch.utils._pytree"
            )
    return parts, structure


def _is_list_of_numbers(part: Any) -> bool:
    return (
        isinstance(part, list | deque)
        and bool(part)
        and all(isinstance(each, NUMBERS) or (isinstance(each, Tensor) and not each.dim()) for each in part)
    )


def _check_axes(part: Tensor, samples: int, beside: list[Any]) -> None:
    if len(part) not in (1, samples):
        raise ValueError(
            f"a state of {samples} samples holds a tensor {list(part.shape)}; the first axis must be the sample, or 1 "
            "for what all share"
        )
    if len(part) == 1 < samples and part.dim() == 3 and len(part[0]) == samples:
        own = (each.shape for each in beside if isinstance(each, Tensor) and each.shape[:1] == (samples,))
        if not any(samples in shape[1:] for shape in own):
            raise ValueError(
                f"a state of {samples} samples holds a tensor {list(part.shape)}, and it cannot be told whether its "
                "second axis is the sample; bring the sample to the first axis, or, if all samples share it, give it "
                "one more axis of 1 in front"
            )


def _rows(x: Tensor, keep: Tensor) -> Tensor:
    """Return some rows of a tensor that lie in memory as they did: `index_select` alone puts channels first."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).index_select(0, keep).permute(0, 3, 1, 2)
    return x.index_select(0, keep)


def _learning(model: nn.Module) -> list[nn.Module]:
    """Return all parts in training mode, faster than by `Module.modules`; one in two places stands there twice."""
    found: list[nn.Module] = []
    queue: list[nn.Module | None] = [model]
    for part in queue:  # which grows meanwhile
        if part is None:
            continue
        own = part.__dict__
        if own["training"]:
            found.append(part)
        if own["_modules"]:
            queue.extend(own["_modules"].values())
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
