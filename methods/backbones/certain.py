"""A text encoder whose exits say how certain they are of being right, one small unit serving all (xin2021berxit)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import PooledHead, encoder, pooler_of, stages_of
from eelit.methods.engine.multi_exit import MultiExit


class CertainHead(PooledHead):
    """A pooled head that gives the unit's certainty, in (0, 1), beside its answer."""

    def __init__(self, pooler: nn.Linear, outputs: int | None, unit: nn.Linear, last: bool) -> None:
        super().__init__(pooler, outputs)
        self.unit, self.last = unit, last

    def forward(self, state: Tensor) -> Any:
        """Read hidden states ``[N, T, d]``; return the answer ``[N, C]`` or ``[N]``, and its certainty ``[N]``.

        Once trained, the last head does not ask the unit, as nothing depends on it.
        """
        pooled = self.dropout(torch.tanh(self.pooler(state.mean(dim=1))))
        answer = self.classifier(pooled)
        answer = answer[:, 0] if answer.shape[1] == 1 else answer
        if self.last and not self.training:
            return answer
        return {"answer": answer, "certainty": torch.sigmoid(self.unit(pooled))[:, 0]}


def certain_exits(name: str, outputs: int | None, *, seed: int) -> MultiExit:
    """Return an encoder with a head after every layer, each with its own pooler, and one unit for all of them."""
    torch.manual_seed(seed)
    model = encoder(name)
    stages, unit = stages_of(model), nn.Linear(model.config.hidden_size, 1)
    heads = [CertainHead(pooler_of(model), outputs, unit, stage is stages[-1]) for stage in stages]
    return MultiExit(stages, heads).eval()
