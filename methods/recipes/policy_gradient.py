"""Learning where to leave from delayed rewards: REINFORCE over the exits of one network (zeng2024consistentee)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eelit.methods.backbones.choosing import ChoosingExits
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.weights import trained
from eelit.methods.recipes.fit import Batch, fit

READ = 64  # samples at a time when the frozen states are stored


def memorised_layer(right: Tensor) -> Tensor:
    """Return for each sample the first exit (from 1) from which on all are right; E if even the last is wrong.

    ``right [E, n]`` says which exits know the label. Small means easy.
    """
    unbroken = right.flip(0).long().cumprod(dim=0).sum(dim=0)
    return (len(right) + 1 - unbroken).clamp(max=len(right))


def reward(losses: Tensor, exits: Tensor, memorised: Tensor, *, alpha: float, guided: bool) -> Tensor:
    """Return ``-loss at the exit - alpha * (1 - memorised / E) * exit``, exits counted from 1 in the price.

    ``losses [E, n]``; ``exits`` from 0, ``[K, n]``; ``memorised [n]``. Unless ``guided``, all pay the same price.
    """
    price = alpha * (1 - memorised / len(losses)) if guided else torch.full_like(losses[0], alpha)
    return -losses.gather(0, exits) - price * (exits + 1)


def draw(leave: Tensor, trajectories: int) -> Tensor:
    """Return exits (from 0) ``[K, n]``: the first at which a coin of probability ``sigmoid(leave)`` says so.

    ``leave [E - 1, n]`` are logits; whoever leaves nowhere leaves at the last exit.
    """
    p = leave.detach().sigmoid()
    coins = torch.rand(trajectories, *p.shape) < p
    last = torch.ones_like(coins[:, :1])
    return torch.cat([coins, last], dim=1).long().argmax(dim=1)


def log_exit_probabilities(leave: Tensor) -> Tensor:
    """Return ``log P(exit)`` ``[E, n]`` from logits ``[E - 1, n]``: leave there, and nowhere before.

    At the last exit there is no choice, so only the earlier decisions to go on count.
    """
    going_on = F.logsigmoid(-leave).cumsum(dim=0)
    first = torch.zeros_like(leave[:1])
    return torch.cat([F.logsigmoid(leave), first]) + torch.cat([first, going_on])


def policy_loss(leave: Tensor, exits: Tensor, rewards: Tensor) -> Tensor:
    """Return ``- mean of (R - mean of R over the trajectories) * log P`` for exits and rewards ``[K, n]``."""
    advantage = rewards - rewards.mean(dim=0, keepdim=True)
    return -(advantage.detach() * log_exit_probabilities(leave).gather(0, exits)).mean()


def task_loss(losses: Tensor, exits: Tensor) -> Tensor:
    """Return the mean loss at the exits ``[K, n]`` alone: what a sample does not leave through learns nothing of it."""
    return losses.gather(0, exits).mean()


def exit_losses_each(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of every sample at every exit, ``[E, n]``, for logits ``[E, n, C]``."""
    exits, n, classes = outputs.shape
    flat = F.cross_entropy(outputs.reshape(exits * n, classes), targets.repeat(exits), reduction="none")
    return flat.reshape(exits, n)


def train_choosing(
    model: ChoosingExits,
    data: Data,
    bench: Bench,
    *,
    alpha: float,
    guided: bool,
    trajectories: int,
    batch: int,
    epochs: float,
    rate: float,
    joint_epochs: float,
    joint_rate: float,
) -> None:
    """Train the policies on the frozen network, then everything together. The network must have been trained before.

    How far each sample is memorised is found once, before.
    """
    price: dict[str, Any] = {"alpha": alpha, "guided": guided}

    def train() -> None:
        states, losses, memorised = _frozen(model, data.train, bench)

        def first(batch: Batch) -> Tensor:
            index, read = batch.index, batch.inputs
            leave = torch.stack([head.leave(read[:, i]) for i, head in enumerate(model.choosing)])
            exits = draw(leave, trajectories)
            return policy_loss(leave, exits, reward(losses[:, index], exits, memorised[index], **price))

        def second(batch: Batch) -> Tensor:
            index, x = batch.index, batch.inputs
            outputs, leave = model.both(x)
            each, exits = exit_losses_each(outputs, batch.targets), draw(leave, trajectories)
            rewards = reward(each.detach(), exits, memorised[index], **price)
            return task_loss(each, exits) + policy_loss(leave, exits, rewards)

        policies = [p for head in model.choosing for p in head.policy.parameters()]
        fit(policies, states, first, bench, label="training the policies", epochs=epochs, batch=batch, rate=rate)
        model.train()
        options: dict[str, Any] = {"epochs": joint_epochs, "batch": batch, "rate": joint_rate}
        fit(model.parameters(), data.train, second, bench, label="training everything together", **options)

    settings = {"trajectories": trajectories, "batch": batch, "epochs": epochs, "rate": rate, **price}
    settings |= {"joint_epochs": joint_epochs, "joint_rate": joint_rate, "train": len(data.train)}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@torch.no_grad()
def _frozen(model: ChoosingExits, examples: Examples, bench: Bench) -> tuple[Examples, Tensor, Tensor]:
    """Return what the policies read of each sample ``[E - 1, d]``, all losses ``[E, N]``, and the memorised layers."""
    model.eval()
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    losses, right = torch.empty(model.exits, len(examples)), torch.empty(model.exits, len(examples), dtype=torch.bool)
    done = 0
    for index, x in examples.batches(READ):
        states = list(model.states(x))
        pooled = [head.pooled(state) for head, state in zip(model.choosing, states, strict=False)]
        answers = [head.answer(read) for head, read in zip(model.choosing, pooled, strict=True)]
        outputs, targets = torch.stack([*answers, model.final(states[-1])]), examples.targets[index]
        losses[:, index], right[:, index] = exit_losses_each(outputs, targets), outputs.argmax(dim=-1) == targets
        for i, sample in zip(index.tolist(), torch.stack(pooled, dim=1), strict=True):
            found[i] = sample.clone()
        done += len(index)
        bench.progress("states of the frozen network", done / len(examples))
    return Examples(found, examples.targets), losses, memorised_layer(right)
