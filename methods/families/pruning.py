"""Translation by a decoder of which blocks are left out for good: the same ones for all sentences and tokens.

The knob is the number of blocks that are kept. What is measured is the whole decoder with the other blocks passed
over, each handing on what it is given; what is executed is a smaller one, rebuilt from the blocks that are kept, and
both must say the same. ``exits`` says how many blocks tokens go through. Costs are as in the family `translation`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from eelit.methods.backbones.decoding import Generation, generate
from eelit.methods.backbones.own_forward import State
from eelit.methods.backbones.translator import SourceCache, Translator
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.records import Execution, OperatingPoint
from eelit.methods.engine.timing import devices_of
from eelit.methods.families.translation import ENDING, Prepared, Translates, cut_cost, executed, point

Caches = tuple[SourceCache, SourceCache]
"""What is known once the sources were read, to the smaller decoder and to the whole one."""


class PassedOver:
    """A translator some of whose decoder's blocks hand on what they are given."""

    def __init__(self, model: Translator, kept: Collection[int]) -> None:
        self.model, self.kept = model, frozenset(kept)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def layer(self, i: int, state: State, cache: SourceCache) -> State:
        """Run block ``i``, if it is kept."""
        return self.model.layer(i, state, cache) if i in self.kept else state


class PruningMethod(Translates):
    """A method that leaves blocks out: which of them are kept at a knob."""

    knob: ClassVar[str] = "decoder blocks kept"

    @abstractmethod
    def kept(self, blocks: int, number: int) -> tuple[int, ...]:
        """Return which of a decoder's blocks (from 0, in order) are kept if ``number`` of them, from 1, are."""

    def kept_at(self, prepared: Prepared, knob: float) -> tuple[int, ...]:
        """Return which blocks are kept at a knob: all where there are no more."""
        return self.kept(prepared.model.exits, min(int(knob), prepared.model.exits))

    def run(self, prepared: Prepared, split: Split, kept: tuple[int, ...]) -> Generation:
        """Translate the split with some of the blocks, the others passed over."""
        sources = prepared.sources(split)
        if (split, kept) not in prepared.runs:
            prepared.bench.progress(f"translating {len(sources)} {split} sentences with {len(kept)} blocks", None)
            model: Any = PassedOver(prepared.model, kept)
            cache = prepared.model.read(sources, prepared.length)
            found = generate(model, cache, prepared.begin(sources), prepared.length, None, ending=ENDING)
            exits = torch.where(found.exits < 0, -1, len(kept) - 1)
            prepared.runs[split, kept] = replace(found, exits=exits)
        return prepared.runs[split, kept]

    def of_blocks(self, prepared: Prepared, split: Split, knob: float, kept: tuple[int, ...]) -> OperatingPoint:
        """Return what the split's translations with some of the blocks are worth and cost."""
        run = self.run(prepared, split, kept)
        cost = cut_cost(prepared, split, run, len(kept))
        return point(prepared, split, knob, run, cost, self.plain_cost(prepared, split))

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Translate the split with as many blocks as each knob says."""
        return [self.of_blocks(prepared, split, knob, self.kept_at(prepared, knob)) for knob in knobs]

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Translate test sentences by the smaller decoder, counted from outside, timed in turn with the whole one."""
        kept, length = self.kept_at(prepared, knob), prepared.length
        sources = prepared.sources("test")[: -(-bench.executed // length)]
        begin, expected = prepared.begin(sources), self.run(prepared, "test", kept).head(len(sources))
        whole, small = prepared.model, prepared.model.pruned(kept)

        def ours(opened: Caches) -> Generation:
            return generate(small, opened[0].copy(), begin, length, None, ending=ENDING)

        def plain(opened: Caches) -> Generation:
            return generate(whole, opened[1].copy(), begin, length, None, ending=ENDING)

        claimed = cut_cost(prepared, "test", expected, len(kept)) * int((expected.exits >= 0).sum())
        opened = small.read(sources, length), whole.read(sources, length)
        return executed(knob, expected, claimed, ours, plain, opened, bench.repeats, devices_of(whole))
