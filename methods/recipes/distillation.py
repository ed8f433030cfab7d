"""Joint training in which exits also learn from other exits' softened answers (geng2021romebert, zhu2021leebert)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses
from eelit.methods.recipes.projection import projected


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 KL(softmax(teacher / T) || softmax(student / T))`` of logits ``[..., N, C]``, mean over N.

    No gradient reaches the teacher.
    """
    ours = F.log_softmax(student / temperature, dim=-1)
    theirs = F.log_softmax(teacher.detach() / temperature, dim=-1)
    return (theirs.exp() * (theirs - ours)).sum(dim=-1).mean(dim=-1) * temperature**2


def last_teaches(outputs: Tensor, targets: Tensor, *, gamma: float, temperature: float) -> tuple[Tensor, Tensor]:
    """Return two losses from logits ``[E, N, C]``: of all exits but the last together, and of the last.

    An early exit's is ``(1 - gamma)`` its cross-entropy plus ``gamma`` its divergence from the last exit.
    """
    losses = exit_losses(outputs, targets)
    taught = divergence(outputs[:-1], outputs[-1], temperature)
    return ((1 - gamma) * losses[:-1] + gamma * taught).sum(), losses[-1]


def shared_matrices(model: MultiExit) -> list[nn.Parameter]:
    """Return the weight matrices of all encoder layers but the last: no embeddings, norms, biases or heads."""
    return [p for stage in model.stages[:-1] for p in stage.get_submodule("layer").parameters() if p.dim() > 1]


def train_distilled(
    model: MultiExit, data: Data, bench: Bench, *, gamma: float, temperature: float, leads: str | None = None,
    head_rate: float | None = None, **options: Any,
) -> None:  # fmt: skip
    """Minimise the sum of the losses of `last_teaches`; ``options`` are those of `fit`, ``head_rate`` as in joint.

    With ``leads`` ("early" or "last") the gradient of the other loss gives way to this one in `shared_matrices`, where
    they conflict (see `projection`); the buffer ``conflicts`` of the model then tells in which share of the steps.
    """

    def train() -> None:
        everything, conflicts = list(model.parameters()), list[bool]()

        def loss(batch: Batch) -> Tensor:
            x = batch.inputs
            both = last_teaches(model(x), batch.targets, gamma=gamma, temperature=temperature)
            if leads is None:
                return both[0] + both[1]
            leading, other = both if leads == "early" else both[::-1]
            stand_in, conflict = projected(leading, other, everything, shared_matrices(model))
            conflicts.append(conflict)
            return stand_in

        model.train()
        fit(
            everything, data.train, loss, bench, label="training all exits, the last teaching the others",
            faster=model.heads.parameters(), faster_rate=head_rate, **options,
        )  # fmt: skip
        if conflicts:
            model.get_buffer("conflicts").fill_(sum(conflicts) / len(conflicts))

    how = {"gamma": gamma, "temperature": temperature, "leads": leads, "head_rate": head_rate}
    trained(model, train, bench, data=data.digest, settings={**how, "train": len(data.train), **options})
    model.eval()
