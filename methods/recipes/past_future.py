"""Training of exits that see past layers and imagine future ones (liao2021pastfuture)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor

from eelit.methods.backbones.past_future import imitation_loss, routed
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


def train_past_future(
    model: MultiExit,
    data: Data,
    bench: Bench,
    *,
    weights: Sequence[float],
    protected: int,
    epochs: float,
    batch: int,
    head_rate: float | None = None,
    **options: Any,
) -> None:
    """Minimise half of ``sum_i weights[i] * loss_i`` plus half of the imitation loss over all parameters.

    The output of each of the ``protected`` lowest layers is cut off from the gradient at each step with a probability
    that falls from 1 to 0 in the course of training. Heads learn at ``head_rate`` if given.
    """
    w = torch.tensor(weights)
    steps = max(1, round(epochs * sum(1 for _ in data.train.batches(batch))))
    step = count()

    def loss(batch: Batch) -> Tensor:
        x = batch.inputs
        done = next(step) / steps
        outputs, pooled, imagined = routed(model, x, lambda i: i < protected and float(torch.rand(())) > done)
        right = (w * exit_losses(outputs, batch.targets)).sum()
        return (right + imitation_loss(pooled, imagined)) / 2

    def train() -> None:
        model.train()
        sizes = {"epochs": epochs, "batch": batch, **options}
        heads = model.heads.parameters()
        label = "training exits that see past and future"
        fit(model.parameters(), data.train, loss, bench, label=label, faster=heads, faster_rate=head_rate, **sizes)

    settings = {"weights": list(weights), "protected": protected, "head_rate": head_rate, "train": len(data.train)}
    trained(model, train, bench, data=data.digest, settings={**settings, "epochs": epochs, "batch": batch, **options})
    model.eval()
