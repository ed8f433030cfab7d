"""What the families that write texts share: what each policy writes on a split, kept once it was asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import Tensor

from eelit.methods.backbones.decoding import Cache, Ending, Generation, Reads, StepPolicy, generate, replay
from eelit.methods.engine.method import Bench

C = TypeVar("C", bound=Cache)
K = TypeVar("K")


@dataclass
class Writing(ABC, Generic[C]):
    """A trained model with what it starts texts from: prompts to be continued, sources to be translated."""

    method: Any
    model: Any
    data: Any
    bench: Bench
    runs: dict[tuple[str, object], Generation] = field(default_factory=dict, kw_only=True)
    caches: dict[str, C] = field(default_factory=dict, kw_only=True)  # part of the data → its openings, read

    rows: ClassVar[int]
    """Texts that are written in one batch, if a split has so few openings that several policies fit."""
    ending: ClassVar[Ending] = Ending()
    """What ends a text before its full length."""
    doing: ClassVar[tuple[str, str]]
    """What is done to what, in words."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens of a text, at most."""

    @abstractmethod
    def openings(self, split: str) -> Tensor:
        """Return what texts start from ``[N, P]``, where the model is; in the test split out of reach of choosing."""

    @abstractmethod
    def read(self, openings: Tensor) -> C:
        """Return the cache of openings ``[N, P]`` that were read up to where the texts begin."""

    @abstractmethod
    def first(self, openings: Tensor) -> Tensor:
        """Return the token ``[N]`` that is fed in to generate the first of each text."""

    def opened(self, split: str) -> C:
        """Return the openings of the split, read once: to be copied, since writing uses a cache up."""
        openings = self.openings(split)
        if split not in self.caches:
            self.caches[split] = self.read(openings)
        return self.caches[split]

    def batches(self, split: str, names: Sequence[K]) -> Iterator[Sequence[K]]:
        """Yield the names of what is to be written on the split, so many as fit into one batch; tell how far it is."""
        number, (doing, what) = len(self.openings(split)), self.doing
        at_once = max(1, self.rows // number)
        for i in range(0, len(names), at_once):
            self.bench.progress(f"{doing} {number} {split} {what}", i / len(names))
            yield names[i : i + at_once]

    def run(self, split: str, policies: Mapping[object, StepPolicy], reads: Reads | None = None) -> list[Generation]:
        """Replay policies on the split, several in one batch; their names tell which are known already."""
        first = self.first(self.openings(split))
        for names in self.batches(split, [name for name in policies if (split, name) not in self.runs]):
            chosen, shown = [policies[name] for name in names], reads or self.method.reads
            found = replay(self.model, self.opened(split), first, self.length, chosen, shown, self.ending)
            self.runs.update({(split, name): run for name, run in zip(names, found, strict=True)})
        return [self.runs[split, name] for name in policies]

    def full(self, split: str) -> Generation:
        """Return plain greedy generation on the split."""
        first = self.first(self.openings(split))
        if (split, "full") not in self.runs:
            cache = self.opened(split).copy()
            self.runs[split, "full"] = generate(self.model, cache, first, self.length, None, ending=self.ending)
        return self.runs[split, "full"]

    @property
    def for_choosing(self) -> Self:
        """The same with the test data out of reach: all that a policy may be made from and fitted on."""
        return replace(self, data=self.data.without_test())
