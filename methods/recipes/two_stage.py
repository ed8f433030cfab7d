"""The second of two stages of training: the plain network is trained and frozen, other heads learn from its states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.recipes.fit import fit, trained
from eelit.methods.recipes.joint import exit_losses

READ = 64  # samples at a time when the frozen states are stored


def train_heads(
    model: MultiExit,
    data: Data,
    bench: Bench,
    *,
    keep: Callable[[Tensor], Tensor] = lambda state: state,
    **options: Any,
) -> None:
    """Minimise the sum of the losses of all heads but the last, everything else frozen (xin2020deebert).

    The backbone cannot change: the heads learn from states computed once, in evaluation mode. ``keep`` cuts a state
    down to what the heads read of it, so that less is stored. ``options`` are those of `fit`.
    """
    heads = model.heads[:-1]

    def loss(index: Tensor, states: Tensor) -> Tensor:
        outputs = [head(state) for head, state in zip(heads, states.unbind(1), strict=True)]
        return exit_losses(torch.stack(outputs), data.train.targets[index]).sum()

    def train() -> None:
        states = frozen_states(model, data.train, bench, keep)
        heads.train()
        fit(heads.parameters(), states, loss, bench, label="training the exit heads on frozen states", **options)

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()


@torch.no_grad()
def frozen_states(model: MultiExit, examples: Examples, bench: Bench, keep: Callable[[Tensor], Tensor]) -> Examples:
    """Return, for each example, what the heads before the last read: ``[E - 1, ...]``. The last stage is not run."""
    model.eval()
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    done = 0
    for index, x in examples.batches(READ):
        states = [keep(state) for _, state in zip(model.heads[:-1], model.states(x), strict=False)]
        for i, sample in zip(index.tolist(), torch.stack(states, dim=1).unbind(0), strict=True):
            found[i] = sample.clone()
        done += len(index)
        bench.progress("states of the frozen backbone", done / len(examples))
    return Examples(found, examples.targets)
