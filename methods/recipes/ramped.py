"""Joint training in which the losses of internal classifiers grow from next to nothing to their shares of the cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses, weighted


def internal_weights(C: Sequence[float], t: float) -> list[float]:
    """Return ``tau_i(t) = min(C_i, 0.01 + t C_i)``: what the internal losses weigh when a share ``t`` is over."""
    return [min(c, 0.01 + t * c) for c in C]


def train_ramped(model: MultiExit, data: Data, bench: Bench, *, C: Sequence[float], **options: Any) -> None:
    """Minimise ``sum_i tau_i(t) L_i + L_{M+1}`` over everything (SDN training); ``options`` are those of `fit`."""

    def loss(batch: Batch) -> Tensor:
        losses = exit_losses(model(batch.inputs), batch.targets)
        return weighted(losses, [*internal_weights(C, batch.done), 1.0])

    def train() -> None:
        model.train()
        label = "training internal classifiers and network together"
        fit(model.parameters(), data.train, loss, bench, label=label, **options)

    trained(model, train, bench, data=data.digest, settings={"C": list(C), "train": len(data.train), **options})
    model.eval()
