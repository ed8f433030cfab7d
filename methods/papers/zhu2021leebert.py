"""LeeBERT: Learned Early Exit for BERT with cross-level optimization (LeeBERT).

Idea
    The teacher of an exit need not be the last exit: all others can teach it. This gives many losses whose best weights
    are unknown, so the weights are learned too, on the other half of the training data, by how much each loss helps
    there. Stop by patience, as in PABEE.

Model
    A head after each of n layers, z_i its logits: tanh pooler (one for all heads), then a linear layer of its own.

Training
    CE_m = CE(z_m, y);   KD_{m,k} = T^2 KL(softmax(z_k / T) || softmax(z_m / T)): exit m learns from exit k, z_k fixed.
    Teachers: all other exits (LAE), or the later ones (LLE).   L = sum_m w_m CE_m + s sum_{m,k} u_{m,k} KD_{m,k},
    with w a softmax over exits of numbers a_m and u a softmax over pairs of b_{m,k}, all 0 at first: equal weights.
    Two halves of the training data, D1 and D2. Each round draws a batch from either, and
    1. weights: theta' = theta - xi grad L(theta; D1);   a, b go down V(theta') + rho L(theta; D1), V the mean of all
       CE_m on D2. In the weight of a term l of L the slope of this is q_l = rho l - xi <grad l(theta; D1), grad
       V(theta')>, and the product is a difference of l itself, a little way to either side along grad V(theta');
    2. model: theta goes down L on both batches.

Exit rule
    cnt_1 = 0;  cnt_i = cnt_{i-1} + 1 if argmax z_i = argmax z_{i-1}, else 0.  Stop at exit i when cnt_i = patience.

Skipped
    All layers after the exit, with their heads.

Trained otherwise
    As many sentences in as many steps, but half a batch from either half of the data; and in every fourth round the
    loss weights take a step, for which the network runs four more times: learning them on data that the losses did not
    see is what the paper is about.

Deviations
    1. The paper's text was not available. It is known that it has both kinds of losses, LAE and LLE, learned weights,
       two halves of the data, gradients from both for the weights, patience. Ours are the softmax, V, the procedure of
       steps 1 and 2, and all numbers.
    2. MiniLM (6 layers) on Rotten Tomatoes, 4,000 training sentences, one epoch, instead of ALBERT and BERT (12 layers)
       on GLUE: what two cores can train in minutes. Batches of 4 from either half make 8. Weight decay 0.01, warm-up
       for 10 % of the steps and clipping at norm 1 are ours too.
    3. Heads have PABEE's pooler and read the mean over tokens: what differs from PABEE here is training alone.
    4. Step 1 comes in every fourth round, which saves a third of the training, and is without dropout, which finite
       differences would measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor, nn

from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.policies.patience import Patience
from eelit.methods.recipes.distillation import divergence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses

Terms: TypeAlias = tuple[Tensor, Tensor]
"""One number for the cross-entropy of each exit m ``[n]``, and one for each pair m, k (pupil, teacher) ``[n, n]``."""
Labelled: TypeAlias = tuple[Tensor, Tensor]
"""A batch: inputs ``[N, ...]`` and classes ``[N]``."""

REACH = 0.01
"""How far finite differences go to either side, in the norm of all parameters."""


class LossWeights(nn.Module):
    """The weights of the terms: w, a softmax over exits of a, and u, a softmax over all (pupil, teacher) pairs of b.

    Teachers are all other exits, or with ``later_only`` the later ones; all other pairs weigh nothing.
    """

    allowed: Tensor

    def __init__(self, exits: int, *, later_only: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(exits)), nn.Parameter(torch.zeros(exits, exits))
        other = torch.ones(exits, exits, dtype=torch.bool)
        self.register_buffer("allowed", other.triu(1) if later_only else other ^ torch.eye(exits, dtype=torch.bool))

    def forward(self) -> Terms:
        """Return ``w [n]`` and ``u [n, n]``; each sums to 1."""
        b = self.b.masked_fill(~self.allowed, -torch.inf)
        return self.a.softmax(dim=0), b.flatten().softmax(dim=0).reshape(b.shape)

    def fixed(self) -> Terms:
        """Return them without gradient."""
        w, u = self()
        return w.detach(), u.detach()


def loss_terms(z: Tensor, y: Tensor, temperature: float, teachers: Tensor | None = None) -> Terms:
    """Return ``CE_m`` and ``KD_{m,k} = T^2 KL(softmax(z_k / T) || softmax(z_m / T))`` of logits ``z [n, N, C]``.

    Teachers z_k are the same exits, or ``teachers [n, N, C]`` in their place; no gradient reaches them.
    """
    pupils, taught_by = z[:, None], (z if teachers is None else teachers)[None]
    return exit_losses(z, y), divergence(pupils, taught_by, temperature)


def weighted_loss(weights: Terms, terms: Terms, strength: float) -> Tensor:
    """``L = sum_m w_m CE_m + s sum_{m,k} u_{m,k} KD_{m,k}``."""
    (w, u), (CE, KD) = weights, terms
    return (w * CE).sum() + strength * (u * KD).sum()


@contextmanager
def moved(parameters: Sequence[nn.Parameter], direction: Sequence[Tensor], step: float) -> Iterator[None]:
    """Move the parameters along a direction for a while, then put them back exactly."""
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_add_(list(parameters), list(direction), alpha=step)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), kept)


def slopes_in_weights(
    model: MultiExit, weights: Terms, first: Labelled, second: Labelled, *, temperature: float, strength: float,
    look_ahead: float, own_share: float,
) -> Terms:  # fmt: skip
    """Return the slope q_l of ``V(theta') + rho L(theta; D1)`` in the weight of each term l (per unit of s).

    theta' depends on the weight of l through ``-xi grad l`` alone, so the slope of ``V(theta')`` is the product
    ``-xi <grad l(theta; D1), v>`` with ``v = grad V(theta'; D2)``, and this product is how fast l grows along v:
    ``(l(theta + e v) - l(theta - e v)) / 2e``, ``e = REACH / |v|``. Teachers stay where they are at theta, as no
    gradient of l goes through them. With ``q``, ``weighted_loss(weights, q, s)`` has in a and b the gradient wanted.
    """
    (x1, y1), (x2, y2), xi, rho = first, second, look_ahead, own_share
    theta = [*model.stages.parameters(), *model.heads.parameters()]
    z = model(x1)
    terms, teachers = loss_terms(z, y1, temperature), z.detach()
    own = [rho * each.detach() for each in terms]
    if xi == 0:
        return own[0], own[1]
    down = torch.autograd.grad(weighted_loss(weights, terms, strength), theta)
    with moved(theta, down, -xi):  # theta'
        v = torch.autograd.grad(exit_losses(model(x2), y2).mean(), theta)
    e = REACH / float(torch.stack([part.square().sum() for part in v]).sum().sqrt())
    with torch.no_grad(), moved(theta, v, e):
        above = loss_terms(model(x1), y1, temperature, teachers)
    with torch.no_grad(), moved(theta, v, -e):
        below = loss_terms(model(x1), y1, temperature, teachers)
    products = [(more - less) / (2 * e) for more, less in zip(above, below, strict=True)]
    return own[0] - xi * products[0], own[1] - xi * products[1]


def learn_weights(
    model: MultiExit, weights: LossWeights, optimiser: torch.optim.Optimizer, first: Labelled, second: Labelled,
    **how: float,
) -> None:  # fmt: skip
    """Let a and b make one step, from a batch of either half of the data; ``how`` is that of `slopes_in_weights`.

    The model is left as it was, and in training mode.
    """
    model.eval()  # finite differences would measure dropout
    q = slopes_in_weights(model, weights.fixed(), first, second, **how)
    optimiser.zero_grad()
    weighted_loss(weights(), q, how["strength"]).backward()
    optimiser.step()
    model.train()


def endless(examples: Examples, batch: int, seed: int, device: torch.device | None = None) -> Iterator[Labelled]:
    """Yield shuffled batches, inputs and classes, for ever, on the device."""
    shuffle = torch.Generator().manual_seed(seed)
    targets = examples.targets.to(device)
    while True:
        yield from ((x, targets[index]) for index, x in examples.batches(batch, shuffle, device=device))


@dataclass(frozen=True)
class LeeBert(TextMethod):
    """Mutual distillation with learned weights, and patience."""

    encoder: str = "minilm-l6"  # backbone; the paper: ALBERT-base, BERT-base
    corpus: str = "rotten-tomatoes"  # data; the paper: GLUE
    train_size: int = 4000  # training sentences, half of them for the weights' upper loss
    length: int = 40  # most word pieces of a sentence; the paper's is not known
    epochs: float = 1.0  # passes over them; the paper's are not known, as all below
    batch: int = 4  # sentences from either half; not known
    rate: float = 1e-4  # learning rate of the model; not known
    head_rate: float = 1e-3  # learning rate of the heads, which start from nothing; not known
    later_only: bool = False  # exits learn from later ones only (LLE); False: from all others (LAE)
    temperature: float = 2.0  # T
    strength: float = 1.0  # s: 0 leaves nothing but cross-entropy
    look_ahead: float = 0.01  # xi, the step from theta to theta'
    own_share: float = 0.1  # rho, the share of L(theta; D1) in what the weights follow; 0 is the classic two levels
    weight_rate: float = 0.05  # learning rate of a and b; 0 keeps all weights equal; not known
    every: int = 4  # rounds from one step of a and b to the next

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "patience"
    knobs: ClassVar[tuple[float, ...]] = (0, 1, 2, 3, 4, 5)
    # A round costs two batches, and three networks are trained: fewer and faster rounds, weights learned more rarely.
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 300, "epochs": 0.75, "batch": 16, "rate": 2e-4, "head_rate": 2e-3, "every": 8,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {**TextMethod.others, "every": 1}
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"LAE": {}, "LLE": {"later_only": True}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 900, "epochs": 4.0, "rate": 5e-3, "head_rate": 2e-2,
        "batch": 16,
    }  # fmt: skip

    def build(self, data: Data, seed: int) -> MultiExit:
        """PABEE's network, with the weights of the losses."""
        model = super().build(data, seed)
        model.add_module("weights", LossWeights(model.exits, later_only=self.later_only))
        return model

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Weights and model in turn, each round on a batch from either half of the training data."""
        half = len(data.train) // 2
        D1, D2 = data.train.head(half), Examples(data.train.inputs[half:], data.train.targets[half:])
        weights = cast(LossWeights, model.get_submodule("weights"))
        how = {"temperature": self.temperature, "strength": self.strength}
        how |= {"look_ahead": self.look_ahead, "own_share": self.own_share}

        def train() -> None:
            adam = torch.optim.Adam(weights.parameters(), lr=self.weight_rate)
            from_D2 = endless(D2, self.batch, bench.seed, device_of(model))

            def loss(batch: Batch) -> Tensor:
                first, second = (batch.inputs, batch.targets), next(from_D2)
                if batch.step % self.every == 0 and self.weight_rate > 0:
                    learn_weights(model, weights, adam, first, second, **how)
                terms = [loss_terms(model(x), y, self.temperature) for x, y in (first, second)]
                return torch.stack([weighted_loss(weights.fixed(), each, self.strength) for each in terms]).mean()

            model.train()
            fit(
                [*model.stages.parameters(), *model.heads.parameters()], D1, loss, bench, label="cross-level training",
                epochs=self.epochs, batch=self.batch, rate=self.rate, faster=model.heads.parameters(),
                faster_rate=self.head_rate, beside=(adam,),
            )  # fmt: skip

        rates = {"weight_rate": self.weight_rate, "every": self.every}
        settings = {**how, **rates, "train": len(data.train), **self.options}
        trained(model, train, bench, data=data.digest, settings=settings)
        model.eval()

    def policy(self, knob: float, prepared: Prepared) -> Patience:
        """The knob is the patience."""
        return Patience(int(knob))
