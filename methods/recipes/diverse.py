"""Joint training of exits that should be right, and not all in the same way (sun2021ensemble)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


def diversities(outputs: Tensor) -> Tensor:
    """Return ``[E - 1]``: how far exits 2 … E are from the earlier exit that each resembles most, mean over samples.

    Of logits ``[E, N, C]``: ``min over j < i of -sum_c p_j(c) ln p_i(c)``, at most ln C. No gradient passes to p_j.
    """
    log_p = outputs.log_softmax(dim=-1)
    p = log_p.detach().exp()
    found = [(p[:i] * -log_p[i]).sum(dim=-1).amin(dim=0) for i in range(1, len(outputs))]
    return torch.stack(found).clamp(max=math.log(outputs.shape[-1])).mean(dim=1)


def train_diverse(
    model: MultiExit,
    data: Data,
    bench: Bench,
    *,
    weights: Sequence[float],
    diversity: float,
    head_rate: float | None = None,
    **options: Any,
) -> None:
    """Minimise ``sum_i weights[i] * loss_i - diversity / E * sum_i D_i``, D_i as in `diversities`, over all parameters.

    Heads learn at ``head_rate`` if given; ``options`` are those of `fit`.
    """
    w = torch.tensor(weights)

    def loss(batch: Batch) -> Tensor:
        x = batch.inputs
        outputs = model(x)
        right = (w * exit_losses(outputs, batch.targets)).sum()
        return right - diversity / len(outputs) * diversities(outputs).sum()

    def train() -> None:
        model.train()
        label = "training all exits together, and apart"
        heads = model.heads.parameters()
        fit(model.parameters(), data.train, loss, bench, label=label, faster=heads, faster_rate=head_rate, **options)

    settings = {"weights": list(weights), "diversity": diversity, "head_rate": head_rate, "train": len(data.train)}
    trained(model, train, bench, data=data.digest, settings={**settings, **options})
    model.eval()
