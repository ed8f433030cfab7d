"""DeeBERT: Dynamic Early Exiting for Accelerating BERT Inference (DeeBERT).

Idea
    Leave a fine-tuned encoder exactly as it is, and train a small classifier ("off-ramp") after each layer on the
    frozen states. For an easy sample the predicted distribution has one clear peak: stop where the entropy is low
    enough.

Model
    n layers. Off-ramps f_1 … f_{n-1} and the network's own head f_n, of one shape, each with its own parameters:
    z_i = V_i dropout(tanh(W_i h_i + b_i)) + c_i, with h_i the input read from layer i. Every W_i, b_i starts as a copy
    of the pretrained pooler.

Training
    Stage 1: minimise L_n over layers and f_n: ordinary fine-tuning.
    Stage 2: freeze all of that; minimise L_1 + … + L_{n-1} over the off-ramps alone. L_i is the cross-entropy of z_i.

Exit rule
    H_i = -sum_k q_k ln q_k with q = softmax(z_i), in nats. Stop at the first off-ramp with H_i < S (strictly).
    S = 0 never stops, S > ln K always stops at the first (K classes). One S serves all layers.

Skipped
    All layers after the exit, with their off-ramps and f_n.

Trained otherwise
    Besides the epoch that all rows have, which trains the network (stage 1), the off-ramps alone are trained for ten
    more, on its frozen states (stage 2): two stages are what the paper is about, and only the off-ramps are trained
    longer.

Deviations
    1. MiniLM (6 layers, 384 wide) on Rotten Tomatoes, 4,000 training sentences of at most 40 tokens, instead of BERT
       and RoBERTa (12 and 24 layers) on six GLUE tasks, 128 tokens: what two cores can train in minutes.
    2. Heads read the mean over tokens instead of the class token: MiniLM was pretrained that way, and its class token
       is all but the same for every sentence before the last layer.
    3. Stage 1 takes one epoch at learning rate 1e-4 (its head: 1e-3) and stage 2 ten epochs at 1e-3; the paper: three
       epochs each (RoBERTa: ten) at 2e-5, on data up to a hundred times larger. Where claims of other methods compare
       with it, stage 2 takes as long as stage 1, so exits of both methods are trained for equally many steps. In both
       stages the rate warms up for 10 % of the steps and weights decay by 0.01; the released code does neither.
       Gradients are clipped at norm 1, as there.
    4. Stage 2 learns from states computed once, without the backbone's dropout, which the released code keeps on. The
       off-ramps' own dropout stays.
    5. The released code builds an off-ramp at the last layer too, never trains it, and may answer with it. Here the
       last layer has its real head only: the exit layers are the same, and answers there are the fine-tuned model's.
    6. Entropy comes from log-softmax, so that an underflowing probability counts 0; the released code gives NaN there,
       and such a sample, the most certain of all, never exits early.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eelit.methods.backbones.encoder import text_exits
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import NATS, TextMethod
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_heads


@dataclass(frozen=True)
class DeeBert(TextMethod):
    """Entropy-based early exit with off-ramps on a frozen encoder."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT and RoBERTa, base and large
    corpus: str = "rotten-tomatoes"  # data; the paper: SST-2, MRPC, QNLI, RTE, QQP, MNLI
    train_size: int = 4000  # training sentences
    length: int = 40  # most word pieces of a sentence; the paper: 128
    epochs: float = 1.0  # of stage 1; the paper: 3 (BERT), 10 (RoBERTa)
    rate: float = 1e-4  # learning rate of stage 1; the paper: 2e-5
    ramp_epochs: float = 10.0  # of stage 2; the paper: as many as in stage 1
    ramp_rate: float = 1e-3  # learning rate of stage 2; the paper: 2e-5
    batch: int = 8  # the paper: 8

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "entropy threshold"
    knobs: ClassVar[tuple[float, ...]] = (2.4, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.01, 0.005, 0.001, 0.0)
    many: ClassVar[tuple[float, ...]] = NATS
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 900, "epochs": 12.0, "rate": 8e-3,
        "ramp_epochs": 6.0, "ramp_rate": 2e-2, "batch": 64,
    }  # fmt: skip

    def build(self, data: Data, seed: int) -> MultiExit:
        """A head after every layer, each with its own copy of the pretrained pooler."""
        return text_exits(self.encoder, data.classes, seed=seed, shared_pooler=False)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Fine-tune, freeze, then train the off-ramps, which read no more than the mean token of each layer."""
        rates = {"rate": self.rate, "head_rate": self.ramp_rate}
        train_plain(model, data, bench, epochs=self.epochs, batch=self.batch, **rates)
        ramps = {"epochs": self.ramp_epochs, "batch": self.batch, "rate": self.ramp_rate}
        train_heads(model, data, bench, keep=lambda state: state.mean(dim=1, keepdim=True), **ramps)

    def policy(self, knob: float, prepared: Prepared) -> Entropy:
        """The knob is S in nats."""
        return Entropy(knob)
