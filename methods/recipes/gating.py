"""Training hard gates: straight-through gradients first, then supervised loss with REINFORCE (wang2018skipnet)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def straight_through(p: Tensor) -> Tensor:
    """Return 1[p > 0.5] going forward; going backward, the gradient passes to p unchanged."""
    return ((p > 0.5).to(p.dtype) - p).detach() + p


def sampled(p: Tensor) -> Tensor:
    """Return gates drawn with probability p of being 1; no gradient passes."""
    return torch.bernoulli(p.detach())


def reward_to_go(loss: Tensor, gates: Tensor, alpha: float) -> Tensor:
    """Return ``r_i = -L + alpha / G * sum_{j >= i} (1 - g_j)``, ``[G, n]``, for losses ``[n]`` and gates ``[G, n]``."""
    skipped = (1 - gates).flip(0).cumsum(0).flip(0)
    return alpha / len(gates) * skipped - loss


def hybrid_loss(logits: Tensor, targets: Tensor, p: Tensor, gates: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Return mean cross-entropy plus REINFORCE: ``- beta * sum over gates and samples of log p(g_i) r_i``.

    The second part is a sum over the batch, not a mean, as in the released code. Gradients with respect to gates that
    are sure (p = 1) vanish.
    """
    losses = F.cross_entropy(logits, targets, reduction="none")
    taken = torch.where(gates > 0, p, 1 - p).clamp_min(1e-6)
    rewards = reward_to_go(losses.detach(), gates, alpha)
    return losses.mean() - beta * (taken.log() * rewards).sum()
