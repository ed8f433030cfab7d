"""Training of a small Transformer that translates, by whichever loss."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from eelit.methods.backbones.translator import Translator
from eelit.methods.engine.method import Bench
from eelit.methods.engine.translations import TranslationData
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.muon import MuonAndAdam


def train_all(
    model: Translator,
    data: TranslationData,
    bench: Bench,
    loss: Callable[[Batch], Tensor],
    *,
    label: str,
    epochs: float,
    batch: int,
    rate: float,
    other_rate: float,
) -> None:
    """Train everything there is: the blocks' matrices by Muon at ``rate``, all else by AdamW at ``other_rate``."""
    matrices = model.matrices()
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]

    def train() -> None:
        model.train()
        fit(
            [*matrices, *rest], data.train, loss, bench, label=label, epochs=epochs, batch=batch, rate=rate,
            optimiser=MuonAndAdam, faster=rest, faster_rate=other_rate,
        )  # fmt: skip

    settings = {"epochs": epochs, "batch": batch, "rate": rate, "other_rate": other_rate}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()
