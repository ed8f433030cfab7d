"""The head that reads a feature map by mixed pooling (kaya2019sdn), and where along a network such heads stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine import costs
from eelit.methods.engine.multi_exit import MultiExit

Shape = Sequence[int]
"""Channels, height and width of one image or feature map."""


class MixedPool(nn.Module):
    """``α · max + (1 - α) · mean`` over windows of a map ``[N, C, H, W]``, to ``side × side`` at most; α is learned.

    Windows are as large as it takes, and smaller at the border if the map's side is no multiple; a map that is no
    larger than ``side`` stays as it is.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.alpha = nn.Parameter(torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        """Pool both ways and mix."""
        if max(x.shape[2:]) <= self.side:
            return x
        most, mean = _most_and_mean(x, self.side)
        return torch.lerp(mean, most, self.alpha)


def condensed(x: Tensor, side: int = 4) -> Tensor:
    """Return a square map ``[N, C, H, H]`` as one ``[N, C, h, 2 h]`` that `MixedPool` pools alike, whatever its α.

    Of each window it holds the maximum, and the number whose mean with that is the window's: all that a head with
    ``side`` reads of a frozen map, hence all that need be stored of it for training.
    """
    if max(x.shape[2:]) <= side:
        return x
    most, mean = _most_and_mean(x, side)
    return torch.stack([most, 2 * mean - most], dim=-1).flatten(3)


def _most_and_mean(x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    window = [math.ceil(n / side) for n in x.shape[2:]]
    return F.max_pool2d(x, window, ceil_mode=True), F.avg_pool2d(x, window, ceil_mode=True)


def places(shape: Shape, side: int) -> tuple[int, int]:
    """Return how many places of a map ``[C, H, W]``, down and across, a head takes the mean of: ``side`` at most."""
    return min(side, shape[1]), min(side, shape[2])


class InternalClassifier(nn.Sequential):
    """Mixed pooling to at most ``side × side``, then one linear layer: logits ``[N, classes]`` of ``[N, C, H, W]``."""

    def __init__(self, shape: Shape, classes: int, *, side: int = 4) -> None:
        size = math.prod([shape[0], *(math.ceil(n / math.ceil(n / side)) for n in shape[1:])])
        super().__init__(MixedPool(side), nn.Flatten(), nn.Linear(size, classes))


def exits_at_shares(
    units: Sequence[nn.Module],
    last: nn.Module,
    image: Shape,
    shares: Sequence[float],
    head: Callable[[Shape], nn.Module],
) -> MultiExit:
    """Return a network of units with a head ``head(shape of the map)`` at each of the shares of its cost, and ``last``.

    Shares are of the MACs of the plain network (all units, then ``last``), counted. Weights of the plain network do not
    depend on the heads, which are made after it.
    """
    places = at_shares(units, last, image, shares)
    bounds = [0, *(i + 1 for i in places), len(units)]
    stages = [nn.Sequential(*units[a:b]).eval() for a, b in pairwise(bounds)]
    heads, x = [], torch.zeros(1, *image)
    with torch.no_grad():
        for stage in stages[:-1]:
            x = stage(x)
            heads.append(head(x.shape[1:]))
    return MultiExit(stages, [*heads, last]).eval()


def at_shares(units: Sequence[nn.Module], last: nn.Module, image: Shape, shares: Sequence[float]) -> list[int]:
    """Return the units after which the cost so far is nearest to each share of that of the plain network, rising.

    Raises `ValueError` for shares that do not rise between 0 and 1, or if two of them would fall on one unit.
    """
    if not all(a < b for a, b in pairwise([0.0, *shares, 1.0])):
        raise ValueError(f"exits stand at rising shares of the cost between 0 and 1, not at {tuple(shares)}")
    network = MultiExit(units, [*(nn.Identity() for _ in units[1:]), last]).eval()
    spent, full = costs.both_costs(network, torch.zeros(1, *image))
    parts = [cost / full[-1] for cost in spent[:-1]]
    places = [min(range(len(parts)), key=lambda i: (abs(parts[i] - share), i)) for share in shares]
    if len(set(places)) < len(places):
        told = ", ".join(f"{part:.0%}" for part in parts)
        raise ValueError(f"exits at {tuple(shares)} of the cost need more places; there are {told}")
    return places
