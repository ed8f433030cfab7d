"""Ordinary training of the plain network: no exit but the last takes part."""

from __future__ import annotations

from typing import Any

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import fit
from eelit.methods.recipes.joint import exit_losses


def train_plain(model: MultiExit, data: Data, bench: Bench, *, head_rate: float | None = None, **options: Any) -> None:
    """Minimise the loss of the last exit; the other exits keep their weights. ``options`` are those of `fit`.

    The last head learns at ``head_rate`` if given, as in `joint.train_joint`. What is trained, and kept, is the plain
    network alone: whatever other heads there are, it is trained once.
    """
    plain = model.plain_network()

    def train() -> None:
        plain.train()
        fit(
            plain.parameters(),
            data.train,
            lambda batch: exit_losses(plain(batch.inputs)[None], batch.targets)[0],
            bench,
            label="training the plain network",
            faster=plain.head.parameters(),
            faster_rate=head_rate,
            **options,
        )

    settings = {"train": len(data.train), "head_rate": head_rate, **options}
    trained(plain, train, bench, data=data.digest, settings=settings)
    model.eval()
