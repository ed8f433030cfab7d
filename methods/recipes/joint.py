"""Joint training: backbone and all exit heads on a weighted sum of the exits' losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.policies.base import checked
from eelit.methods.recipes.fit import fit


def losses_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of each exit on each sample ``[E, N]``: cross-entropy of logits ``[E, N, C]``, squared error of ``[E, N]``.

    Raises `ValueError` for anything else, or targets that are not ``[N]``. Logits of one class, ``[E, N, 1]``, would
    have no loss, whatever they are.
    """
    if outputs.dim() not in (2, 3) or outputs.shape[2:] == (1,):
        raise ValueError(
            f"outputs are logits [exits, samples, classes] of at least two classes, or values [exits, samples], not "
            f"{list(outputs.shape)}"
        )
    if targets.shape != outputs.shape[1:2]:
        raise ValueError(f"each of {outputs.shape[1]} samples has one target, not {list(targets.shape)}")
    if outputs.dim() == 2:
        return (outputs - targets) ** 2
    if targets.is_floating_point():
        raise ValueError(f"the targets of logits are classes, whole numbers, not {targets.dtype}")
    exits, n, classes = outputs.shape
    flat = F.cross_entropy(outputs.reshape(exits * n, classes), targets.repeat(exits), reduction="none")
    return flat.reshape(exits, n)


def exit_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of each exit ``[E]``; arguments and errors as of `losses_of`."""
    return losses_of(outputs, targets).mean(dim=1)


def weighted(losses: Tensor, weights: Sequence[float]) -> Tensor:
    """Return ``sum_i weights[i] * losses[i]`` of losses ``[E]``. Raises `ValueError` unless each has its weight."""
    if losses.shape != (len(weights),):
        raise ValueError(f"{len(losses)} exits need as many weights, not {len(weights)}")
    return (torch.tensor(weights, device=losses.device) * losses).sum()


def depth_weights(exits: int) -> list[float]:
    """Weights ``i / sum(1..E)`` for exits i = 1 … E: deeper exits count more (kaya2019sdn, zhou2020pabee)."""
    checked("depth_weights", "exits", exits, whole=True, least=1)
    return [i / (exits * (exits + 1) / 2) for i in range(1, exits + 1)]


def train_joint(
    model: MultiExit,
    data: Data,
    bench: Bench,
    *,
    weights: Sequence[float],
    head_rate: float | None = None,
    head_parts: Sequence[str] = (),
    **options: Any,
) -> None:
    """Minimise ``sum_i weights[i] * loss_i`` over all parameters; ``options`` are those of `fit`.

    Heads learn at ``head_rate`` if given, and with them the submodules named in ``head_parts``, parts of heads that lie
    in stages: on a pretrained backbone they are the only parts that start from nothing, or nearly so. Raises
    `ValueError` unless each exit has a finite weight.
    """
    if len(weights):  # `weighted` says how many there must be
        checked("train_joint", "weights", weights, per_exit=True, finite=True)

    def train() -> None:
        model.train()
        fit(
            model.parameters(),
            data.train,
            lambda batch: weighted(exit_losses(model(batch.inputs), batch.targets), weights),
            bench,
            label="training all exits together",
            faster=[p for part in (model.heads, *map(model.get_submodule, head_parts)) for p in part.parameters()],
            faster_rate=head_rate,
            **options,
        )

    settings = {"weights": list(weights), "head_rate": head_rate, "train": len(data.train), **options}
    if head_parts:
        settings["head_parts"] = list(head_parts)
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()
