"""A Consistent and Hardness-Guided Early Exiting Method for Accelerating Language Models Inference (ConsistentEE).

Idea
    Joint training requires all exits to be right on all inputs, but at inference one right exit is enough. So train as
    at inference: a small policy at each layer decides whether to leave, and only the classifier there learns from that
    input. The reward for speed depends on the hardness of an input: on the layer from which on the network has
    memorised it.

Model
    After each of L layers a classifier C_i on pooled_i, and a policy pi_i = sigmoid(W2 gelu(W1 pooled_i)) with 32
    hidden units: the probability to leave. The last layer has no policy.

Training
    1. Layers and classifiers together: sum_i i * CE_i / sum_i i. Then ml(x), the first layer from which on all
       classifiers are right on x (L if the last one is wrong), once for each training input.
    2. The policies, all else frozen, by REINFORCE: K trajectories for each input, in which it leaves at layer i with
       probability pi_i;  R = - CE(C_e(x), y) - alpha (1 - ml(x) / L) e  for leaving at e, so that an input that is
       memorised early pays for every layer and the hardest inputs pay nothing;  L_pi = - mean (R - mean_k R) log P(e),
       with
       log P(e) = log pi_e + sum_{i<e} log(1 - pi_i), and only the sum for e = L.
    3. Everything together: L_pi + L_task, L_task the mean cross-entropy at the exits taken. No other classifier gets a
       gradient from that input.

Exit rule
    Leave at the first layer with pi_i > 0.5 (strictly), else at L. alpha sets the speed, with one training run for
    each; here the knob moves the threshold of one training run: 0 leaves at the first layer, 1 never.

Skipped
    All layers after the exit, their classifiers and policies. Classifiers on the way do run; the paper skips them
    (0.3%).

Trained otherwise
    Besides the epoch that all rows have (phase 1), the policies alone are trained for six more on stored states (phase
    2), and everything together for half an epoch (phase 3): learning from rewards where to leave is what the paper is
    about.

Deviations
    1. MiniLM on 4,000 sentences of Rotten Tomatoes, one epoch in batches of 8 at rate 1e-4 (heads: 1e-3), read by its
       mean over tokens, not BERT-base and LLaMA, five epochs in batches of 16 at 1e-5. In each phase the rate warms up
       for 10 % of the steps and weights decay by 0.01; the released script does neither. Gradients are clipped at norm
       1, as there.
    2. One alpha for each variant, and a curve over the threshold, which stays 0.5 in the paper. Guided, a layer costs
       0.66 alpha on average here; one price for all is 0.5 alpha: at threshold 0.5 both then save 35 to 40 %.
    3. Phase 2 learns from states computed once, for six epochs at rate 1e-3 (released script: two at 3e-4, in batches
       of 32; the paper's own figures were not read, here or above); phase 3 takes half an epoch (released script: two).
       Leaving is drawn; in the released code pi_i > 0.5 decides in training too, and variety comes from dropout and
       random moves. There the last layer has a policy and a term in log P, and the reward uses the loss alone: ml is
       commented out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.encoder import PooledHead, text_exits
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.policies.base import widened
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import losses_of
from eelit.methods.recipes.two_stage import frozen_rows

HIDDEN = 32

# The network.


class ExitPolicyNetwork(nn.Module):
    """Says from pooled_i how likely it is to leave at layer i: ``pi_i = sigmoid(W2 gelu(W1 pooled_i))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W1, self.W2 = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits ``[N]`` of pi_i, from ``[N, d]``."""
        return self.W2(F.gelu(self.W1(pooled))).squeeze(-1)


class ExitWithPolicy(nn.Module):
    """The internal classifier C_i and the policy network of one layer, which read the same."""

    def __init__(self, classifier: PooledHead) -> None:
        super().__init__()
        self.classifier = classifier
        self.policy = ExitPolicyNetwork(classifier.pooler.out_features)

    def pooled(self, state: Tensor) -> Tensor:
        """Return pooled_i ``[N, d]`` of hidden states ``[N, T, d]``."""
        return torch.tanh(self.classifier.pooler(state.mean(dim=1)))

    def answer(self, pooled: Tensor) -> Tensor:
        """Return the classifier's logits ``[N, C]`` from ``[N, d]``."""
        return self.classifier.classifier(self.classifier.dropout(pooled))

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        """Return the answer's logits ``[N, C]`` and pi_i ``[N]`` from hidden states ``[N, T, d]``."""
        pooled = self.pooled(state)
        return {"answer": self.answer(pooled), "leave": widened(self.policy(pooled)).sigmoid()}


class ConsistentNetwork(MultiExit):
    """An encoder with a classifier after every layer, and a policy network beside each but the last."""

    @property
    def early(self) -> list[ExitWithPolicy]:
        """The exits before the last."""
        return [cast(ExitWithPolicy, head) for head in self.heads[:-1]]

    @property
    def policies(self) -> list[nn.Parameter]:
        """The parameters of all policy networks."""
        return [weights for head in self.early for weights in head.policy.parameters()]

    def without_policies(self) -> MultiExit:
        """Return the same layers and classifiers, weights shared."""
        return MultiExit(self.stages, [*(head.classifier for head in self.early), self.heads[-1]])

    def decisions(self, x: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return pooled_i ``[L - 1, N, d]``, logits of all C_i ``[L, N, C]``, and logits of all pi_i ``[L - 1, N]``."""
        *states, last = self.states(x)
        pooled = [head.pooled(state) for head, state in zip(self.early, states, strict=True)]
        answers = [head.answer(read) for head, read in zip(self.early, pooled, strict=True)]
        leave = [head.policy(read) for head, read in zip(self.early, pooled, strict=True)]
        return torch.stack(pooled), torch.stack([*answers, self.heads[-1](last)]), torch.stack(leave)


# What is learned from. Exits e are counted from 0 here, and from 1 in the equations.


def memorised_layer(right: Tensor) -> Tensor:
    """Return ml(x) ``[n]``: the first layer (from 1) from which on all classifiers are right; L if the last is wrong.

    ``right [L, n]`` says which classifiers know the label. Small means easy.
    """
    unbroken = right.flip(0).long().cumprod(dim=0).sum(dim=0)
    return (len(right) + 1 - unbroken).clamp(max=len(right))


def sampled_exits(leave: Tensor, trajectories: int) -> Tensor:
    """Return K exits of each input, ``[K, n]``: the first layer that draws to leave, with probability pi_i, else L.

    ``leave [L - 1, n]`` are the logits of the pi_i.
    """
    pi = widened(leave).sigmoid()
    drawn = torch.rand(trajectories, *pi.shape, device=pi.device) < pi
    last = torch.ones_like(drawn[:, :1])
    return torch.cat([drawn, last], dim=1).long().argmax(dim=1)


def reward(losses: Tensor, exits: Tensor, memorised: Tensor, *, alpha: float, guided: bool) -> Tensor:
    """Return ``R = - CE(C_e(x), y) - alpha (1 - ml(x) / L) e`` for leaving at ``exits [K, n]``, same shape.

    ``losses [L, n]``; ``memorised [n]`` is ml(x). Unless ``guided`` all inputs pay alpha for each layer.
    """
    price = alpha * (1 - memorised / len(losses)) if guided else torch.full_like(losses[0], alpha)
    return -losses.gather(0, exits) - price * (exits + 1)


def log_exit_probabilities(leave: Tensor) -> Tensor:
    """Return ``log P(e) = log pi_e + sum_{i<e} log(1 - pi_i)`` for all e, ``[L, n]``; for e = L only the sum.

    ``leave [L - 1, n]`` are the logits of the pi_i.
    """
    going_on = F.logsigmoid(-leave).cumsum(dim=0)
    nothing = torch.zeros_like(leave[:1])
    return torch.cat([F.logsigmoid(leave), nothing]) + torch.cat([nothing, going_on])


def policy_loss(leave: Tensor, exits: Tensor, rewards: Tensor) -> Tensor:
    """Return ``L_pi = - mean (R - mean_k R) log P(e)`` for exits and their rewards ``[K, n]``; R has no gradient."""
    advantage = (rewards - rewards.mean(dim=0)).detach()
    return -(advantage * log_exit_probabilities(leave).gather(0, exits)).mean()


def task_loss(losses: Tensor, exits: Tensor) -> Tensor:
    """Return ``L_task``, the mean of ``losses [L, n]`` at the exits taken ``[K, n]``, and at no other."""
    return losses.gather(0, exits).mean()


def reinforced(
    leave: Tensor, losses: Tensor, memorised: Tensor, *, trajectories: int, alpha: float, guided: bool
) -> tuple[Tensor, Tensor]:
    """Draw K exits of each input ``[K, n]``; return L_pi for them, and them."""
    exits = sampled_exits(leave, trajectories)
    return policy_loss(leave, exits, reward(losses, exits, memorised, alpha=alpha, guided=guided)), exits


def train_policies(
    model: ConsistentNetwork,
    data: Data,
    bench: Bench,
    *,
    batch: int,
    epochs: float,
    rate: float,
    joint_epochs: float,
    joint_rate: float,
    **terms: Any,
) -> None:
    """Phases 2 and 3, on a network that is trained: the policies on frozen states, then everything together.

    ``terms`` are those of `reinforced`.
    """

    def train() -> None:
        pooled, losses, memorised = frozen(model, data.train, bench)

        def phase_2(batch: Batch) -> Tensor:
            leave = torch.stack([head.policy(batch.inputs[:, i]) for i, head in enumerate(model.early)])
            return reinforced(leave, losses[:, batch.index], memorised[batch.index], **terms)[0]

        def phase_3(batch: Batch) -> Tensor:
            _, answers, leave = model.decisions(batch.inputs)
            losses = losses_of(answers, batch.targets)
            L_pi, exits = reinforced(leave, losses, memorised[batch.index], **terms)
            return L_pi + task_loss(losses, exits)

        fit(model.policies, pooled, phase_2, bench, label="training policies", epochs=epochs, batch=batch, rate=rate)
        model.train()
        options: dict[str, Any] = {"epochs": joint_epochs, "batch": batch, "rate": joint_rate}
        fit(model.parameters(), data.train, phase_3, bench, label="training everything together", **options)

    settings = {**terms, "batch": batch, "epochs": epochs, "rate": rate, "train": len(data.train)}
    settings |= {"joint_epochs": joint_epochs, "joint_rate": joint_rate}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


def frozen(model: ConsistentNetwork, examples: Examples, bench: Bench) -> tuple[Examples, Tensor, Tensor]:
    """Return what phase 1 made of all examples: the pooled_i ``[L - 1, d]``, losses ``[L, N]`` and ml(x) ``[N]``."""
    bench.progress("states of the frozen network", None)

    def read(_: Tensor, x: Any) -> list[Tensor]:
        return [part.transpose(0, 1) for part in model.decisions(x)[:2]]

    pooled, answers = frozen_rows(model, examples, read)
    answers, targets = answers.transpose(0, 1), examples.targets.to(answers.device)
    right = answers.argmax(dim=-1) == targets
    together = Examples(list(pooled), examples.targets)
    return together, losses_of(answers, targets), memorised_layer(right)


@dataclass(frozen=True)
class ConsistentEE(TextMethod):
    """Exits chosen by policies that were rewarded for it."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT-base, LLaMA
    corpus: str = "rotten-tomatoes"  # data; the paper: six GLUE tasks, MCID, StackOverflow
    train_size: int = 4000  # training sentences
    length: int = 40  # most word pieces of a sentence
    epochs: float = 1.0  # of phase 1; released script: 5
    batch: int = 8  # released script: 16, then 32
    rate: float = 1e-4  # learning rate of phase 1; released script: 1e-5
    head_rate: float = 1e-3  # learning rate of the classifiers in phase 1; released script: as of the rest
    alpha: float = 0.05  # price of a layer; the released values: 0.01 to 0.09 for 12 layers
    guided: bool = True  # False: the price does not depend on ml
    trajectories: int = 8  # K; released script: 8
    policy_epochs: float = 6.0  # of phase 2; released script: 2
    policy_rate: float = 1e-3  # learning rate of phase 2; released script: 3e-4
    joint_epochs: float = 0.5  # of phase 3; released script: 2
    joint_rate: float = 3e-5  # learning rate of phase 3; released script: 3e-5

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "hardness-guided": {}, "one price for all": {"guided": False, "alpha": 0.025},
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 900, "epochs": 6.0, "rate": 2e-3, "head_rate": 5e-3,
        "policy_rate": 3e-3, "joint_rate": 5e-4, "alpha": 0.2, "batch": 32,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {**TextMethod.smoke, "alpha": 0.01, "joint_epochs": 0.25}
    tiny_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"one price for all": {"alpha": 0.05}}

    def build(self, data: Data, seed: int) -> MultiExit:
        """A classifier after every layer, as PABEE's, and a policy beside all but the last."""
        plain = text_exits(self.encoder, data.classes or 1, seed=seed)
        *early, last = (cast(PooledHead, head) for head in plain.heads)
        return ConsistentNetwork(plain.stages, [*(ExitWithPolicy(head) for head in early), last]).eval()

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The three phases; the first is PABEE's training."""
        network = cast(ConsistentNetwork, model)
        super().train(network.without_policies(), data, bench)
        train_policies(
            network, data, bench, trajectories=self.trajectories, alpha=self.alpha, guided=self.guided,
            batch=self.batch, epochs=self.policy_epochs, rate=self.policy_rate,
            joint_epochs=self.joint_epochs, joint_rate=self.joint_rate,
        )  # fmt: skip

    def policy(self, knob: float, prepared: Prepared) -> ScoreThreshold:
        """The knob is the threshold on pi_i; the paper's is 0.5."""
        return ScoreThreshold(knob, "leave")
