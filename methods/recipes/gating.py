"""Training hard gates: straight-through gradients first, then supervised loss with REINFORCE (wang2018skipnet)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eelit.methods.backbones.gated_resnet import Choice, GatedResNet, sampled, straight_through
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit


def reward_to_go(loss: Tensor, gates: Tensor, alpha: float) -> Tensor:
    """Return ``r_i = -L + alpha / G * sum_{j >= i} (1 - g_j)``, ``[G, n]``, for losses ``[n]`` and gates ``[G, n]``."""
    skipped = (1 - gates).flip(0).cumsum(0).flip(0)
    return alpha / len(gates) * skipped - loss


def hybrid_loss(logits: Tensor, targets: Tensor, p: Tensor, gates: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Return mean cross-entropy plus REINFORCE: ``- beta * sum over gates and samples of log p(g_i) r_i``.

    ``logits [n, classes]``, ``targets [n]``; ``p`` and the ``gates`` drawn from it ``[G, n]``. The second part is a sum
    over the batch, not a mean, as in the released code.
    """
    losses = F.cross_entropy(logits, targets, reduction="none")
    taken = torch.where(gates > 0, p, 1 - p)
    rewards = reward_to_go(losses.detach(), gates, alpha)
    return losses.mean() - beta * (taken.clamp_min(1e-6).log() * rewards).sum()


def constant_gates(alpha: float) -> Choice | None:
    """Return the gates of the two limits, whatever p: none open for alpha = inf, all for -inf; else None."""
    if alpha == math.inf:
        return torch.zeros_like
    return torch.ones_like if alpha == -math.inf else None


def train_straight_through(model: GatedResNet, data: Data, bench: Bench, **options: Any) -> None:
    """Minimise cross-entropy with hard gates and straight-through gradients; ``options`` are those of `fit`."""

    def train() -> None:
        model.train()
        fit(
            model.parameters(),
            data.train,
            lambda batch: F.cross_entropy(model(batch.inputs, straight_through).logits, batch.targets),
            bench,
            label="supervised training with hard gates",
            **options,
        )

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()


def train_hybrid(
    model: GatedResNet, data: Data, bench: Bench, *, alpha: float, beta: float, gate_rate: float, **options: Any
) -> None:
    """Minimise `hybrid_loss` with sampled gates; in the limits of alpha, cross-entropy with constant gates.

    The gate learns at ``gate_rate``; ``options`` are those of `fit`.
    """
    constant = constant_gates(alpha)

    def loss(batch: Batch) -> Tensor:
        x = batch.inputs
        targets = batch.targets
        if constant is not None:
            return F.cross_entropy(model.infer(x, constant).logits, targets)
        out = model(x, sampled)
        return hybrid_loss(out.logits, targets, out.p, out.gates, alpha=alpha, beta=beta)

    def train() -> None:
        model.train()
        fit(
            model.parameters(),
            data.train,
            loss,
            bench,
            label=f"hybrid training, alpha {alpha:g}",
            faster=model.gate.parameters(),
            faster_rate=gate_rate,
            **options,
        )

    settings = {"train": len(data.train), "alpha": alpha, "beta": beta, "gate_rate": gate_rate, **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()
