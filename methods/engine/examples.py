"""Examples: inputs of possibly different length with their targets, and batches that need no padding."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Inputs (one tensor each, without sample axis) and targets ``[N]``.

    Batches hold inputs of one shape only: texts are grouped by their exact length, so that there is no padding, no
    mask, no work on padding, and no influence of batch mates.
    """

    inputs: Sequence[Tensor]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def head(self, n: int | None) -> Examples:
        """Return the first ``n`` examples (all if None)."""
        return self if n is None else Examples(self.inputs[:n], self.targets[:n])

    def batches(
        self, size: int, shuffle: torch.Generator | None = None, *, device: torch.device | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(index [n], inputs [n, ...])`` with at most ``size`` inputs of equal shape.

        Without a generator the order is fixed; with one, samples and batches are shuffled. The inputs, not the index,
        are brought to the device, if one is named.
        """
        for chunk in alike([x.shape for x in self.inputs], size, shuffle):
            found = torch.stack([self.inputs[i] for i in chunk])
            yield torch.tensor(chunk), found if device is None else found.to(device)

    def at(self, index: Tensor) -> Examples:
        """Return the examples numbered in ``index [n]``."""
        return Examples([self.inputs[i] for i in index.tolist()], self.targets[index])

    def filled(self, size: int, most: int) -> Tensor:
        """Return the index ``[n]`` of examples that `batches` of this size take in full batches, at most ``most``.

        Common shapes come first. Where no shape occurs so often there is one batch, of the commonest shape.
        """
        groups: dict[torch.Size, list[int]] = {}
        for i, x in enumerate(self.inputs):
            groups.setdefault(x.shape, []).append(i)
        common = sorted(groups.values(), key=len, reverse=True)
        full = [g[i : i + size] for g in common for i in range(0, len(g) - size + 1, size)] or common[:1]
        return torch.tensor([i for batch in full[: max(1, most // size)] for i in batch])


def alike(kinds: Sequence[Hashable], size: int, shuffle: torch.Generator | None = None) -> list[list[int]]:
    """Return the numbers of all samples in batches of at most ``size`` that are of one kind, given each one's kind.

    Without a generator the order is fixed; with one, samples and batches are shuffled.
    """
    order = range(len(kinds)) if shuffle is None else torch.randperm(len(kinds), generator=shuffle).tolist()
    groups: dict[Hashable, list[int]] = {}
    for i in order:
        groups.setdefault(kinds[i], []).append(i)
    chunks = [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
    return chunks if shuffle is None else [chunks[i] for i in torch.randperm(len(chunks), generator=shuffle).tolist()]


class TestDataAsked(RuntimeError):
    """Something that trains, fits or chooses asked for test data."""

    __test__ = False  # for pytest, which would take it for a test by its name


class _Withheld:
    """Stands where the test examples were, and raises `TestDataAsked` whatever it is asked."""

    def __getattr__(self, name: str) -> NoReturn:
        raise TestDataAsked(f"test data are for reporting only: whatever trains, fits or chooses must not see {name!r}")

    def __len__(self) -> int:
        raise TestDataAsked("test data are for reporting only: whatever trains, fits or chooses must not count them")


def withheld() -> Any:
    """Return what stands where test data of any kind were, and raises `TestDataAsked` whatever it is asked."""
    return _Withheld()


@dataclass(frozen=True)
class Data:
    """Train, validation and test examples. Knobs are chosen on validation alone; test is looked at once."""

    train: Examples
    validation: Examples
    test: Examples
    classes: int | None  # None for regression
    digest: str  # identifies contents and split
    more: Mapping[str, Examples] = field(default_factory=dict)  # further parts that a paper asks for, by name

    def without_test(self) -> Data:
        """Return the same data with the test examples out of reach: what training and choosing may see."""
        return replace(self, test=withheld())

    def part(self, name: str) -> Examples:
        """Return ``train``, ``validation``, ``test``, or one of the further parts.

        Raises `TestDataAsked` for ``test`` where it is out of reach.
        """
        if name == "test" and isinstance(self.test, _Withheld):
            raise TestDataAsked("test data are for reporting only: whatever trains, fits or chooses must not see them")
        return {"train": self.train, "validation": self.validation, "test": self.test, **self.more}[name]


def parted(examples: Examples, shares: Mapping[str, float]) -> dict[str, Examples]:
    """Cut examples into consecutive parts, named, of the given shares of their number."""
    n, done, parts = len(examples), 0.0, {}
    for name, share in shares.items():
        start, done = round(done * n), done + share
        stop = round(done * n)
        parts[name] = Examples(examples.inputs[start:stop], examples.targets[start:stop])
    return parts
