"""A language model from scratch: one pass over windows of running text, by Muon and AdamW."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from eelit.methods.backbones.decoder import ExitDecoder
from eelit.methods.engine.method import Bench
from eelit.methods.engine.passages import LanguageData
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.muon import MuonAndAdam


def train_language(
    model: ExitDecoder,
    data: LanguageData,
    bench: Bench,
    loss: Callable[[ExitDecoder, Tensor, Tensor], Tensor],
    *,
    label: str,
    rate: float,
    other_rate: float,
    batch: int,
    settings: Mapping[str, Any],
) -> None:
    """Minimise ``loss(model, ids [n, t], next [n, t])``, the tokens of windows and the tokens that follow them.

    The layers' matrices learn by Muon at ``rate``, embeddings and norms by AdamW at ``other_rate``. ``settings`` are
    those of the loss.
    """

    def of_windows(batch: Batch) -> Tensor:
        return loss(model, batch.inputs[:, :-1], batch.inputs[:, 1:])

    def train() -> None:
        model.train()
        fit(
            model.language_model.parameters(), data.train, of_windows, bench,
            label=label, epochs=1, batch=batch, rate=rate, optimiser=MuonAndAdam,
            faster=model.vectors(), faster_rate=other_rate,
        )  # fmt: skip

    told = {**settings, "rate": rate, "other_rate": other_rate, "batch": batch}
    trained(model, train, bench, data=data.digest, settings=told)
    model.eval()
