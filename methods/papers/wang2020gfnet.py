"""Glance and Focus: a Dynamic Approach to Reducing Spatial Redundancy in Image Classification (GFNet).

Idea
    Most images can be classified from a thumbnail. So glance at one first, and stop if that is enough; otherwise look
    at small crops of the full-resolution image, one after the other, where a policy decides, until the evidence
    suffices. Any network can be used unchanged: exits are between looks, not inside the network. No look takes more
    pixels than the thumbnail.

Model
    x_1 is the image scaled down to h×h, x_t (t = 2 … T) a piece of h×h pixels of it. Encoders f_G of x_1 and f_L of all
    other x_t, of the same form, give maps e_t. A recurrent classifier (GRU) reads the mean of e_t over places; a linear
    layer on its state c_t gives z_t, p_t = softmax(z_t). The policy pi reads e_t (no gradient passes) through a 1×1
    convolution, a dense layer and a GRU of its own, state s_t; sigmoids of a linear layer on s_t are the mean mu_t of
    where to look next, a in [0, 1]^2: the piece has its corner at floor(a (H - h)), rows first. Another linear layer
    gives V_t, the value of s_t, which is only used to train pi. Each encoder has a linear classifier of its own, which
    only trains it: q_t.

Training
    1. Pieces anywhere; all but pi minimise  1/T [sum_t CE(p_t, y) + r sum_t CE(q_t, y)].
    2. pi alone, by PPO: a_t is drawn from a normal distribution around mu_t and cut to [0, 1]^2,
       reward_t = p_{t+1}(y) - p_t(y),  R_t = sum_{i >= t} gamma^(i - t) reward_i, standardised over batch and steps,
       A_t = R_t - V_t (no gradient),  ratio_t = density of a_t / its density when it was drawn,
       L = mean[-min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)] + 1/2 mean (V - R)^2.
    3. All but pi again, by the loss of 1, with pieces that pi chooses, drawn as in 2.

Exit rule
    After look t < T stop if max p_t >= eta_t; look T always answers. Pieces are those at mu_t. The knob is a budget, as
    a share of what T looks cost. Shares of images that go with b^t are to stop after look t; the largest b is taken
    that costs no more than the budget, and, one by one, eta_t is the confidence that so many held-out images reach
    among those that are left.

Skipped
    All later looks, each with an encoder, the policy and the classifier: their crops are never taken.

Trained otherwise
    Three stages of two epochs, where other rows have one: this is what the paper is about. As there, the policy
    learns by Adam without weight decay, and the third stage at a lower rate.

Deviations
    1. A small residual network on cluttered Fashion-MNIST, 6,000 images, instead of large ones on ImageNet, and trained
       from scratch instead of from ImageNet weights: what two cores can train in minutes. h is 24 of 48 pixels, T = 3;
       the paper: 96 to 144 of 224 to 300, T = 3 to 5.
    2. The thumbnail is the mean over squares of pixels; the paper interpolates.
    3. AdamW, whose learning rate rises and then falls linearly to 0, in stages 1 and 3, instead of SGD with a cosine;
       gradients are clipped at norm 1 in all stages; stage 2 takes 2 epochs instead of 15, at a higher rate that also
       falls. In stage 1 all learn at one rate; the paper: the classifier at ten times the encoders'. Images are not cut
       and flipped at random, and the last epoch is kept; the released code: the best one.
    4. Policy and classifier have the form that they have in the released code with RegNet: other large networks have a
       larger policy, light ones no GRU in the classifier. z_1 is the recurrent classifier's, too, where that code, once
       RegNet is trained, takes the answer of the glance encoder's own.
    5. The deviation of the normal distribution is fixed, so its entropy is a constant, and is left out of the loss. As
       in the released code each batch is learned from once, so that the ratio is 1 and nothing is clipped, and the
       density is that of the action after it was cut.
    6. Thresholds are fitted to validation images that no budget is chosen on; the released code takes training images.
       It tries b = 0.05 … 1.95; here b follows from the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.resnet import residual_exits
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.base import checked, softmax
from eelit.methods.policies.budgeted_thresholds import exit_shares, ratio_within, thresholds_for
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.fit import Batch, Loss, fit
from eelit.methods.recipes.joint import exit_losses

State = dict[str, Tensor]
"""What is handed on from look to look: the image x, the last map e, the classifier's state c and the policy's s."""
CLIP = 0.2
"""eps of PPO."""


# What is looked at.


def thumbnail(x: Tensor, h: int) -> Tensor:
    """Return images ``[N, C, H, H]`` scaled down to ``[N, C, h, h]``."""
    return F.adaptive_avg_pool2d(x, h)


def cut_out(x: Tensor, a: Tensor, h: int) -> Tensor:
    """Return the pieces ``[N, C, h, h]`` of images ``[N, C, H, H]`` at ``a [N, 2]``, rows first; no other pixel."""
    room = x.shape[2] - h
    corner = (a * room).floor().long().clamp(0, room)
    image, across = torch.arange(len(x), device=x.device)[:, None, None], torch.arange(h, device=x.device)
    return x[image, :, corner[:, :1, None] + across[:, None], corner[:, 1:, None] + across].permute(0, 3, 1, 2)


# What looks, what chooses and what answers.


class Encoder(nn.Module):
    """A residual network up to its last map, and the classifier that trains it."""

    def __init__(self, channels: int, h: int, classes: int, seed: int, **settings: Any) -> None:
        super().__init__()
        network = residual_exits((channels, h, h), classes, shares=(), head=nn.Identity, seed=seed, **settings)
        (self.maps,), (self.own,) = network.stages, network.heads

    def forward(self, x: Tensor) -> Tensor:
        """Map looks ``[N, C, h, h]`` to e ``[N, D, H', W']``."""
        return cast(Tensor, self.maps(x))


class Proposal(nn.Module):
    """The policy pi, which proposes where to look next, with a critic for its training."""

    def __init__(self, shape: Sequence[int], hidden: int) -> None:
        super().__init__()
        depth, down, across = shape
        self.encode = nn.Sequential(
            nn.Conv2d(depth, 32, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32 * down * across, hidden),
            nn.ReLU(),
        )  # fmt: skip
        self.gru, self.actor, self.critic = nn.GRUCell(hidden, hidden), nn.Linear(hidden, 2), nn.Linear(hidden, 1)

    def forward(self, e: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu ``[N, 2]`` and the next state ``[N, hidden]``."""
        s = self.gru(self.encode(e.detach()), s)
        return self.actor(s).sigmoid(), s

    def worth(self, s: Tensor) -> Tensor:
        """Return V ``[N]``, the critic's estimate of the reward still to come, for states ``[N, hidden]``."""
        return cast(Tensor, self.critic(s)[:, 0])


class Glance(nn.Module):
    """The first stage: images to what a thumbnail tells."""

    def __init__(self, encoder: Encoder, memory: nn.GRUCell, hidden: int, h: int) -> None:
        super().__init__()
        self.encoder, self.memory, self.hidden, self.h = encoder, memory, hidden, h

    def forward(self, x: Tensor) -> State:
        """Look at images ``[N, C, H, H]``."""
        e = self.encoder(thumbnail(x, self.h))
        return {"x": x, "e": e, "c": self.memory(e.mean(dim=(2, 3))), "s": x.new_zeros(len(x), self.hidden)}


class Focus(nn.Module):
    """Every other stage: one more piece of the image."""

    def __init__(self, policy: Proposal, encoder: Encoder, memory: nn.GRUCell, h: int) -> None:
        super().__init__()
        self.policy, self.encoder, self.memory, self.h = policy, encoder, memory, h

    def forward(self, state: State) -> State:
        """Look where the policy would, on average."""
        mu, s = self.policy(state["e"], state["s"])
        return self.look({**state, "s": s}, mu)

    def look(self, state: State, a: Tensor) -> State:
        """Return the state after a look at ``a [N, 2]``, places as shares of the image from 0 to 1."""
        e = self.encoder(cut_out(state["x"], a, self.h))
        return {**state, "e": e, "c": self.memory(e.mean(dim=(2, 3)), state["c"])}


class Answer(nn.Module):
    """What was seen so far to logits."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, state: State) -> Tensor:
        """Return z ``[N, classes]``."""
        return cast(Tensor, self.linear(state["c"]))


class Parts(NamedTuple):
    """What the exits of a network share."""

    glance: Glance
    focus: Focus
    answer: Answer


def parts_of(model: MultiExit) -> Parts:
    """Return the parts, each of which serves several looks but the first."""
    return Parts(cast(Glance, model.stages[0]), cast(Focus, model.stages[1]), cast(Answer, model.heads[0]))


# Stages 1 and 3.

Next = Callable[[Focus, State], State]
"""How the state after one more look comes about."""


def anywhere(focus: Focus, state: State) -> State:
    """Look at any place, all alike."""
    return focus.look(state, torch.rand(len(state["x"]), 2, device=state["x"].device))


def drawn(mu: Tensor, std: float) -> Tensor:
    """Return places ``[N, 2]`` drawn around the means and cut to the image; no gradient passes."""
    return (mu.detach() + std * torch.randn_like(mu)).clamp(0, 1)


def where_policy_says(std: float) -> Next:
    """Return how one looks where the frozen policy says, with some noise."""

    def look(focus: Focus, state: State) -> State:
        with torch.no_grad():
            mu, s = focus.policy(state["e"], state["s"])
        return focus.look({**state, "s": s}, drawn(mu, std))

    return look


def answers_of(model: MultiExit, x: Tensor, onward: Next) -> tuple[Tensor, Tensor]:
    """Return z and the logits of the encoders' own classifiers, both ``[T, N, classes]``."""
    glance, focus, answer = parts_of(model)
    state = glance(x)
    z, own = [answer(state)], [glance.encoder.own(state["e"])]
    for _ in range(model.exits - 1):
        state = onward(focus, state)
        z.append(answer(state))
        own.append(focus.encoder.own(state["e"]))
    return torch.stack(z), torch.stack(own)


def train_looks(
    model: MultiExit, onward: Next, data: Data, bench: Bench, *, label: str, r: float, **options: Any
) -> None:
    """Minimise ``1/T [sum_t CE(p_t) + r sum_t CE(q_t)]`` over all but the policy; ``options`` are those of `fit`."""
    checked("train_looks", "r", r, least=0, finite=True)

    def loss(batch: Batch) -> Tensor:
        z, own = answers_of(model, batch.inputs, onward)
        return exit_losses(z, batch.targets).mean() + r * exit_losses(own, batch.targets).mean()

    train_stage(model, loss, data, bench, policy=False, label=label, **options)


def train_stage(
    model: MultiExit, loss: Loss, data: Data, bench: Bench, *, policy: bool, label: str, **options: Any
) -> None:
    """Minimise a loss over the policy alone, or over all but the policy."""

    def train() -> None:
        model.train(not policy)
        chosen = [p for name, p in model.named_parameters() if (".policy." in name) is policy]
        fit(chosen, data.train, loss, bench, label=label, **options)

    trained(model, train, bench, data=data.digest, settings={"label": label, "train": len(data.train), **options})
    model.eval()


# Stage 2.


def log_density(a: Tensor, mu: Tensor, std: float) -> Tensor:
    """Return the logarithm of the density of actions ``[..., 2]``, ``[...]``, but for what does not depend on mu."""
    return -((a - mu) ** 2).sum(dim=-1) / (2 * std**2)


def returns(rewards: Tensor, gamma: float) -> Tensor:
    """Return ``R_t = sum_{i >= t} gamma^(i - t) reward_i`` of rewards ``[T - 1, N]``, standardised over all."""
    R = [rewards[-1]]
    for reward in reversed(rewards[:-1].unbind()):
        R.append(reward + gamma * R[-1])
    found = torch.stack(R[::-1])
    return (found - found.mean()) / (found.std(correction=int(found.numel() > 1)) + 1e-5)


def ppo_loss(log_p: Tensor, drawn_with: Tensor, V: Tensor, R: Tensor) -> Tensor:
    """Return the loss of log-densities now and when the actions were drawn, values and returns, ``[T - 1, N]``."""
    ratio, A = (log_p - drawn_with).exp(), R - V.detach()
    return -torch.minimum(ratio * A, ratio.clamp(1 - CLIP, 1 + CLIP) * A).mean() + 0.5 * F.mse_loss(V, R)


def policy_loss(model: MultiExit, x: Tensor, y: Tensor, std: float, gamma: float) -> Tensor:
    """Look at a batch where the policy says, with some noise, and return what it learns from that."""
    log_p, V = [], []

    def noted(focus: Focus, state: State) -> State:
        with torch.enable_grad():
            mu, s = focus.policy(state["e"], state["s"])
            a = drawn(mu, std)
            log_p.append(log_density(a, mu, std))
            V.append(focus.policy.worth(s))
        return focus.look({**state, "s": s}, a)

    with torch.no_grad():
        z, _ = answers_of(model, x, noted)
    p = z.softmax(dim=-1)[:, torch.arange(len(y)), y]
    density = torch.stack(log_p)
    return ppo_loss(density, density.detach(), torch.stack(V), returns(p.diff(dim=0), gamma))


def train_policy(model: MultiExit, data: Data, bench: Bench, *, std: float, gamma: float, **options: Any) -> None:
    """Train the policy by PPO, all else frozen; ``options`` are those of `fit`."""
    checked("train_policy", "std", std, above=0, finite=True)
    checked("train_policy", "gamma", gamma, least=0, most=1)

    def loss(batch: Batch) -> Tensor:
        return policy_loss(model, batch.inputs, batch.targets, std, gamma)

    label = "training the policy by what looks bring"
    train_stage(model, loss, data, bench, policy=True, label=label, optimiser=torch.optim.Adam, **options)


@dataclass(frozen=True)
class GlanceAndFocus(ExitMethod):
    """A thumbnail, then pieces of the image where a learned policy says."""

    images: str = "cluttered"  # data; the paper: ImageNet
    train_size: int = 6000  # training images; the paper: 1.28 million
    looks: int = 3  # T; the paper: 3 to 5
    zoom: float = 0.5  # side of a look as a share of the image's; the paper: 96 to 144 of 224 to 300 pixels
    pixels: int = 4  # side of the square of pixels that an encoder's first convolution sees as one place
    widths: tuple[int, ...] = (80, 160)  # channels of each resolution of an encoder
    blocks: int = 3  # residual blocks of each width
    hidden: int = 128  # units of the classifier's GRU; the paper: 1024
    policy_hidden: int = 64  # units of the policy; the paper: 256 with light networks
    half: bool = True  # whether encoders learn with products in bfloat16; the paper: float32
    batch: int = 32  # the paper: 256
    epochs: float = 2.0  # of stage 1; the paper: 30 to 90
    rate: float = 2e-3  # learning rate of stage 1; the paper: 0.01 of SGD, of the classifier 0.1
    policy_epochs: float = 2.0  # of stage 2; the paper: 15
    policy_rate: float = 2e-3  # learning rate of stage 2; the paper: 3e-4
    tune_epochs: float = 2.0  # of stage 3; the paper: 30 to 90
    tune_rate: float = 1e-3  # learning rate of stage 3; the paper: 0.01 of SGD
    r: float = 1.0  # what the encoders' own classifiers weigh; the paper: 1, with light networks 5
    std: float = 0.1  # deviation of places around their mean, in training; the paper: 0.1
    gamma: float = 0.7  # what a reward one look later is worth; the paper: 0.7

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    fits_on: ClassVar[float] = 0.5  # of the validation images: thresholds; budgets are judged on the others
    knob: ClassVar[str] = "budget"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 400, "pixels": 1, "widths": (8, 16), "blocks": 1, "hidden": 16,
        "policy_hidden": 8, "half": False, "epochs": 4.0, "rate": 1e-2, "policy_epochs": 1.0, "tune_epochs": 1.0,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 1500, "widths": (16, 32), "blocks": 1, "pixels": 2, "hidden": 32, "policy_hidden": 32,
        "half": False, "rate": 5e-3, "policy_epochs": 2.0, "tune_rate": 3e-3,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {"widths": (8, 8), "zoom": 0.75}

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def build(self, data: Data, seed: int) -> MultiExit:
        """One glance and ``T - 1`` times the same way to look closer.

        Raises `ValueError` for fewer than two looks, or such as are larger than the image or have no pixel.
        """
        checked(type(self).__name__, "looks", self.looks, whole=True, least=2)
        channels, side, _ = data.train.inputs[0].shape
        h, classes = round(self.zoom * side), data.classes or 1
        checked(type(self).__name__, "zoom", self.zoom, above=0, most=1)
        settings = {"widths": self.widths, "blocks": self.blocks, "pixels": self.pixels, "half": self.half}
        first, second = (Encoder(channels, h, classes, seed, **settings) for _ in range(2))
        with torch.no_grad():
            shape = first.eval()(torch.zeros(1, channels, h, h)).shape[1:]
        memory, answer = nn.GRUCell(shape[0], self.hidden), Answer(self.hidden, classes)
        focus = Focus(Proposal(shape, self.policy_hidden), second, memory, h)
        stages = [Glance(first, memory, self.policy_hidden, h), *[focus] * (self.looks - 1)]
        model = MultiExit(stages, [answer] * self.looks).eval()
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train in three stages: network, policy, network again."""
        self.warm_up(model, data, bench)
        options = {"epochs": self.policy_epochs, "batch": self.batch, "rate": self.policy_rate}
        train_policy(model, data, bench, std=self.std, gamma=self.gamma, **options)
        self.tune(model, where_policy_says(self.std), data, bench)

    def warm_up(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Stage 1: train the network to classify pieces cut out at random places."""
        options = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        train_looks(model, anywhere, data, bench, label="learning to look anywhere", r=self.r, **options)

    def tune(self, model: MultiExit, onward: Next, data: Data, bench: Bench) -> None:
        """Stage 3: train the network again on pieces that ``onward`` chooses."""
        options = {"epochs": self.tune_epochs, "batch": self.batch, "rate": self.tune_rate}
        train_looks(model, onward, data, bench, label="learning to look at chosen places", r=self.r, **options)

    def fit(self, prepared: Prepared) -> tuple[NDArray[Any], NDArray[Any]]:
        """Confidences ``[T, N]`` of held-out images, and what so many looks cost ``[T]``, the same for every image."""
        held = prepared.split("fitting")
        return softmax(held.outputs).amax(dim=-1).numpy(), held.costs[:, 0]

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """Thresholds whose mean cost on held-out images is the budget."""
        confidence, costs = prepared.fitted
        budget = knob * costs[-1]
        if budget <= costs[0]:
            return MaxConfidence(0.0)
        return MaxConfidence(thresholds_for(confidence, exit_shares(ratio_within(budget, costs), len(costs))))
