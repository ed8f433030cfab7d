"""Two losses whose gradients conflict: one gives way to the other (geng2021romebert)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def excess(leading: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return ``min(0, <A, B> / <A, A>)``: how much of the leading gradient A to take off the other gradient B.

    Both are gradients of the same parameters, read as one long vector. What is left of B never points against A.
    """
    inner = sum(float((a * b).sum()) for a, b in zip(leading, other, strict=True))
    return inner / sum(float((a * a).sum()) for a in leading) if inner < 0 else 0.0


def projected(
    leading: Tensor, other: Tensor, parameters: Sequence[nn.Parameter], shared: Sequence[nn.Parameter]
) -> tuple[Tensor, bool]:
    """Return a stand-in for ``leading + other`` with the projected gradient, and whether the two conflicted.

    The gradient of both losses is added up for all ``parameters``; for those also in ``shared`` the other's gives way.
    The stand-in is linear in the parameters, with this sum as its slope; its value means nothing.
    """
    first = _gradients(leading, parameters)
    second = _gradients(other, parameters)
    chosen = {id(p) for p in shared}
    pairs = [(a, b) for p, a, b in zip(parameters, first, second, strict=True) if id(p) in chosen]
    off = excess([a for a, _ in pairs], [b for _, b in pairs])
    slopes = [a + b - off * a if id(p) in chosen else a + b for p, a, b in zip(parameters, first, second, strict=True)]
    return torch.stack([(s * p).sum() for s, p in zip(slopes, parameters, strict=True)]).sum(), off < 0


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the gradient for each parameter, zeros for those that the loss does not depend on."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
