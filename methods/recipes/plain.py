"""Ordinary training of the plain network: no exit but the last takes part."""

from __future__ import annotations

from typing import Any

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.recipes.fit import fit, trained
from eelit.methods.recipes.joint import exit_losses


def train_plain(model: MultiExit, data: Data, bench: Bench, *, head_rate: float | None = None, **options: Any) -> None:
    """Minimise the loss of the last exit; the other exits keep their weights. ``options`` are those of `fit`.

    The last head learns at ``head_rate`` if given, as in `joint.train_joint`.
    """

    def train() -> None:
        model.train()
        fit(
            [*model.stages.parameters(), *model.heads[-1].parameters()],
            data.train,
            lambda index, x: exit_losses(model.full(x)[None], data.train.targets[index])[0],
            bench,
            label="training the plain network",
            faster=model.heads[-1].parameters(),
            faster_rate=head_rate,
            **options,
        )

    trained(
        model, train, bench, data=data.digest, settings={"train": len(data.train), "head_rate": head_rate, **options}
    )
    model.eval()
