"""What a loader of your own yields: tensors, pairs with labels, dictionaries with masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Inputs = Tensor | Mapping[str, Tensor]
"""A batch as the network takes it: one tensor, or the network's arguments by name; the first axis is the sample."""
LABELS = ("labels", "label")


def inputs_of(batch: Any) -> Inputs:
    """Return the inputs of a batch, without labels. Raises `ValueError` for what is no batch."""
    return parted(batch)[0]


def parted(batch: Any) -> tuple[Inputs, Tensor | None]:
    """Return the inputs and the labels of a batch: a tensor, a pair, or a dictionary with or without ``labels``."""
    labels = None
    if isinstance(batch, tuple | list):
        if len(batch) not in (1, 2):
            raise ValueError(f"a batch is inputs, or inputs and labels, not {len(batch)} things")
        batch, labels = batch[0], batch[1] if len(batch) == 2 else None
    if isinstance(batch, Mapping):
        named = dict(batch)
        for name in LABELS:
            found = named.pop(name, None)
            labels = found if labels is None else labels
        wrong = [name for name, part in named.items() if not isinstance(part, Tensor)]
        if wrong or not named:
            raise ValueError(f"a batch names tensors, but {', '.join(wrong) or 'nothing'} is named otherwise")
        batch = named
    elif not isinstance(batch, Tensor):
        raise ValueError(f"a batch is a tensor, a pair or a dictionary of tensors, not a {type(batch).__name__}")
    return batch, None if labels is None else torch.as_tensor(labels)


def on(device: torch.device, inputs: Inputs) -> Inputs:
    """Return inputs on a device."""
    found: Inputs = pytree.tree_map_only(Tensor, lambda part: part.to(device), inputs)
    return found


def samples_of(inputs: Inputs) -> int:
    """Return how many samples inputs are of."""
    return max(len(part) for part in (inputs.values() if isinstance(inputs, Mapping) else [inputs]) if part.dim())


class Labelled:
    """A loader as `recipes.fit.fit` takes training data: its batches in its own order, as large as it makes them.

    It has slots, so that nothing walks through all of the data to name a training that is not kept.
    """

    __slots__ = ("_last", "_loader", "_start", "_values")

    def __init__(self, loader: Iterable[Any], *, values: bool) -> None:
        if iter(loader) is loader:
            raise ValueError("a loader is passed over several times; this one is an iterator, used up after one pass")
        self._loader, self._values = loader, values
        self._last, self._start = torch.empty(0), 0

    def __len__(self) -> int:
        return sum(1 for _ in self.batches(0))

    @property
    def targets(self) -> Labelled:
        """The labels; only those of the latest batch can be asked for."""
        return self

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return the labels of the latest batch."""
        if len(index) != len(self._last) or int(index[0]) != self._start:
            raise IndexError("only the labels of the latest batch of a loader are known")
        return self._last

    def batches(self, size: int, shuffle: torch.Generator | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Yield ``(index [n], inputs)``. Without a generator batches are only counted, where a loader says how many."""
        if shuffle is None and isinstance(self._loader, Sized):
            yield from ((torch.empty(0), None) for _ in range(len(self._loader)))
            return
        start = 0
        for batch in self._loader:
            inputs, labels = parted(batch)
            if labels is None or len(labels) != samples_of(inputs):
                raise ValueError(
                    f"each of {samples_of(inputs)} samples of a batch needs a label to train on, but there are "
                    f"{'none' if labels is None else len(labels)}"
                )
            if labels.numel() != len(labels):
                raise ValueError(f"each sample has one label to train on, not several, as {list(labels.shape)} says")
            labels = labels.reshape(len(labels))
            self._last, self._start = (labels.float() if self._values else labels.long()), start
            yield torch.arange(start, start + len(labels)), inputs
            start += len(labels)
