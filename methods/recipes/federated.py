"""Federated averaging: clients keep their data, a server averages what they have learnt; messages are real bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.policies.base import checked
from eelit.methods.world.wire import Whole

Ask = Callable[[bytes], bytes]
"""Sends a message to one client, wherever it is, and returns its answer."""
DRAWS = 1000
"""Most partitions that are drawn until every client has enough."""


def skewed(classes: int, clients: int, alpha: float, seed: int, *, least: float = 0.2) -> NDArray[np.float64]:
    """Return the share ``[classes, clients]`` that each client has of each class, a row from Dirichlet(alpha, … alpha).

    The smaller alpha, the fewer clients share a class. It is drawn anew until every client has at least ``least`` times
    as much as if all had the same. Raises `ValueError` if that never happens, or for numbers that allow no partition.
    """
    checked("skewed", "clients", clients, whole=True, least=1)
    checked("skewed", "alpha", alpha, above=0, finite=True)
    checked("skewed", "least", least, least=0, most=1)
    random = np.random.default_rng(seed)
    for _ in range(DRAWS):
        shares = random.dirichlet(np.full(clients, alpha), size=classes)
        if shares.sum(axis=0).min() >= least * classes / clients:
            return shares
    raise ValueError(f"no partition among {clients} clients with alpha {alpha:g} leaves each a share of {least:g}")


def divided(labels: Tensor, shares: NDArray[np.float64], seed: int) -> list[Tensor]:
    """Return the numbers of the samples that each client has, if it has these shares ``[classes, clients]`` of them.

    Every sample belongs to one client; which of a class go to whom follows the seed.
    """
    random = np.random.default_rng(seed)
    found: list[list[NDArray[np.int64]]] = [[] for _ in range(shares.shape[1])]
    for label, row in enumerate(shares):
        own = random.permutation(np.flatnonzero(labels.numpy() == label))
        bounds = np.rint(np.cumsum(row) * len(own)).astype(np.int64)[:-1]
        for client, part in enumerate(np.split(own, bounds)):
            found[client].append(part)
    return [torch.from_numpy(np.sort(np.concatenate(parts))) for parts in found]


@dataclass(frozen=True)
class Update:
    """What a client has learnt: its weight, usually the number of its samples, and the values that it sends.

    Of a tensor with a mask only the places where that is true count.
    """

    weight: float
    values: Mapping[str, Tensor]
    masks: Mapping[str, Tensor] = field(default_factory=dict)


def averaged(old: Mapping[str, Tensor], updates: Sequence[Update]) -> dict[str, Tensor]:
    """Return ``sum_k n_k m_kj theta_kj / sum_k n_k m_kj`` for each number j; what nobody sent stays as it was.

    Sums are of double precision, so that the mean of equal values is that value exactly.
    """
    found = {}
    for name, before in old.items():
        total, weight = torch.zeros_like(before, dtype=torch.float64), torch.zeros_like(before, dtype=torch.float64)
        for update in updates:
            if name in update.values:
                here = update.masks.get(name, torch.ones_like(before, dtype=torch.bool))
                total += torch.where(here, update.weight * update.values[name].double(), 0.0)
                weight += update.weight * here
        found[name] = torch.where(weight > 0, (total / weight).to(before.dtype), before)
    return found


@dataclass
class Traffic:
    """Bytes of each message, from the server (``down``) and to it (``up``)."""

    down: list[int] = field(default_factory=list)
    up: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All bytes, both ways."""
        return sum(self.down) + sum(self.up)


def exchange(asks: Sequence[Ask], told: Sequence[Any], traffic: Traffic) -> list[Any]:
    """Tell each client in turn a nesting of tensors, return what each answers, and note the bytes of all messages."""
    codec, found = Whole(), []
    for ask, each in zip(asks, told, strict=True):
        message = codec.pack(each)
        answer = ask(message)
        traffic.down.append(len(message))
        traffic.up.append(len(answer))
        found.append(codec.unpack(answer))
    return found
