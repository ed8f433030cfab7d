"""Speculative decoding: a cheap part runs ahead, and a costly part reads several tokens in one pass.

One text at a time, as in a conversation. A pass then takes about as long for ten tokens as for one, since the weights
must be fetched either way: so cost is the number of weights read per generated token. Each call of a module reads the
weights of its own once, whatever it is given. Tables of embeddings, of which a row is read for each token, keys and
values, and the reading of the prompt are left out.

Quality is how much of the full model's own text is kept, which says nothing of how good that text is. So `beside` tells
how well each setting predicts the true texts, in bits per token: the tokens so far are the true ones, and the next is
predicted by the part that would decide it. Fewer bits are better.

`replay` says what is written, by the definition and in batches of texts; `write` does it, text by text.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.decoder import ExitDecoder
from eelit.methods.backbones.decoding import Generation, generate
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.multi_exit import device_of
from eelit.methods.engine.records import Beside, Execution, OperatingPoint
from eelit.methods.engine.timing import devices_of, in_turn
from eelit.methods.families.tokens import GenerationMethod, Prepared

if TYPE_CHECKING:
    from eelit.methods.backbones.row_cache import RowCache

    Caches = tuple[RowCache, ...]


@dataclass(frozen=True)
class Texts(Generation):
    """Texts, of whose tokens the cheap part (exit 0) or the costly part (exit 1) decided each, and what they took."""

    read: Tensor  # [N], weights

    @classmethod
    def of(cls, each: Iterable[tuple[Tensor, Tensor, Tensor]], read: Tensor | None = None) -> Texts:
        """Return texts, of each its tokens, their exits and what is not finite ``[T]``; ``read`` is 0 if not told."""
        tokens, exits, flawed = (torch.stack(part) for part in zip(*each, strict=True))
        return Texts(tokens, exits, flawed, exits.new_zeros(len(exits)) if read is None else read)

    def head(self, n: int) -> Texts:
        """Return the first ``n`` texts."""
        return Texts(self.tokens[:n], self.exits[:n], self.not_finite[:n], self.read[:n])


@dataclass
class Count:
    """How many weights were read."""

    weights: int = 0


@contextmanager
def weights_read(*models: nn.Module) -> Iterator[Count]:
    """Count from outside how many weights the modules of some networks read inside."""
    found, handles = Count(), []

    def note(module: nn.Module, *_: Any, size: int) -> None:
        found.weights += size

    for module in (module for model in models for module in model.modules()):
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if own and not isinstance(module, nn.Embedding):
            handles.append(module.register_forward_hook(partial(note, size=own)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class PassCosts:
    """The weights that one pass reads: of each layer ``[E]``, and of the head with the norm before it."""

    layers: NDArray[np.int64]
    head: int

    @classmethod
    @torch.inference_mode()
    def of(cls, model: ExitDecoder) -> PassCosts:
        """Count what the parts read for one token."""
        weight = next(model.language_model.parameters())
        cache, layers = model.new_cache(1, 1), []
        state = model.start(torch.zeros((1, 1), dtype=torch.int64, device=weight.device), cache)
        for i in range(model.exits):
            with weights_read(model) as read:
                state = model.layer(i, state, cache)
            layers.append(read.weights)
        with weights_read(model) as read:
            model.head(weight.new_zeros(1, model.width))
        return cls(np.array(layers, dtype=np.int64), read.weights)

    @property
    def full(self) -> int:
        """What a token takes in the full model."""
        return int(self.layers.sum()) + self.head


class SpeculativeMethod(GenerationMethod):
    """A method whose costly part reads several tokens in one pass: what is written at a knob, and the real writing."""

    unit = "weights read"

    @abstractmethod
    def replay(self, prepared: Any, split: Split, knobs: Sequence[float]) -> list[Texts]:
        """Return the texts of the split at each knob, by the definition: no part is spared, nothing is cut off."""

    @abstractmethod
    def write(self, prepared: Any, opened: Sequence[Caches], first: Tensor, knob: float) -> Texts:
        """Write texts one after the other, each behind an opening, which is used up, and its token of ``first [N]``.

        What a text took may be left at 0: it is counted from outside.
        """

    @abstractmethod
    def ends(self, prepared: Any, split: Split) -> tuple[Tensor, Tensor]:
        """Return what the cheap and the costly part alone predict of the true texts' tokens: logits ``[N, T, V]``."""

    @abstractmethod
    def asked(self, prepared: Any, split: Split, knob: float, cheap: Tensor, costly: Tensor) -> Tensor:
        """Return whether the costly part decides a token ``[N, T]``, given the true tokens so far and `ends`."""

    @torch.inference_mode()
    def beside(self, prepared: Any, knobs: Sequence[float]) -> Beside:
        """Return how many bits the true test texts take per token at each knob, and by each part alone."""
        true = prepared.passages("test").references
        ends = self.ends(prepared, "test")
        cheap, costly = (bits(logits, true.to(logits.device)) for logits in ends)
        values = [float(torch.where(self.asked(prepared, "test", knob, *ends), costly, cheap).mean()) for knob in knobs]
        leads = (cheap - costly).mean(dim=1)
        return Beside(
            name="bits per token",
            meaning=f"how well the {len(true)} true texts are predicted token by token, each from the true tokens "
            "before it by the part that would decide it; lower is better",
            values=values,
            cheap=float(cheap.mean()),
            full=float(costly.mean()),
            error=float(leads.std()) / math.sqrt(len(leads)) if len(leads) > 1 else 0.0,
        )

    def readers(self, prepared: Any) -> list[Prepared]:
        """Return all that reads and writes, the full model first: it may be all there is."""
        return [prepared]

    def open(self, prepared: Prepared, prompts: Tensor) -> list[Caches]:
        """Return for each of prompts ``[N, P]`` the caches of all readers, which have read it."""
        return [tuple(each.read(prompt[None]) for each in self.readers(prepared)) for prompt in prompts]

    def texts(self, prepared: Prepared, split: Split, knobs: Sequence[float]) -> list[Texts]:
        """Return the texts of the split at each knob, those that are known as they are known."""
        prepared.openings(split)  # if they are out of reach, what is known of them is too
        missing = [knob for knob in dict.fromkeys(knobs) if (split, (self, knob)) not in prepared.runs]
        if missing:
            found = self.replay(prepared, split, missing)
            prepared.runs.update({(split, (self, knob)): each for knob, each in zip(missing, found, strict=True)})
        return [cast(Texts, prepared.runs[split, (self, knob)]) for knob in knobs]

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Write all texts of the split at every knob."""
        full = self.plain_cost(prepared)
        found = []
        for knob, run in zip(knobs, self.texts(prepared, split, knobs), strict=True):
            cost = float(run.read.double().mean()) / prepared.length
            worth, exits = 1 - prepared.losses(split, run), run.exits.cpu().numpy()
            found.append(point(knob, worth, exits, count=2, cost=cost, full=full))
        return found

    def plain_cost(self, prepared: Prepared) -> float:
        """Return the weights that the full model reads for each token."""
        return float(PassCosts.of(prepared.model).full)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Really write, on test passages: once counted from outside, then timed in turn with plain generation."""
        (expected,), length = self.texts(prepared, "test", [knob]), prepared.length
        prompts = prepared.openings("test")[: -(-bench.executed // length)]
        expected, first = expected.head(len(prompts)), prepared.first(prompts)
        opened, models = self.open(prepared, prompts), [each.model for each in self.readers(prepared)]

        def ours(fresh: list[Caches]) -> Texts:
            return self.write(prepared, fresh, first, knob)

        def plain(fresh: list[Caches]) -> None:
            for (cache, *_), last in zip(fresh, first.split(1), strict=True):
                generate(prepared.model, cache, last, length, None)

        with weights_read(*models) as counted:
            found = ours(_copied(opened))
        seconds, full_seconds = in_turn(ours, plain, [opened], bench.repeats, devices_of(*models), _copied)
        return Execution(
            knob=knob,
            samples=expected.exits.numel(),
            claimed=float(expected.read.sum()),
            counted=counted.weights,
            agrees=found.agrees(expected),
            seconds=seconds,
            full_seconds=full_seconds,
            not_finite=int(found.not_finite.sum()),
        )


def true_states(prepared: Prepared, model: ExitDecoder, split: Split) -> Tensor:
    """Return a decoder's states ``[L, N, T, d]`` from which the tokens of the split's true texts are predicted."""
    passages = prepared.passages(split)
    text = torch.cat([passages.prompts, passages.references], dim=1).to(device_of(model))
    return model.states(text[:, :-1])[:, :, passages.prompts.shape[1] - 1 :]


def bits(logits: Tensor, true: Tensor) -> Tensor:
    """Return - log2 p ``[N, T]`` of true tokens ``[N, T]`` by logits ``[N, T, V]``."""
    found: Tensor = F.cross_entropy(logits.double().flatten(0, 1), true.flatten(), reduction="none") / math.log(2)
    return found.view_as(true)


def _copied(opened: Sequence[Caches]) -> list[Caches]:
    return [tuple(cache.copy() for cache in caches) for caches in opened]
