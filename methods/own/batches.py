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


NO_BATCH = "the loader yields no batch"
BY_NAME = "if it is an input, such as a mask, name inputs by a dictionary"


def inputs_of(batch: Any, *, tokens: bool = False) -> Inputs:
    """Return the inputs of a batch, without labels. Raises `ValueError` for what is no batch."""
    return parted(batch, tokens=tokens)[0]


def parted(batch: Any, *, tokens: bool = False) -> tuple[Inputs, Tensor | None]:
    """Return the inputs and the labels of a batch: a tensor, a pair, or a dictionary with or without ``labels``.

    The second of a pair is one label for each sample; with ``tokens`` it may be one for each token. Raises `ValueError`
    for what is no batch, and for a pair whose second part may be an input.
    """
    labels, pair = None, False
    if isinstance(batch, tuple | list):
        if len(batch) not in (1, 2):
            raise ValueError(f"a batch is inputs, or inputs and labels, not {len(batch)} things; {BY_NAME}")
        pair = len(batch) == 2 and batch[1] is not None
        batch, labels = batch[0], batch[1] if pair else None
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
    told = None if labels is None else torch.as_tensor(labels)
    if pair and told is not None:
        _labels_indeed(batch, told, tokens)
    return batch, told


def _labels_indeed(inputs: Inputs, labels: Tensor, tokens: bool) -> None:
    """Refuse the second part of a pair if it is not labels for sure: a mask would be left aside without a word."""
    n, shape = samples_of(inputs), list(labels.shape)
    ids = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
    alike = labels.shape == ids.shape and ids.dim() > 1 and not ids.is_floating_point()
    if tokens and alike:
        if bool(((labels == 0) | (labels == 1)).all()):
            raise ValueError(f"the second part of a batch, {shape}, holds 0 and 1 alone, as a mask does; {BY_NAME}")
        return
    if labels.numel() != n or alike:
        raise ValueError(
            f"each sample has one label, but the second part of a batch of {n} samples is {shape}; {BY_NAME}"
        )


def sound(inputs: Inputs) -> Inputs:
    """Return inputs that can be trained on. Raises `ValueError` for NaN, and where one tensor is all, infinities.

    Of several inputs one may be a mask that is added, in which infinity has a meaning.
    """
    for name, part in inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]:
        bad = part.isnan() if name else ~part.isfinite()
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0]) if part.dim() else 0
            raise ValueError(f"{f'`{name}`' if name else 'what'} a batch holds of sample {row} is not finite")
    return inputs


def on(device: torch.device, inputs: Inputs) -> Inputs:
    """Return inputs on a device."""
    found: Inputs = pytree.tree_map_only(Tensor, lambda part: part.to(device), inputs)
    return found


def samples_of(inputs: Inputs) -> int:
    """Return how many samples inputs are of."""
    return max(len(part) for part in (inputs.values() if isinstance(inputs, Mapping) else [inputs]) if part.dim())


def _length(loader: Iterable[Any]) -> int | None:
    """Return how many batches a loader says it has, None if it does not know."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:  # a DataLoader of data that have no length
        return None


class Labelled:
    """A loader as `recipes.fit.fit` takes training data: its batches in its own order, as large as it makes them.

    ``classes`` is how many there are, 1 for values. It has slots, so that nothing walks through all of the data to name
    a training that is not kept.
    """

    __slots__ = ("_classes", "_last", "_loader", "_start")

    def __init__(self, loader: Iterable[Any], *, classes: int) -> None:
        if iter(loader) is loader:
            raise ValueError("a loader is passed over several times; this one is an iterator, used up after one pass")
        self._loader, self._classes = loader, classes
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
        """Yield ``(index [n], inputs)``. Without a generator batches are only counted, where a loader says how many.

        Raises `ValueError` if there is none, and for labels and inputs that cannot be trained on.
        """
        if shuffle is None and (told := _length(self._loader)) is not None:
            if not told:
                raise ValueError(NO_BATCH)
            yield from ((torch.empty(0), None) for _ in range(told))
            return
        start, some = 0, False
        for batch in self._loader:
            inputs, labels = parted(batch)
            self._last, self._start, some = self._labels(labels, samples_of(inputs)), start, True
            yield torch.arange(start, start + len(self._last)), sound(inputs)
            start += len(self._last)
        if not some:
            raise ValueError(NO_BATCH)

    def _labels(self, given: Tensor | None, samples: int) -> Tensor:
        """Return labels ``[n]`` as they are trained on. Raises `ValueError` in the words in which `Logits` refuses."""
        if given is None or not samples or len(given.reshape(-1)) < samples:
            there = "none" if given is None else given.numel()
            raise ValueError(f"each of {samples} samples of a batch needs a label to train on, but there are {there}")
        if given.numel() != samples:
            raise ValueError(f"each sample has one label to train on, not several, as {list(given.shape)} says")
        labels = given.reshape(samples)
        if self._classes == 1:
            wrong, what = ~labels.isfinite(), "values are finite numbers"
        else:
            wrong = (labels < 0) | (labels >= self._classes) | (labels != labels.long())
            what = f"classes are whole numbers from 0 to {self._classes - 1}"
        if bool(wrong.any()):
            i = int(wrong.nonzero()[0, 0])
            raise ValueError(f"label {i} of a batch is {labels[i].item():g}, but {what}")
        return labels.float() if self._classes == 1 else labels.long()
