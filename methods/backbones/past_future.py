"""A text encoder whose exits see all layers: those passed as they are, those to come as they are imagined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import encoder, pooler_of, stages_of
from eelit.methods.engine.multi_exit import MultiExit

State = tuple[Tensor, Tensor]
"""Hidden states ``[N, T, d]`` and what was pooled of each layer so far, ``[N, i, d]``."""


class PooledStage(nn.Module):
    """One layer with a tanh pooler of its own on the mean token."""

    def __init__(self, layer: nn.Module, pooler: nn.Linear) -> None:
        super().__init__()
        self.layer, self.pooler = layer, pooler

    def pool(self, hidden: Tensor) -> Tensor:
        """From hidden states ``[N, T, d]`` to ``[N, d]``."""
        return torch.tanh(self.pooler(hidden.mean(dim=1)))

    def forward(self, state: Tensor | State) -> State:
        """Run the layer and pool; the first stage takes token ids ``[N, T]``."""
        hidden = self.layer(state if isinstance(state, Tensor) else state[0])
        own = self.pool(hidden)[:, None]
        return hidden, own if isinstance(state, Tensor) else torch.cat([state[1], own], dim=1)


class GlobalView(nn.Module):
    """What all exits share: the imitation of the layers to come, the classifier of all layers, and its gate."""

    def __init__(self, layers: int, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.imitate_weight = nn.Parameter(torch.randn(layers, width, width) * 0.02)
        self.imitate_bias = nn.Parameter(torch.zeros(layers, width))
        self.classify_weight = nn.Parameter(torch.randn(layers, width, 2 * classes) * 0.02)
        self.classify_bias = nn.Parameter(torch.zeros(layers, 2 * classes))
        self.gate = nn.Linear(classes, classes)
        self.dropout = nn.Dropout(dropout)

    def imagine(self, own: Tensor, passed: int) -> Tensor:
        """Return the pooled states ``[N, n - passed, d]`` of layers to come, imitated from the present ``[N, d]``."""
        weight, bias = self.imitate_weight[passed:], self.imitate_bias[passed:]
        return torch.tanh(torch.einsum("nd,kde->nke", own, weight) + bias)

    def classify(self, past: Tensor, future: Tensor) -> Tensor:
        """Return logits ``[N, C]`` from the pooled states ``[N, i, d]`` and the imagined ones ``[N, n - i, d]``."""
        view = self.dropout(torch.cat([past, future], dim=1))
        scores, features = (torch.einsum("nkd,kdc->nkc", view, self.classify_weight) + self.classify_bias).chunk(
            2, dim=-1
        )
        i = past.shape[1]
        share = torch.sigmoid(self.gate(torch.tanh(features[:, :i].mean(dim=1))))
        return 2 * share * scores[:, :i].sum(dim=1) + (2 - 2 * share) * scores[:, i:].sum(dim=1)


class GlobalHead(nn.Module):
    """The exit after ``passed`` layers: its own states, the imagined ones, one answer."""

    def __init__(self, view: GlobalView, passed: int) -> None:
        super().__init__()
        self.view, self.passed = view, passed

    def forward(self, state: State) -> Tensor:
        """From the state of `PooledStage` to logits ``[N, C]``."""
        past = state[1]
        return self.view.classify(past, self.view.imagine(past[:, -1], self.passed))


def past_future(layers: Sequence[nn.Module], poolers: Iterable[nn.Linear], view: GlobalView) -> MultiExit:
    """Return layers with an exit of global view behind each."""
    stages = [PooledStage(layer, pooler) for layer, pooler in zip(layers, poolers, strict=True)]
    return MultiExit(stages, [GlobalHead(view, i) for i in range(1, len(stages) + 1)]).eval()


def past_future_encoder(name: str, classes: int, *, seed: int) -> MultiExit:
    """Return a text encoder with such exits; each layer's pooler starts as a copy of the pretrained one."""
    torch.manual_seed(seed)
    model = encoder(name)
    layers = stages_of(model)
    width = pooler_of(model).out_features
    return past_future(layers, [pooler_of(model) for _ in layers], GlobalView(len(layers), width, classes))


def routed(
    model: MultiExit, x: Any, detached: Callable[[int], bool] = lambda i: False
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return logits ``[E, N, C]``, pooled ``[N, E, d]`` and imagined states (E times ``[N, E - i, d]``) for training.

    An exit trains the network through its own layer alone: the states of earlier layers enter it without gradient. The
    output of layer i (from 0) lets no gradient pass to itself where ``detached(i)``.
    """
    view = cast(GlobalHead, model.heads[0]).view
    outputs: list[Tensor] = []
    past: list[Tensor] = []
    imagined: list[Tensor] = []
    hidden = x
    for i, stage in enumerate(cast(Iterable[PooledStage], model.stages)):
        hidden = stage.layer(hidden)
        if detached(i):
            hidden = hidden.detach()
        own = stage.pool(hidden)
        imagined.append(view.imagine(own, i + 1))
        outputs.append(view.classify(torch.stack([*(h.detach() for h in past), own], dim=1), imagined[-1]))
        past.append(own)
    return torch.stack(outputs), torch.stack(past, dim=1), imagined


def imitation_loss(pooled: Tensor, imagined: Sequence[Tensor]) -> Tensor:
    """Mean over exits before the last of the mean of ``1 - cos`` between true and imagined states.

    The true states ``[N, E, d]`` are targets: no gradient passes to them.
    """
    true = pooled.detach()
    found = [1 - torch.cosine_similarity(true[:, i:], guess, dim=-1) for i, guess in enumerate(imagined[:-1], 1)]
    return torch.stack([each.mean() for each in found]).mean()
