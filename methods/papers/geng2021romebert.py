"""RomeBERT: Robust Training of Multi-Exit BERT (RomeBERT).

Idea
    Off-ramps on a frozen encoder stay weak at the bottom. So train encoder and exits together, in one stage; let the
    last exit teach the others with its softened answers; and where early exits and last exit want to push the shared
    layers in opposite directions, let the one give way to the other.

Model
    A head after each of n layers, of one shape, each with its own parameters: z_i = V_i dropout(tanh(W_i h_i + b_i)) +
    c_i. Every W_i, b_i starts as a copy of the pretrained pooler.

Training
    L_last = CE(z_n, y);
    L_early = sum_{i<n} (1 - gamma) CE(z_i, y) + gamma T^2 KL(softmax(z_n/T) || softmax(z_i/T)), z_n held fixed here.
    One stage, all parameters: L_early + L_last.
    Gradient regularisation: A and B are the gradients of L_early and L_last in the weight matrices of layers 1 … n-1.
    Where <A, B> < 0, B becomes B - <A, B> / <A, A> A: what points against A is taken off. Update with A + B. All else
    (last layer, embeddings, norms, biases, heads) gets the plain sum. For large tasks (MNLI, QQP) the released code
    swaps the roles: L_last leads and L_early gives way.

Exit rule
    H_i = -sum_k q_k ln q_k with q = softmax(z_i), in nats. Stop at the first exit with H_i < S (strictly).
    S = 0 never stops, S > ln K always stops at the first (K classes). One S serves all layers.

Skipped
    All layers after the exit, with their heads.

Deviations
    1. MiniLM (6 layers, 384 wide) on Rotten Tomatoes, 4,000 training sentences, one epoch, instead of BERT and RoBERTa
       (12 layers) on six GLUE tasks, three and ten epochs: what two cores can train.
    2. Heads read the mean over tokens instead of the class token: MiniLM was pretrained that way, and its class token
       is all but the same for every sentence before the last layer.
    3. Learning rate 1e-4 (heads: 1e-3) instead of 2e-5: one epoch has to do. Batches are of 8, as in the paper, while
       most methods of this track take 32. With 32 there are 146 steps instead of 517, and the network stays far
       below what it can do. DeeBERT, beside which claims put it, is trained with batches of 8 as well.
    4. KL is a sum over classes and a mean over samples. The released code's mean is over classes too, which makes it
       weaker by the number of classes (2 here): its gamma of 0.9 is not quite ours.
    5. "The last layer" is the last one. The released code leaves out layer 12 by name, whatever the network's depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar

import torch

from eelit.methods.backbones.encoder import text_exits
from eelit.methods.claims.comparisons import gains_by_exit
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.papers.xin2020deebert import DeeBert
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.distillation import train_distilled


@dataclass(frozen=True)
class RomeBert(TextMethod):
    """Self-distillation with gradient regularisation."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT and RoBERTa, base size
    corpus: str = "rotten-tomatoes"  # data; the paper: MRPC, RTE, SST-2, QNLI, MNLI, QQP
    train_size: int = 4000  # training sentences
    epochs: float = 1.0  # passes over them; the paper: 3 (BERT), 10 (RoBERTa)
    batch: int = 8  # the paper: 8
    rate: float = 1e-4  # learning rate; the paper: 2e-5
    head_rate: float = 1e-3  # learning rate of the heads, which start from nothing; the paper: 2e-5
    gamma: float = 0.9  # share of the teacher in what early exits learn; the paper: 0.9
    temperature: float = 3.0  # T of teacher and pupils; the paper: 3
    leads: str | None = "early"  # whose gradient is kept: early (small tasks), last (large), None: no regularisation

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "entropy threshold"
    knobs: ClassVar[tuple[float, ...]] = (2.4, 1.5, 0.69, 0.67, 0.65, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01, 0.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"SD + GR": {}, "SD only": {"leads": None}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 900, "epochs": 5.0, "batch": 16, "rate": 2e-3,
        "head_rate": 1e-2,
    }  # fmt: skip

    def build(self, data: Data, seed: int) -> MultiExit:
        """A head after every layer, each with its own copy of the pretrained pooler."""
        model = text_exits(self.encoder, data.classes, seed=seed, shared_pooler=False)
        model.register_buffer("conflicts", torch.zeros(()))  # share of training steps whose gradients conflicted
        return model

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """One stage; the last exit teaches the others."""
        rates = {"rate": self.rate, "head_rate": self.head_rate}
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, **rates, "leads": self.leads}
        train_distilled(model, data, bench, gamma=self.gamma, temperature=self.temperature, **options)

    def policy(self, knob: float, prepared: Prepared) -> Entropy:
        """The knob is S in nats."""
        return Entropy(knob)

    def claims(self, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
        """Early exits better than DeeBERT's and a last one as good; gradients conflict, and minding that helps."""
        rates = {"rate": self.rate, "ramp_rate": self.head_rate}
        rival = DeeBert(self.encoder, self.corpus, self.train_size, self.epochs, batch=self.batch, **rates)
        *early, last = gains_by_exit(self, prepared, rival, bench)
        robust = Outcome(
            name="one stage makes all exits strong",
            statement="Beside two-stage training (DeeBERT), early exits are half a point more accurate on average, and "
            "the last exit loses at most one point.",
            holds=mean(early) >= 0.005 and last >= -0.01,
            measured=f"early exits {mean(early):+.4f} on average, last exit {last:+.4f}",
        )
        return [robust] if self.leads is None else [robust, *self.regularised(prepared, bench)]

    def regularised(self, prepared: Prepared, bench: Bench) -> list[Outcome]:
        """What gradient regularisation meets, and what it brings."""
        share = float(prepared.model.get_buffer("conflicts"))
        gains = gains_by_exit(self, prepared, self.replace({"leads": None}), bench)
        return [
            Outcome(
                name="gradients conflict",
                statement="In at least 5 % of the steps, early exits and last exit push shared layers apart.",
                holds=share >= 0.05,
                measured=f"{share:.1%} of the steps",
            ),
            Outcome(
                name="regularisation helps",
                statement="With it, exits are on average half a point better than with self-distillation only.",
                holds=mean(gains) >= 0.005,
                measured="by exit " + ", ".join(f"{gain:+.4f}" for gain in gains),
            ),
        ]
