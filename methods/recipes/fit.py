"""The one training loop. What it trains is kept by `eelit.methods.engine.weights.trained`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eelit.methods.engine.method import Bench
from eelit.methods.policies.base import checked


@dataclass(frozen=True)
class Batch:
    """What one step learns from, and how far the training is."""

    index: Tensor  # [n], which of the training samples, on the CPU
    inputs: Any  # [n, ...]
    targets: Tensor  # [n, ...]
    step: int  # from 0
    done: float  # share of all steps that were made before this one, from 0 to below 1


Loss = Callable[[Batch], Tensor]
"""From a batch to the scalar to minimise."""


FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)
"""Optimisers that can make a step in one pass over all parameters."""


class Trainable(Protocol):
    """What `fit` can learn from: `Examples`, or stored states of a frozen network."""

    @property
    def targets(self) -> Tensor:
        """Classes or values, the sample first."""
        ...

    def batches(self, size: int, shuffle: torch.Generator | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Yield ``(index [n], inputs)``."""
        ...


@dataclass(frozen=True)
class Stage:
    """One training as `fit` is about to begin it: what tests of the wiring look at (see ``Bench.watch``)."""

    label: str
    train: Trainable
    loss: Loss
    optimiser: torch.optim.Optimizer  # its groups hold the parameters and their rates
    epochs: float
    batch: int
    steps: int
    beside: tuple[torch.optim.Optimizer, ...] = ()  # what the loss itself moves, with these

    def batch_of(self, index: Tensor, inputs: Any, step: int = 0) -> Batch:
        """Return the samples ``index [n]`` of the training data as the loss meets them at a step."""
        return Batch(index, inputs, self.train.targets[index], step, step / self.steps)

    @property
    def rates(self) -> dict[int, float]:
        """The largest learning rate of each parameter, by its ``id``."""
        groups = self.optimiser.param_groups
        return {id(p): float(group["initial_lr"]) for group in groups for p in group["params"]}


def fit(
    parameters: Iterable[nn.Parameter],
    train: Trainable,
    loss: Loss,
    bench: Bench,
    *,
    label: str,
    epochs: float,
    batch: int,
    rate: float,
    optimiser: type[torch.optim.Optimizer] = torch.optim.AdamW,
    options: Mapping[str, Any] | None = None,
    warm_up: float = 0.1,
    faster: Iterable[nn.Parameter] = (),
    faster_rate: float | None = None,
    beside: tuple[torch.optim.Optimizer, ...] = (),
) -> None:
    """Minimise ``loss`` over ``epochs`` passes, the rate rising linearly for a share ``warm_up``, then falling to 0.

    It rises for one step at least. Order and dropout follow ``bench.seed``. Gradients are clipped at norm 1. Those of
    the parameters that are also in ``faster`` (new heads on a pretrained backbone) learn at ``faster_rate``. Inputs and
    targets are brought to where the parameters are. A loss that makes steps of its own on something else names its
    optimisers in ``beside``; they are only told of. Raises `ValueError` for numbers with which nothing can be trained.
    """
    checked("fit", "epochs", epochs, above=0, finite=True)
    checked("fit", "batch", batch, whole=True, least=1)
    for name, given in {"rate": rate, **({} if faster_rate is None else {"faster_rate": faster_rate})}.items():
        checked("fit", name, given, least=0, finite=True)
    checked("fit", "warm_up", warm_up, least=0, most=1)
    chosen = [p for p in parameters if p.requires_grad]
    device = chosen[0].device if chosen else torch.device("cpu")
    quick = {id(p) for p in faster} if faster_rate is not None else set()
    groups: list[dict[str, Any]] = [{"params": [p for p in chosen if id(p) not in quick]}]
    if quick:
        groups.append({"params": [p for p in chosen if id(p) in quick], "lr": faster_rate})
    steps_each = sum(1 for _ in train.batches(batch))
    steps = max(1, round(epochs * steps_each))
    # Fused steps are seven times as fast on the CPU: with a pretrained encoder they were half of a training.
    how = {"fused": True} if optimiser in FUSED else {}
    step_rule = optimiser(groups, lr=rate, **{**how, **(options or {})})  # type: ignore[call-arg]
    rise = max(1, round(warm_up * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        step_rule, lambda step: min((step + 1) / rise, (steps - step) / max(1, steps - rise))
    )
    shuffle = torch.Generator().manual_seed(bench.seed)
    torch.manual_seed(bench.seed)
    stage = Stage(label, train, loss, step_rule, epochs, batch, steps, beside)
    if bench.watch:
        bench.watch(stage)
    step = 0
    while step < min(steps, bench.most_steps):
        for index, x in train.batches(batch, shuffle):
            step_rule.zero_grad(set_to_none=True)
            loss(_on(device, stage.batch_of(index, x, step))).backward()
            nn.utils.clip_grad_norm_(chosen, 1.0)
            step_rule.step()
            schedule.step()
            step += 1
            bench.progress(label, step / steps)
            if step >= min(steps, bench.most_steps):
                break
    bench.steps += step
    if bench.watch:
        bench.watch(None)


def _on(device: torch.device, batch: Batch) -> Batch:
    """Return the batch with its inputs, of whatever structure, and its targets on the device."""
    if device.type == "cpu":
        return batch
    inputs = pytree.tree_map_only(Tensor, lambda part: part.to(device), batch.inputs)
    return replace(batch, inputs=inputs, targets=batch.targets.to(device))
