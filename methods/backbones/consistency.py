"""A text encoder whose exits give, beside an answer, a score of how likely the full model agrees (schuster2021cats)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.encoder import EncoderStage, PooledHead, encoder, pooler_of, stages_of
from eelit.methods.engine.multi_exit import MultiExit

HIDDEN = 32

Looked = tuple[Tensor, Tensor, Tensor]
"""Hidden states ``[N, T, d]``, the present ramp's features ``[N, 32]``, logits of the ramps so far ``[N, k, C]``."""


class Ramp(nn.Module):
    """An early head: mean token ``[N, d]`` → 32 features, their tanh → logits over a temperature that is set later."""

    temperature: Tensor

    def __init__(self, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.inner, self.outer = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, classes)
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Return features ``[N, 32]`` and logits ``[N, C]``."""
        features = torch.tanh(self.inner(self.dropout(read)))
        return features, self.outer(features) / self.temperature


class Meta(nn.Module):
    """Says from the ramps so far whether the present answer is the full model's; one for all exits.

    It reads the predicted class (one-hot), the ramp's features, the largest probability and its lead over the second,
    what exits k-1 … 2 gave to the same class (zeros for those not seen), and how deep exit k lies: (k - 1) / (E - 1).
    """

    def __init__(self, classes: int, exits: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.exits = exits
        self.dropout = nn.Dropout(dropout)
        self.inner = nn.Linear(classes + HIDDEN + 2 + max(0, exits - 3) + 1, HIDDEN)
        self.outer = nn.Linear(HIDDEN, 2)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """From features ``[N, 32]`` and logits of exits 1 … k ``[N, k, C]`` to logits of (no, yes) ``[N, 2]``."""
        k, p = logits.shape[1], logits.softmax(dim=-1)
        best, which = p[:, -1].topk(2)
        top = which[:, :1]
        earlier = p[:, 1 : k - 1].flip(1) if k > 2 else p[:, :0]
        earlier = earlier.gather(2, top[:, :, None].expand(-1, earlier.shape[1], 1)).squeeze(2)
        past = F.pad(earlier, (0, max(0, self.exits - 3) - earlier.shape[1]))
        said = torch.eye(p.shape[-1])[top[:, 0]]
        depth = torch.full_like(best[:, :1], (k - 1) / (self.exits - 1))
        lead = best[:, :1] - best[:, 1:]
        seen = torch.cat([said, self.dropout(features), best[:, :1], lead, past, depth], dim=1)
        return self.outer(torch.tanh(self.inner(seen)))


class RampStage(nn.Module):
    """A layer with its ramp, whose answer later exits want to know too; the first takes token ids ``[N, T]``."""

    def __init__(self, layer: EncoderStage, ramp: Ramp) -> None:
        super().__init__()
        self.layer, self.ramp = layer, ramp

    def forward(self, state: Tensor | Looked) -> Looked:
        """Run the layer and the ramp."""
        before, logits = (state, []) if isinstance(state, Tensor) else (state[0], [state[2]])
        hidden = self.layer(before)
        features, said = self.ramp(hidden.mean(dim=1))
        return hidden, features, torch.cat([*logits, said[:, None]], dim=1)


class LastStage(nn.Module):
    """The last layer, from what `RampStage` gives."""

    def __init__(self, layer: EncoderStage) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, state: Looked) -> Tensor:
        """Return hidden states ``[N, T, d]``."""
        return self.layer(state[0])


class ScoredHead(nn.Module):
    """The present ramp's logits ``[N, C]`` and their score ``[N]``: the probability that `Meta` gives to "yes"."""

    def __init__(self, meta: Meta) -> None:
        super().__init__()
        self.meta = meta

    def forward(self, state: Looked) -> Any:
        """Score the answer of the last ramp that was run."""
        _, features, logits = state
        said = logits[:, -1]
        return {"answer": said, "score": self.meta(features, logits).softmax(dim=-1)[:, 1]}


class LastHead(nn.Module):
    """The network's own head; its answer is the full model's, so it needs no score."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, state: Tensor) -> Tensor:
        """Return logits ``[N, C]``."""
        out: Tensor = self.plain(state)
        return out


class ConsistencyExits(MultiExit):
    """An encoder with ramps. ``full`` is the plain network: layers and last head, no ramp, no score."""

    @property
    def meta(self) -> Meta:
        """The score of consistency, one for all exits."""
        return cast(ScoredHead, self.heads[0]).meta

    @property
    def ramps(self) -> list[Ramp]:
        """The early heads, one per exit before the last."""
        return [cast(RampStage, stage).ramp for stage in self.stages[:-1]]

    @property
    def layers(self) -> list[EncoderStage]:
        """The layers of the plain network."""
        return [cast(RampStage | LastStage, stage).layer for stage in self.stages]

    def full(self, x: Any) -> Tensor:
        """Return the logits ``[N, C]`` of the plain network."""
        for layer in self.layers:
            x = layer(x)
        return self._plain(x)

    @torch.no_grad()
    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean token after each layer but the last ``[N, E - 1, d]`` and the plain logits ``[N, C]``."""
        means = []
        for layer in self.layers:
            x = layer(x)
            means.append(x.mean(dim=1))
        return torch.stack(means[:-1], dim=1), self._plain(x)

    def _plain(self, hidden: Tensor) -> Tensor:
        return cast(LastHead, self.heads[-1]).plain(hidden)


def consistency_exits(name: str, classes: int, *, seed: int) -> ConsistencyExits:
    """Return a pretrained encoder with ramps and a score of their consistency."""
    torch.manual_seed(seed)
    model = encoder(name)
    layers, pooler = stages_of(model), pooler_of(model)
    last = PooledHead(pooler, classes)
    stages = [RampStage(layer, Ramp(pooler.in_features, classes)) for layer in layers[:-1]]
    meta = Meta(classes, len(layers))
    heads = [ScoredHead(meta) for _ in stages]
    return ConsistencyExits([*stages, LastStage(layers[-1])], [*heads, LastHead(last)]).eval()
