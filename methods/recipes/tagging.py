"""Training taggers with a classifier after every layer: jointly, then on their own halting patterns (li2021tokee)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eelit.methods.backbones.tag_encoder import TagEncoder
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.weights import sources_of, trained
from eelit.methods.policies.window_uncertainty import uncertainty, window_max
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import depth_weights

READ = 64  # sentences at a time when the uncertainties are stored


def tag_losses(logits: Tensor, targets: Tensor, halts: Tensor | None = None) -> Tensor:
    """Return each layer's cross-entropy ``[L]``, the mean over words, for logits ``[L, N, T, K]``.

    Targets ``[N, T]`` are -100 where there is no word. A word that halts, at a layer in ``halts [N, T]`` (from 0), has
    no loss in later layers; the sums are divided by the number of all words all the same.
    """
    layers = len(logits)
    losses = F.cross_entropy(
        logits.flatten(0, 2), targets.repeat(layers, 1).flatten(), reduction="none", ignore_index=-100
    ).view(layers, *targets.shape)
    if halts is not None:
        losses = losses * (halts >= torch.arange(layers)[:, None, None])
    return losses.sum(dim=(1, 2)) / (targets != -100).sum().clamp_min(1)


def train_tagger(model: TagEncoder, data: Data, bench: Bench, *, head_rate: float, **options: Any) -> None:
    """Minimise ``sum_l l * CE_l / sum_l l``. Classifiers learn at ``head_rate``; ``options`` are those of `fit`."""
    weights = torch.tensor(depth_weights(len(model.layers)))

    def loss(batch: Batch) -> Tensor:
        index, x = batch.index, batch.inputs
        return (weights * tag_losses(model(x), data.train.targets[index, : x.shape[-1]])).sum()

    def train() -> None:
        model.train()
        fit(
            model.parameters(), data.train, loss, bench, label="training all layers to tag",
            faster=model.heads.parameters(), faster_rate=head_rate, **options,
        )  # fmt: skip

    trained(
        model, train, bench, data=data.digest, settings={"train": len(data.train), "head_rate": head_rate, **options}
    )
    model.eval()


def simulate(uncertainties: Tensor, window: int, threshold: float) -> Tensor:
    """Return the layers ``[T]`` (from 0) at which words would halt, from their uncertainties ``[L, T]``, not copied."""
    certain = window_max(uncertainties, window) < threshold
    certain[-1] = True
    return certain.long().argmax(dim=0)


@dataclass(frozen=True)
class HaltSampling:
    """How halting patterns are drawn for training."""

    windows: tuple[int, ...]
    thresholds: tuple[float, ...]
    small: float  # share of sentences that take the smallest window or the largest threshold
    full: float  # share of sentences in which no word halts

    def draw(self, uncertainties: Sequence[Tensor], by: torch.Generator) -> Tensor:
        """Return halting layers ``[n, T]`` of sentences, each simulated with a window and a threshold drawn for it."""
        found = []
        for seen in uncertainties:
            kind, coin = torch.rand(2, generator=by).tolist()
            window = self.windows[int(torch.randint(len(self.windows), (1,), generator=by))]
            threshold = self.thresholds[int(torch.randint(len(self.thresholds), (1,), generator=by))]
            if self.full <= kind < self.full + self.small:
                window, threshold = (self.windows[0], threshold) if coin < 0.5 else (window, self.thresholds[-1])
            found.append(simulate(seen, window, 0.0 if kind < self.full else threshold))
        return torch.stack(found)


def train_on_halts(
    model: TagEncoder, data: Data, bench: Bench, drawn: HaltSampling, *, head_rate: float, **options: Any
) -> None:
    """Go on training with words halted and copied as the model itself, as it was before, would halt them.

    What it is uncertain of is computed once; patterns are drawn anew for every batch.
    """
    weights, by = torch.tensor(depth_weights(len(model.layers))), torch.Generator().manual_seed(bench.seed)

    def train() -> None:
        stored = stored_uncertainties(model, data.train, bench)

        def loss(batch: Batch) -> Tensor:
            index, x = batch.index, batch.inputs
            halts = drawn.draw([stored[i] for i in index.tolist()], by)
            return (weights * tag_losses(model(x, halts), data.train.targets[index, : x.shape[-1]], halts)).sum()

        model.train()
        fit(
            model.parameters(), data.train, loss, bench, label="training on sampled halts",
            faster=model.heads.parameters(), faster_rate=head_rate, **options,
        )  # fmt: skip

    settings = {"train": len(data.train), "head_rate": head_rate, "drawn": repr(drawn), **options}
    settings["drawing"] = sources_of([HaltSampling])  # an object's class is not followed from the function that uses it
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@torch.no_grad()
def stored_uncertainties(model: TagEncoder, examples: Examples, bench: Bench) -> list[Tensor]:
    """Return what each layer is uncertain of, ``[L, T]`` for each sentence, nothing halted."""
    model.eval()
    found, done = [torch.empty(0)] * len(examples), 0
    for index, x in examples.batches(READ):
        for i, seen in zip(index.tolist(), uncertainty(model(x)).unbind(1), strict=True):
            found[i] = seen.clone()
        done += len(index)
        bench.progress("uncertainties to sample from", done / len(examples))
    return found
