"""Exits that learn from other exits' softened answers: the loss that papers share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 KL(softmax(teacher / T) || softmax(student / T))`` of logits ``[..., N, C]``, mean over N.

    No gradient reaches the teacher.
    """
    ours = F.log_softmax(student / temperature, dim=-1)
    theirs = F.log_softmax(teacher.detach() / temperature, dim=-1)
    return (theirs.exp() * (theirs - ours)).sum(dim=-1).mean(dim=-1) * temperature**2
