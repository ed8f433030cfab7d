"""Alternating training: steps on the last exit take turns with steps on all exits (xin2021berxit).

An exit may say, beside its answer, how certain it is of being right; that is learned in the same steps.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from torch import Tensor

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


def alternating_loss(losses: Tensor, step: int) -> Tensor:
    """From the losses of the exits ``[E]``: the last one's at steps 0, 2, 4 …, the sum of all at steps 1, 3, 5 …."""
    return losses.sum() if step % 2 else losses[-1]


def parted(outputs: Any) -> tuple[Tensor, Tensor]:
    """Part outputs into answers and certainties ``[...]``."""
    return outputs["answer"], outputs["certainty"]


def correctness(answers: Tensor, targets: Tensor) -> Tensor:
    """Return how right each answer is, ``[E, N]`` in [0, 1], without gradient: what certainty should be.

    Logits ``[E, N, C]``: 1 if the largest is at the target, else 0. Values ``[E, N]``: ``1 - tanh |value - target|``.
    """
    found = answers.detach()
    if found.dim() == 2:
        return 1 - torch.tanh((found - targets).abs())
    return (found.argmax(dim=-1) == targets).to(found.dtype)


def train_alternating(
    model: MultiExit, data: Data, bench: Bench, *, head_rate: float | None = None, **options: Any
) -> None:
    """Minimise `alternating_loss` and, in every step, the mean squared error of certainty; ``options`` as in `fit`.

    The outputs of the heads are as `parted` wants them. Heads learn at ``head_rate`` if given, as in
    `joint.train_joint`. Steps are counted through, not anew in each pass.
    """

    def train() -> None:
        steps = count()

        def loss(batch: Batch) -> Tensor:
            x = batch.inputs
            targets = batch.targets
            answers, certainty = parted(model(x))
            error = ((certainty - correctness(answers, targets)) ** 2).mean()
            return alternating_loss(exit_losses(answers, targets), next(steps)) + error

        model.train()
        fit(
            model.parameters(),
            data.train,
            loss,
            bench,
            label="training the last exit and all exits in turn",
            faster=model.heads.parameters(),
            faster_rate=head_rate,
            **options,
        )

    settings = {"head_rate": head_rate, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()
