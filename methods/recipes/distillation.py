"""Exits that learn from other exits' softened answers: the loss that papers share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from eelit.methods.policies.base import checked


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 KL(softmax(teacher / T) || softmax(student / T))`` of logits ``[..., N, C]``, mean over N.

    No gradient reaches the teacher. Raises `ValueError` unless the temperature is a finite number above 0.
    """
    checked("divergence", "temperature", temperature, above=0, finite=True)
    ours = F.log_softmax(student / temperature, dim=-1)
    theirs = F.log_softmax(teacher.detach() / temperature, dim=-1)
    return (theirs.exp() * (theirs - ours)).sum(dim=-1).mean(dim=-1) * temperature**2
