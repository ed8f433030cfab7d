"""All exits teach each other; how much each loss counts is learned on the other half of the data (zhu2021leebert)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.distillation import divergence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses

Terms: TypeAlias = tuple[Tensor, Tensor]
"""One number for the cross-entropy of each exit ``[E]``, and one for each pair (pupil, teacher) of exits ``[E, E]``."""

REACH = 0.01
"""How far finite differences go to either side, in the norm of all parameters."""


class LossWeights(nn.Module):
    """Positive weights of the terms, equal at first: a softmax over exits, and another over all (pupil, teacher) pairs.

    Teachers are all other exits, or with ``later_only`` the later ones; all other pairs weigh nothing.
    """

    allowed: Tensor

    def __init__(self, exits: int, *, later_only: bool) -> None:
        super().__init__()
        self.exits, self.pairs = nn.Parameter(torch.zeros(exits)), nn.Parameter(torch.zeros(exits, exits))
        other = torch.ones(exits, exits, dtype=torch.bool)
        self.register_buffer("allowed", other.triu(1) if later_only else other ^ torch.eye(exits, dtype=torch.bool))

    def forward(self) -> Terms:
        """Return the weights; those of exits sum to 1, and so do those of pairs."""
        pairs = self.pairs.masked_fill(~self.allowed, -torch.inf)
        return self.exits.softmax(dim=0), pairs.flatten().softmax(dim=0).reshape(pairs.shape)

    def fixed(self) -> Terms:
        """Return the weights without gradient."""
        exits, pairs = self()
        return exits.detach(), pairs.detach()


def terms(outputs: Tensor, targets: Tensor, temperature: float, teachers: Tensor | None = None) -> Terms:
    """Return cross-entropies and, for each pair, the pupil's `divergence` from the teacher, of logits ``[E, N, C]``.

    Teachers are the same exits, or ``teachers [E, N, C]`` in their place.
    """
    taught = divergence(outputs[:, None], (outputs if teachers is None else teachers)[None], temperature)
    return exit_losses(outputs, targets), taught


def weighed(weights: Terms, values: Terms, strength: float) -> Tensor:
    """Return the weighed sum of cross-entropies plus ``strength`` times that of divergences."""
    return (weights[0] * values[0]).sum() + strength * (weights[1] * values[1]).sum()


@contextmanager
def shifted(parameters: Sequence[nn.Parameter], direction: Sequence[Tensor], step: float) -> Iterator[None]:
    """Move the parameters along a direction for a while, then put them back exactly."""
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_add_(list(parameters), list(direction), alpha=step)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), kept)


def worth(
    parameters: Sequence[nn.Parameter],
    first: Callable[[], Tensor],
    judge: Callable[[Tensor, Tensor], Terms],
    second: Callable[[], Tensor],
    weights: Terms,
    *,
    strength: float,
    step: float,
    share: float,
) -> Terms:
    """Return ``share * l_j - step * <grad l_j, grad V'>`` of each term l_j: the less, the more it deserves its weight.

    ``first`` gives the logits on one batch, ``judge`` the terms from these and the teachers' logits, ``second`` the
    loss V on another batch; V' is V after one step of length ``step`` down the weighed terms. So ``weighed(weights,
    worth)`` has, in the weights, the slope of V' plus ``share`` times the slope of the weighed terms. The products come
    from finite differences, for which the teachers stay where they are: no gradient of l_j goes through them.
    """
    outputs = first()
    here, teachers = judge(outputs, outputs), outputs.detach()
    own = [share * value.detach() for value in here]
    if step == 0:
        return own[0], own[1]
    down = torch.autograd.grad(weighed(weights, here, strength), parameters)
    with shifted(parameters, down, -step):
        towards = torch.autograd.grad(second(), parameters)
    reach = REACH / float(torch.stack([t.square().sum() for t in towards]).sum().sqrt())
    with torch.no_grad(), shifted(parameters, towards, reach):
        above = judge(first(), teachers)
    with torch.no_grad(), shifted(parameters, towards, -reach):
        below = judge(first(), teachers)
    slopes = [(a - b) / (2 * reach) for a, b in zip(above, below, strict=True)]
    return own[0] - step * slopes[0], own[1] - step * slopes[1]


def endless(examples: Examples, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches, targets and inputs, for ever."""
    shuffle = torch.Generator().manual_seed(seed)
    while True:
        yield from ((examples.targets[index], x) for index, x in examples.batches(batch, shuffle))


def learn_weights(
    model: MultiExit,
    weights: LossWeights,
    rule: torch.optim.Optimizer,
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    *,
    temperature: float,
    **how: float,
) -> None:
    """Let the weights make one step of their own, from one batch of targets and inputs of either half of the data.

    ``how`` is that of `worth`. The model is left as it was, and in training mode.
    """
    (y, x), (y2, x2) = first, second
    model.eval()  # finite differences would measure dropout
    now = worth(
        [*model.stages.parameters(), *model.heads.parameters()],
        lambda: model(x),
        lambda pupils, teachers: terms(pupils, y, temperature, teachers),
        lambda: exit_losses(model(x2), y2).mean(),
        weights.fixed(),
        **how,
    )
    rule.zero_grad()
    weighed(weights(), now, how["strength"]).backward()
    rule.step()
    model.train()


def train_cross_level(
    model: MultiExit, weights: LossWeights, data: Data, bench: Bench, *, temperature: float, strength: float,
    look_ahead: float, own_share: float, weight_rate: float, every: int, batch: int, head_rate: float, **options: Any,
) -> None:  # fmt: skip
    """Learn model and weights in turn. Each step takes ``batch`` samples from either half of the training data.

    In the first of ``every`` steps the weights, a part of the model, follow `worth` (step ``look_ahead``, share
    ``own_share``) with Adam at ``weight_rate``; if that is 0 they stay equal. In each step the model then follows the
    weighed terms on both batches, heads at ``head_rate``. ``options`` are those of `fit`, for the model.
    """
    half = len(data.train) // 2
    ours, others = data.train.head(half), Examples(data.train.inputs[half:], data.train.targets[half:])
    how = {"temperature": temperature, "strength": strength, "step": look_ahead, "share": own_share}

    def train() -> None:
        rule = torch.optim.Adam(weights.parameters(), lr=weight_rate)
        batches, steps = endless(others, batch, bench.seed), count()

        def loss(batch: Batch) -> Tensor:
            x = batch.inputs
            both = ((batch.targets, x), next(batches))
            if next(steps) % every == 0 and weight_rate > 0:
                learn_weights(model, weights, rule, both[0], both[1], **how)
            losses = [weighed(weights.fixed(), terms(model(x), y, temperature), strength) for y, x in both]
            return torch.stack(losses).mean()

        model.train()
        fit(
            [*model.stages.parameters(), *model.heads.parameters()], ours, loss, bench, batch=batch,
            label="training all exits, the weights of their losses beside",
            faster=model.heads.parameters(), faster_rate=head_rate, **options,
        )  # fmt: skip

    rates = {"weight_rate": weight_rate, "every": every, "head_rate": head_rate, "batch": batch}
    settings = {**how, **rates, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()
