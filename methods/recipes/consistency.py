"""Ramps on a frozen network, their temperatures, a classifier of consistency, each on fresh data (schuster2021cats).

All three learn from mean tokens that the frozen layers gave once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eelit.methods.backbones.consistency import ConsistencyExits, Meta
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.weights import trained
from eelit.methods.policies.temperature import fit_temperature
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses

READ = 64  # samples at a time when the frozen states are stored


def balanced_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits ``[n, 2]``, each class that occurs among the labels ``[n]`` weighing the same."""
    counts = torch.bincount(labels, minlength=2)
    return F.cross_entropy(logits, labels, weight=len(labels) / counts.clamp(min=1))


def consistency_loss(meta: Meta, seen: Tensor, consistent: Tensor) -> Tensor:
    """Return the mean over exits of `balanced_loss`.

    ``seen [n, E - 1, 32 + C]`` are features and logits of the ramps, ``consistent [n, E - 1]`` is 1 where a ramp says
    what the full model says.
    """
    features, logits = seen.tensor_split([meta.outer.in_features], dim=2)
    losses = [
        balanced_loss(meta(features[:, k], logits[:, : k + 1]), consistent[:, k].long())
        for k in range(consistent.shape[1])
    ]
    return torch.stack(losses).mean()


def train_consistency(
    model: ConsistencyExits, data: Data, bench: Bench, *, epochs: float, meta_epochs: float, batch: int, rate: float
) -> None:
    """Train ramps on the part ``heads``, set temperatures on ``scaling``, train the score on ``meta``; all else frozen.

    Ramps minimise the mean of their cross-entropies, temperatures the likelihood, the score `consistency_loss`.
    """

    def train() -> None:
        options: dict[str, Any] = {"batch": batch, "rate": rate}
        means, _ = _read(model, data.more["heads"])
        _train_mode(model, True)

        def ramp_loss(batch: Batch) -> Tensor:
            read = batch.inputs
            said = [ramp(read[:, k])[1] for k, ramp in enumerate(model.ramps)]
            return exit_losses(torch.stack(said), batch.targets).mean()

        weights = [p for ramp in model.ramps for p in ramp.parameters()]
        fit(weights, means, ramp_loss, bench, label="training the ramps", epochs=epochs, **options)
        _train_mode(model, False)
        _scale(model, data.more["scaling"])
        _train_meta(model, data.more["meta"], bench, epochs=meta_epochs, **options)

    settings = {"epochs": epochs, "meta_epochs": meta_epochs, "batch": batch, "rate": rate}
    sizes = {name: len(part) for name, part in data.more.items()}
    trained(model, train, bench, data=data.digest, settings={**settings, **sizes})
    model.eval()


@torch.no_grad()
def _scale(model: ConsistencyExits, examples: Examples) -> None:
    means, _ = _read(model, examples)
    read = torch.stack(list(means.inputs))
    for k, ramp in enumerate(model.ramps):
        ramp.temperature.fill_(fit_temperature(ramp(read[:, k])[1].numpy(), examples.targets.numpy()))


def _train_meta(model: ConsistencyExits, examples: Examples, bench: Bench, **options: Any) -> None:
    meta = model.meta
    means, full = _read(model, examples)
    with torch.no_grad():
        said = [ramp(read) for ramp, read in zip(model.ramps, torch.stack(list(means.inputs)).unbind(1), strict=True)]
        seen = torch.stack([torch.cat(both, dim=1) for both in said], dim=1)
        consistent = torch.stack([logits.argmax(-1) == full.argmax(-1) for _, logits in said], dim=1)
    meta.train()
    fit(
        meta.parameters(),
        Examples(list(seen), examples.targets),
        lambda batch: consistency_loss(meta, batch.inputs, consistent[batch.index]),
        bench,
        label="training the score of consistency",
        **options,
    )


def _train_mode(model: ConsistencyExits, on: bool) -> None:
    for ramp in model.ramps:
        ramp.train(on)


@torch.no_grad()
def _read(model: ConsistencyExits, examples: Examples) -> tuple[Examples, Tensor]:
    """Return what the ramps read of each example, ``[E - 1, d]``, and the full model's logits ``[N, C]``."""
    model.eval()
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    full: list[Tensor] = list(found)
    for index, x in examples.batches(READ):
        for i, means, logits in zip(index.tolist(), *model.read(x), strict=True):
            found[i], full[i] = means.clone(), logits.clone()
    return Examples(found, examples.targets), torch.stack(full)
