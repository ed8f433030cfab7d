"""Ordinary training of the plain network: no exit but the last takes part."""

from __future__ import annotations

from typing import Any

from eelit.methods.examples import Data
from eelit.methods.method import Bench
from eelit.methods.multi_exit import MultiExit
from eelit.methods.recipes.fit import trained
from eelit.methods.recipes.two_stage import fine_tune


def train_plain(model: MultiExit, data: Data, bench: Bench, **options: Any) -> None:
    """Minimise the loss of the last exit; the other exits keep their weights. ``options`` are those of `fit`."""

    def train() -> None:
        fine_tune(model, data.train, bench, **options)

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()
