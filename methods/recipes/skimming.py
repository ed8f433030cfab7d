"""Training gates that skim tokens, together with the network, for a price per token kept (guan2022transkimmer)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from eelit.methods.backbones.skim_encoder import SkimEncoder, sampled
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


def skim_loss(masks: Tensor) -> Tensor:
    """Return the share of tokens kept, averaged over layers and texts, for masks ``[L, N, T]``."""
    return masks.mean()


def train_skimming(
    model: SkimEncoder, data: Data, bench: Bench, *, price: float, head_rate: float, **options: Any
) -> None:
    """Minimise the loss of the task plus ``price`` times `skim_loss`, tokens drawn by Gumbel-softmax.

    Everything learns; the head and the predictors, which start from nothing, at ``head_rate``. ``options`` are those of
    `fit`.
    """

    def loss(batch: Batch) -> Tensor:
        x = batch.inputs
        outputs, masks = model(x, sampled)
        return exit_losses(outputs[None], batch.targets)[0] + price * skim_loss(masks)

    def train() -> None:
        model.train()
        fit(
            model.parameters(),
            data.train,
            loss,
            bench,
            label=f"training to skim, price {price:g}",
            faster=[*model.head.parameters(), *model.predictors.parameters()],
            faster_rate=head_rate,
            **options,
        )

    settings = {"price": price, "head_rate": head_rate, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()
