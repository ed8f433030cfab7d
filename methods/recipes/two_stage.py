"""Two-stage training: fine-tune the plain network, freeze it, then teach the other exit heads on its states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from eelit.methods.examples import Data, Examples
from eelit.methods.method import Bench
from eelit.methods.multi_exit import MultiExit
from eelit.methods.recipes.fit import fit, trained
from eelit.methods.recipes.joint import exit_losses

READ = 64  # samples at a time when the frozen states are stored


def first_token(state: Tensor) -> Tensor:
    """Keep what a class-token head reads: ``[N, T, d]`` to ``[N, 1, d]``."""
    return state[:, :1]


def train_two_stage(
    model: MultiExit,
    data: Data,
    bench: Bench,
    *,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    keep: Callable[[Tensor], Tensor] = first_token,
) -> None:
    """Train the stages with the last head, then all other heads alone, summing their losses (xin2020deebert).

    ``first`` and ``second`` are options of `fit` for each stage; ``keep`` cuts a state down to what the heads read. The
    second stage cannot touch the backbone: it sees states that were computed once, in evaluation mode.
    """

    def train() -> None:
        fine_tune(model, data.train, bench, **first)
        train_heads(model, data.train, bench, keep=keep, **second)

    settings = {"first": dict(first), "second": dict(second), "keep": keep.__name__, "train": len(data.train)}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


def fine_tune(model: MultiExit, train: Examples, bench: Bench, **options: Any) -> None:
    """Stage 1: minimise the loss of the plain network; heads before the last are not even run."""
    model.train()
    fit(
        [*model.stages.parameters(), *model.heads[-1].parameters()],
        train,
        lambda index, x: exit_losses(model.full(x)[None], train.targets[index])[0],
        bench,
        label="training the plain network",
        **options,
    )
    model.eval()


def train_heads(
    model: MultiExit, train: Examples, bench: Bench, *, keep: Callable[[Tensor], Tensor] = first_token, **options: Any
) -> None:
    """Stage 2: minimise the sum of the losses of all heads but the last, on stored states of the frozen backbone."""
    heads = model.heads[:-1].train()
    fit(
        heads.parameters(),
        frozen_states(model, train, bench, keep),
        lambda index, x: exit_losses(
            torch.stack([head(state) for head, state in zip(heads, x.unbind(1), strict=True)]), train.targets[index]
        ).sum(),
        bench,
        label="training the exit heads on frozen states",
        **options,
    )
    heads.eval()


@torch.no_grad()
def frozen_states(model: MultiExit, examples: Examples, bench: Bench, keep: Callable[[Tensor], Tensor]) -> Examples:
    """Return, for each example, what the heads before the last read: ``[E - 1, ...]``. Nothing after them is run."""
    model.eval()
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    done = 0
    for index, x in examples.batches(READ):
        states = [keep(state) for state, _ in zip(model.states(x), model.heads[:-1], strict=False)]
        for i, sample in zip(index.tolist(), torch.stack(states, dim=1), strict=True):
            found[i] = sample.clone()
        done += len(index)
        bench.progress("states of the frozen backbone", done / len(examples))
    return Examples(found, examples.targets)
