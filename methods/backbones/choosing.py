"""A text encoder with a head and, beside it, a small policy that says whether to leave (zeng2024consistentee)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import PooledHead, text_exits
from eelit.methods.engine.multi_exit import MultiExit

HIDDEN = 32


class ChoosingHead(nn.Module):
    """A pooled head, and a policy ``W2 gelu(W1 pooled)`` whose sigmoid is the probability to leave here."""

    def __init__(self, plain: PooledHead) -> None:
        super().__init__()
        self.plain = plain
        self.policy = nn.Sequential(nn.Linear(plain.pooler.out_features, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def pooled(self, state: Tensor) -> Tensor:
        """Return what both read of hidden states ``[N, T, d]``: ``[N, d]``."""
        return torch.tanh(self.plain.pooler(state.mean(dim=1)))

    def answer(self, pooled: Tensor) -> Tensor:
        """Return the logits ``[N, C]`` of the classifier."""
        return self.plain.classifier(self.plain.dropout(pooled))

    def leave(self, pooled: Tensor) -> Tensor:
        """Return the logit ``[N]`` of leaving here."""
        out: Tensor = self.policy(pooled).squeeze(-1)
        return out

    def forward(self, state: Tensor) -> Any:
        """Return the answer's logits ``[N, C]`` and the probability to leave ``[N]``."""
        pooled = self.pooled(state)
        return {"answer": self.answer(pooled), "leave": self.leave(pooled).sigmoid()}


class FinalHead(nn.Module):
    """The last head: whoever comes here is answered, so it has no policy."""

    def __init__(self, plain: PooledHead) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, state: Tensor) -> Tensor:
        """Return logits ``[N, C]``."""
        return self.plain(state)


class ChoosingExits(MultiExit):
    """An encoder with a head after every layer and a policy beside each but the last."""

    @property
    def choosing(self) -> list[ChoosingHead]:
        """The heads before the last."""
        return [cast(ChoosingHead, head) for head in self.heads[:-1]]

    @property
    def final(self) -> PooledHead:
        """The last head."""
        return cast(FinalHead, self.heads[-1]).plain

    def plain(self) -> MultiExit:
        """Return the same layers and classifiers, weights shared, without policies."""
        return MultiExit(self.stages, [cast(ChoosingHead | FinalHead, head).plain for head in self.heads])

    def both(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return the logits of all classifiers ``[E, N, C]`` and the logits of leaving ``[E - 1, N]``."""
        pooled, state = [], x
        for stage, head in zip(self.stages, self.choosing, strict=False):
            state = stage(state)
            pooled.append(head.pooled(state))
        answers = [head.answer(read) for head, read in zip(self.choosing, pooled, strict=True)]
        leave = [head.leave(read) for head, read in zip(self.choosing, pooled, strict=True)]
        return torch.stack([*answers, self.final(self.stages[-1](state))]), torch.stack(leave)


def choosing_exits(name: str, classes: int, *, seed: int) -> ChoosingExits:
    """Return a pretrained encoder with heads that share one pooler, as `text_exits` makes them, and new policies."""
    plain = text_exits(name, classes, seed=seed)
    *early, last = (cast(PooledHead, head) for head in plain.heads)
    return ChoosingExits(plain.stages, [*(ChoosingHead(head) for head in early), FinalHead(last)]).eval()
