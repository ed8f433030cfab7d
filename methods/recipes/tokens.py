"""Training a decoder with an exit after every layer on running text, then the gate that learns when to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eelit.methods.backbones.decoder import ExitDecoder
from eelit.methods.engine.method import Bench
from eelit.methods.engine.passages import LanguageData
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


class MuonAndAdam(torch.optim.Optimizer):
    """Muon for the first group of parameters, which must be matrices, AdamW for the others.

    Muon takes a decoder of this size about twice as far as AdamW in the same time.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})
        matrices, *rest = ({"params": group["params"], "lr": group["lr"]} for group in self.param_groups)
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon([matrices], lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98)),
        ]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step with the rates that the schedule has set."""
        inner = [group for part in self.parts for group in part.param_groups]
        for group, own in zip(self.param_groups, inner, strict=True):
            own["lr"] = group["lr"]
        for part in self.parts:
            part.step()


def train_tokens(
    model: ExitDecoder,
    data: LanguageData,
    bench: Bench,
    *,
    weights: Sequence[float],
    rate: float,
    other_rate: float,
    batch: int,
) -> None:
    """Minimise ``sum_i weights[i] * loss_i``, the losses of all exits in predicting the next token, in one pass.

    The layers' matrices learn by Muon at ``rate``, embeddings and norms by AdamW at ``other_rate``.
    """
    w = torch.tensor(weights)

    def loss(batch: Batch) -> Tensor:
        x = batch.inputs
        logits = model(x[:, :-1])
        return (w * exit_losses(logits.flatten(1, 2), x[:, 1:].flatten())).sum()

    def train() -> None:
        model.train()
        fit(
            model.language_model.parameters(), data.train, loss, bench,
            label="training all layers to predict", epochs=1, batch=batch, rate=rate, optimiser=MuonAndAdam,
            faster=model.vectors(), faster_rate=other_rate,
        )  # fmt: skip

    settings = {"weights": list(weights), "rate": rate, "other_rate": other_rate, "batch": batch}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


def gate_loss(gates: Tensor, right: Tensor) -> Tensor:
    """Return the loss of a gate's logits ``[E - 1, n, 2]``: cross-entropy with ``right [E - 1, n]``, balanced.

    In each layer the right count for the share of the wrong and the wrong for that of the right, so that both weigh
    alike together; then the mean over tokens and layers.
    """
    target = right.long()
    share = right.double().mean(dim=1, keepdim=True).to(gates.dtype)
    weight = torch.where(right, 1 - share, share)
    loss = F.cross_entropy(gates.flatten(0, 1), target.flatten(), reduction="none").view_as(weight)
    return (weight * loss).mean()


def train_gate(model: ExitDecoder, data: LanguageData, bench: Bench, *, windows: int, rate: float, batch: int) -> None:
    """Train the gate alone, on the first ``windows`` training windows, everything else frozen.

    It shall say 1 where a layer (but the last) already predicts the token that the last layer predicts.
    """

    def loss(batch: Batch) -> Tensor:
        x = batch.inputs
        with torch.no_grad():
            states = model.states(x[:, :-1]).flatten(1, 2)
            said = torch.stack([model.head(state).argmax(dim=-1) for state in states])
        return gate_loss(model.gate(states[:-1]), said[:-1] == said[-1])

    def train() -> None:
        fit(
            model.gate.parameters(), data.train.head(windows), loss, bench,
            label="training the gate", epochs=1, batch=batch, rate=rate,
        )  # fmt: skip

    trained(model, train, bench, data=data.digest, settings={"windows": windows, "rate": rate, "batch": batch})
    model.eval()
