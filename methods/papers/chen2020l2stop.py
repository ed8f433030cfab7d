"""Learning to Stop While Learning to Predict (L2Stop).

Idea
    A network that unrolls an algorithm should have a stopping rule, like the algorithm itself. The stopping time is a
    hidden variable: first the layers are trained as if an oracle ended each sample at its best layer, then a policy
    that sees only states learns to imitate that oracle.

Model
    LISTA: y = A x + noise, x sparse; x_0 = 0 and x_t = S(W_t x_{t-1} + B_t y; theta_t), t = 1 … T, where S(g; theta) =
    (2 sigmoid(5 g) - 1) max(|g| - theta, 0) is a smooth soft threshold. At the start W_t = I - A'A / L, B_t = A' / L,
    theta_t = rho / L, as in ISTA. After every second layer there is an exit with
    pi_t = sigmoid(MLP([y, y - A x_t, x_t, code of t])), one MLP for all exits, the code of t a sine and a cosine.
    The last exit has none.

Training
    With loss_t = |x - x_t|^2 and q(t) = pi_t prod_{s<t} (1 - pi_s), q(T) = prod_{s<T} (1 - pi_s).
    Stage 1, the layers: L1 = -mean log sum_t exp(-loss_t / (2 v)), the evidence of a uniform prior over t. (Trained
    plainly, for comparison: the mean of loss_t over t.)
    Then exits that are seldom the best of a sample are dropped: those that are it for less than one in a thousand.
    Stage 2, the MLP alone, for the exits that are left: the oracle's posterior is q*(t) = softmin_t(loss_t / (2 v)).
    hard: L2 = -mean log q(argmin_t loss_t). soft: L2 = -mean sum_t q*(t) log q(t). reverse: L2 = mean sum_t q(t)
    (log q(t) - log q*(t)).

Exit rule
    Stop at the first exit with pi_t > threshold, strictly; the paper's is 0.5. The last exit always stops.

Skipped
    All layers and gates after the stop.

Deviations
    1. m = 50, n = 100 and 12 layers with 6 exits instead of 250, 500 and 20 with 20. The paper's v would be 0.03 here,
       in proportion to the energy of codes; ours is 0.3. On validation data the last exit reached 16.2, 17.7, 19.2 and
       18.2 dB with v = 0.03, 0.1, 0.3 and 1, and the plain loss 19.1 dB, all at the rate below. With v = 0.03 the last
       exit is nearly alone in learning: the first two ended at 0 dB. In shorter trainings at smaller rates such a v
       costs as much: 10.1 dB, and 11.2 dB plainly, with 12,000 measurements and the rate 1e-3. With v = 0.3 the best
       exit of each sample is only 0.1 dB above the last (19.3 and 19.2), so there is little that stopping could win.
    2. The gate is 16 wide, not 256-128-16: that one would cost more than a layer does, even at the paper's size. Ours
       still cost a fifth as much as the layers if all four that are left are asked, an eighth for speech: on validation
       data of the main variant knobs from 0.2 on cost more than the network without gates. Knobs below that lie closer
       together.
    3. 60,000 measurements, the first three quarters for the layers and the last for the gates, in place of new ones at
       every step; fewer steps at larger rates, and the last weights, not those best on validation data.
    4. L is the largest eigenvalue of A'A, which the released code takes if no other is given; its scripts give 3.
    5. How often an exit is a sample's best is counted on the quarter of the data that the layers have not seen. One
       exit before the last stays in any case.
    6. The variant ``speech`` senses recordings, which the paper does not: 64 random projections of 256 samples (32 ms
       in a Hann window, of level 1), whose code is their cosine transform; 12,000 for training. There v is 20, as codes
       have 25 times the energy of made ones, and the rate 2e-3: on validation data the last exit reached 12.3, 12.7 and
       12.3 dB with v = 5, 20 and 80, and 12.5, 12.7 and 12.6 dB at the rates 1e-3, 2e-3 and 4e-3. Codes of a level far
       below 1 do not suit S, whose sign is smooth. Gates trained five times as long, four times as wide, or with either
       other loss were tried on twice as many moments of speech: on validation data they gained at most 0.04 dB of the
       0.25 dB that the best exit of each moment is above the best fixed depth. The paper's other tasks
       (denoising, few-shot learning, image recognition) are left out, and with them the joint third stage and the
       stochastic rule.
    7. The objective as printed could not be read; all three losses are those of the released code, of which the first
       is the default. Quality is -NMSE in dB, so that more is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf, log10
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.data import sensing
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data, Examples, parted
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import Score
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Baseline, Chance, ExitFacts
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ExitMethod
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.fit import Batch, Loss, fit

SHARPNESS = 5.0
"""Of the sign in the smooth soft threshold; the released code: 5."""


def soft_threshold(g: Tensor, theta: Tensor) -> Tensor:
    """Return S(g; theta) for each entry of ``g [N, n]``, shrunk towards 0."""
    return (2 * torch.sigmoid(SHARPNESS * g) - 1) * F.relu(g.abs() - theta)


class Layer(nn.Module):
    """One step of the unrolled algorithm."""

    def __init__(self, a: Tensor, rho: float) -> None:
        super().__init__()
        (m, n), largest = a.shape, torch.linalg.matrix_norm(a, 2) ** 2
        self.W, self.B = nn.Linear(n, n, bias=False), nn.Linear(m, n, bias=False)
        self.W.weight.data = torch.eye(n) - a.T @ a / largest
        self.B.weight.data = (a.T / largest).contiguous()
        self.theta = nn.Parameter(rho / largest)

    def forward(self, state: Any) -> tuple[Tensor, Tensor]:
        """Take the measurement ``[N, m]``, or it and the code so far; return both."""
        y, x = state if isinstance(state, tuple) else (state, None)
        g = self.B(y) if x is None else self.B(y) + self.W(x)
        return y, soft_threshold(g, self.theta)


class Gate(nn.Module):
    """The policy: from what is known at an exit to the logit of stopping there."""

    a: Tensor

    def __init__(self, a: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("a", a)
        m, n = a.shape
        self.mlp = nn.Sequential(nn.Linear(2 * m + n + 2, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, y: Tensor, x: Tensor, number: int) -> Tensor:
        """Return logits ``[N]`` of measurements, codes and the number of the exit, from 0."""
        position = y.new_tensor([np.sin(number), np.cos(number)]).expand(len(y), 2)
        found: Tensor = self.mlp(torch.cat([y, y - x @ self.a.T, x, position], dim=-1)).squeeze(-1)
        return found


class Exit(nn.Module):
    """A head: the code so far, and, but for the last, the logit of stopping."""

    def __init__(self, gate: Gate | None, number: int) -> None:
        super().__init__()
        self.gate, self.number = gate, number

    def forward(self, state: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the code ``[N, n]`` and the logit ``[N]``."""
        y, x = state
        return {"answer": x} if self.gate is None else {"answer": x, "score": self.gate(y, x, self.number)}


class Lista(MultiExit):
    """The unrolled network with its exits."""

    def __init__(self, a: Tensor, layers: int, every: int, rho: float, width: int) -> None:
        gate, exits = Gate(a, width), layers // every
        stages = [nn.Sequential(*(Layer(a, rho) for _ in range(every))) for _ in range(exits)]
        super().__init__(stages, [Exit(gate if i < exits - 1 else None, i) for i in range(exits)])
        self.gate = gate

    def codes(self, y: Tensor) -> Tensor:
        """Return what all exits answer, ``[E, N, n]``, without any gate."""
        return torch.stack([x for _, x in self.states(y)])

    def logits(self, y: Tensor, codes: Tensor) -> Tensor:
        """Return the logits ``[E - 1, N]`` of all gates from what all exits answer."""
        return torch.stack([self.gate(y, x, head.number) for x, head in zip(codes[:-1], self.heads, strict=False)])

    def keep(self, exits: Sequence[int]) -> None:
        """Drop all exits but these, of which the last is the last there is; layers and the numbers of gates stay."""
        starts = [0, *(i + 1 for i in exits[:-1])]
        every = [[*stage.children()] for stage in self.stages]
        joined = ([*chain(*every[a : b + 1])] for a, b in zip(starts, exits, strict=True))
        self.stages = nn.ModuleList(nn.Sequential(*layers) for layers in joined)
        self.heads = nn.ModuleList(self.heads[i] for i in exits)


def errors(codes: Tensor, x: Tensor) -> Tensor:
    """Return loss_t ``[E, N]`` of codes ``[E, N, n]``."""
    return (codes - x).square().sum(dim=-1)


def worth_a_gate(losses: Tensor, least: float) -> list[int]:
    """Return the exits that have the least loss of at least a share of samples, from loss_t ``[E, N]``, and the last.

    If there is none before the last, the one that has it most often is kept.
    """
    count, last = losses.argmin(dim=0).bincount(minlength=len(losses)), len(losses) - 1
    kept = [t for t in range(last) if count[t] >= least * losses.shape[1]]
    return [*(kept or [int(count[:-1].argmax())]), last]


def evidence_loss(losses: Tensor, v: float) -> Tensor:
    """Return L1 from loss_t ``[E, N]``."""
    return -(-losses / (2 * v)).logsumexp(dim=0).mean()


def log_stopping(logits: Tensor) -> Tensor:
    """Return log q ``[E, N]`` from the logits ``[E - 1, N]`` of all gates."""
    on = torch.cat([torch.zeros_like(logits[:1]), F.logsigmoid(-logits).cumsum(dim=0)])
    return on + torch.cat([F.logsigmoid(logits), torch.zeros_like(logits[:1])])


def imitation_loss(kind: str, log_q: Tensor, losses: Tensor, v: float) -> Tensor:
    """Return L2 from log q and loss_t, both ``[E, N]``."""
    oracle = (-losses / (2 * v)).log_softmax(dim=0)
    if kind == "hard":
        return -log_q.gather(0, losses.argmin(dim=0, keepdim=True)).mean()
    if kind == "soft":
        return -(oracle.exp() * log_q).sum(dim=0).mean()
    return (log_q.exp() * (log_q - oracle)).sum(dim=0).mean()


def ratio(codes: Tensor, x: Tensor) -> float:
    """Return -NMSE in dB: what codes ``[N, n]`` have of signal above error."""
    error = float((codes - x).double().square().sum(dim=-1).mean())
    return 10 * log10(float(x.double().square().sum(dim=-1).mean()) / max(error, 1e-30))


@dataclass(frozen=True)
class LearningToStop(ExitMethod):
    """Sparse recovery by an unrolled network that has learnt when to stop."""

    source: str = "made"  # codes that are measured: made or speech; the paper: made
    m: int = 50  # measurements of each code; the paper: 250
    n: int = 100  # length of a code; the paper: 500
    train_size: int = 60000  # measurements for training; the paper: new ones at every step
    held: int = 1500  # for validation, and for testing; the released code: 3,000
    layers: int = 12  # T; the paper: 20
    every: int = 2  # layers from one exit to the next; the paper: 1
    rho: float = 0.1  # the penalty of ISTA that the thresholds begin with; the paper: 0.1
    v: float = 0.3  # variance of what the answer leaves; the paper: 0.14, with codes five times as long
    width: int = 16  # of the gate; the paper: 256-128-16
    loss: str = "evidence"  # of the layers, or mean: LISTA as it is without an oracle
    least: float = 0.001  # share of samples that an exit is best for, below which it is dropped; the paper: 0.001
    oracle: str = "hard"  # what gates imitate: hard, soft, or reverse, the other divergence; the released code: hard
    epochs: float = 12.0  # over three quarters of the data, for the layers; the paper: 50,000 steps
    rate: float = 8e-3  # of the layers; the paper: 1e-4
    gate_epochs: float = 12.0  # over the last quarter, for the gates; the paper: 40,000 steps
    gate_rate: float = 3e-3  # of the gates; the paper: 1e-3
    batch: int = 128  # the paper: 1,024, and 256 for the gates

    data: ClassVar[tuple[str, ...]] = ("prompts",)
    knob: ClassVar[str] = "stop probability"
    knobs: ClassVar[tuple[float, ...]] = (
        -inf, 0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.1,
    )  # fmt: skip
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "made codes": {},
        "reverse divergence": {"oracle": "reverse"},
        "speech": {"source": "speech", "m": 64, "n": 256, "train_size": 12000, "v": 20.0, "rate": 2e-3},
    }
    others: ClassVar[Mapping[str, Any]] = {"loss": "mean", "least": 0.5}
    tiny: ClassVar[Mapping[str, Any]] = {
        "train_size": 1600,
        "held": 300,
        "layers": 8,
        "epochs": 6.0,
        "gate_epochs": 10.0,
    }
    tiny_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "made codes": {"m": 20, "n": 40}, "reverse divergence": {"m": 20, "n": 40},
        "speech": {"source": "digits", "m": 32, "n": 64},
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 12000, "epochs": 4.0, "gate_epochs": 6.0}
    full: ClassVar[Mapping[str, Any]] = {"epochs": 60.0, "gate_epochs": 40.0}

    def __post_init__(self) -> None:
        if self.every < 1 or self.layers % self.every or self.layers < 2 * self.every:
            raise ValueError(f"{self.layers} layers have no two exits or more, one every {self.every}")
        if self.loss not in ("evidence", "mean") or self.oracle not in ("hard", "soft", "reverse"):
            raise ValueError("loss is evidence or mean, and oracle is hard, soft or reverse")
        if self.v <= 0:
            raise ValueError(f"v is a variance above 0, not {self.v}")
        if not 0 <= self.least <= 1:
            raise ValueError(f"least is a share of samples from 0 to 1, not {self.least}")

    @property
    def quality(self) -> str:
        """How much signal the answers have above their error."""
        return "-NMSE (dB)"

    def load(self) -> Data:
        """Measurements, and the codes that they are of."""
        return tasks.sensing(self.source, m=self.m, n=self.n, train=self.train_size, held=self.held)

    def build(self, data: Data, seed: int) -> Lista:
        """The unrolled algorithm; only the gate begins at random."""
        torch.manual_seed(seed)
        a = torch.as_tensor(sensing.matrix(self.source, self.m, self.n))
        return Lista(a, self.layers, self.every, self.rho, self.width)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The layers on three quarters of the data; the rest says which exits stay, and from it the gate learns."""
        assert isinstance(model, Lista)
        parts = parted(data.train, {"layers": 0.75, "gate": 0.25})

        def layers_loss(batch: Batch) -> Tensor:
            losses = errors(model.codes(batch.inputs), batch.targets)
            return evidence_loss(losses, self.v) if self.loss == "evidence" else losses.mean()

        def gate_loss(batch: Batch) -> Tensor:
            with torch.no_grad():
                codes = model.codes(batch.inputs)
            losses = errors(codes, batch.targets)
            return imitation_loss(self.oracle, log_stopping(model.logits(batch.inputs, codes)), losses, self.v)

        self.stage(model, model.stages, parts["layers"], layers_loss, bench, self.epochs, self.rate)
        with torch.no_grad():
            unseen = parts["gate"]
            losses = errors(model.codes(torch.stack([*unseen.inputs])), unseen.targets)
        model.keep(worth_a_gate(losses, self.least))
        self.stage(model, model.gate, parts["gate"], gate_loss, bench, self.gate_epochs, self.gate_rate)

    def stage(
        self, model: Lista, learning: nn.Module, part: Examples, loss: Loss, bench: Bench, epochs: float, rate: float
    ) -> None:
        """Train one part of the network on one part of the data."""
        how: dict[str, Any] = {"epochs": epochs, "rate": rate, "batch": self.batch, "options": {"weight_decay": 1e-4}}
        label = f"training the {'gate' if learning is model.gate else 'layers'}"

        def train() -> None:
            fit(learning.parameters(), part, loss, bench, label=label, optimiser=torch.optim.Adam, **how)

        settings = {"label": label, "train": len(part), "loss": self.loss, "oracle": self.oracle, "v": self.v, **how}
        trained(model, train, bench, data=f"{self.source} {self.m} {self.n} {self.train_size}", settings=settings)

    def policy(self, knob: float, prepared: Any) -> ScoreThreshold:
        """The knob is the probability of stopping, above which a sample stops; compared as a logit."""
        return ScoreThreshold(inf if knob >= 1 else -inf if knob <= 0 else float(np.log(knob / (1 - knob))))

    @property
    def score(self) -> Score:
        """The -NMSE in dB of answers against targets, both codes ``[N, n]``: higher is better."""
        return ratio

    def chance(self, prepared: Any, bench: Bench) -> Chance:
        """Return what the mean code of all training samples reaches."""
        x, mean = prepared.split("test").targets.double(), prepared.data.train.targets.double().mean(dim=0)
        error = (x - mean).square().sum(dim=-1)
        spread = 10 / np.log(10) * float(error.std() / error.mean()) / len(x) ** 0.5
        return Chance(what=f"the mean code, of {len(x)} samples", quality=ratio(mean.expand_as(x), x), error=spread)

    def baselines(self, prepared: Any, bench: Bench) -> list[Baseline]:
        """Return the same network cut off at each exit."""
        held, test = (self.static(prepared.split(split)) for split in ("validation", "test"))
        return [Baseline(name="static exit", validation=held, test=test)]

    def each_exit(self, prepared: Any, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return each exit by itself; codes are neither right nor wrong."""
        return [ExitFacts(quality=p.quality, cost=p.cost) for p in self.static(prepared.split("test"))], None


def oracle_ratio(codes: Tensor, x: Tensor) -> float:
    """Return -NMSE in dB of the best of all exits for each sample, from codes ``[E, N, n]``."""
    best = errors(codes, x).argmin(dim=0)
    return ratio(codes[best, torch.arange(len(x))], x)
