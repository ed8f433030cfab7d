"""PCEE-BERT: Accelerating BERT Inference via Patient and Confident Early Exiting (PCEE-BERT).

Idea
    Patience can be set only in whole layers; entropy is misled by one exit that is confident and wrong. Combine them:
    leave when several exits in a row were each confident. A single mistake does not end the computation, and the
    entropy threshold sets the speed as finely as one likes. The exits need not agree, they only need to be confident.

Model
    As in PABEE: a head after every layer, a tanh pooler for all heads, then a linear layer of each head's own.
    p_i = softmax of head i, i = 1 … n, over C classes.

Training
    As in PABEE, and with the same loss weights: L = sum_i i * CE(p_i, y) / sum_i i, backbone and heads together.

Exit rule
    H_i = -sum_c p_i(c) ln p_i(c) / ln C, in [0, 1].
    cnt_0 = 0;  cnt_i = cnt_{i-1} + 1 if H_i < tau (strictly), else 0.  Stop at exit i when cnt_i = t.
    The earliest exit is layer t. t = 1 requires one confident exit (DeeBERT's test at tau * ln C nats); tau = 0 never
    stops, tau > 1 stops everything at layer t, t > n never stops. The released script fixes t = 2 and tries many tau;
    so here each variant has one t, and tau is its knob. The claims search both on held-out data.

Skipped
    All layers after the exit, with their heads.

Deviations
    1. MiniLM (6 layers, 384 wide) on Rotten Tomatoes, 4,000 training sentences of at most 40 tokens, one epoch at rate
       1e-4 (heads 1e-3) in batches of 8, instead of BERT-base and ALBERT (12 layers) on GLUE at 2e-5, 128 tokens, up to
       15 epochs in batches of 16: what two cores can train in minutes. Weights decay by 0.01, not at all in the
       released script; warm-up is 10 % of the steps, there 200 steps. Gradients are clipped at norm 1, as there.
    2. Heads read the mean over tokens instead of the class token, as MiniLM was pretrained.
    3. The first exit's loss is weighted like the others'. The released code adds it with weight 1 whatever the scheme;
       by coincidence this is right for the rising scheme i, which is used here.
    4. Not done: the options, off by default in the released code, to average the predictions of the confident exits in
       a row or of all exits. (Its average over the row also includes the exit before it, which is not confident.)
    5. Each sample has its own counter; the released code serves batches of one sample only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.policies.patient_confidence import PatientConfidence


@dataclass(frozen=True)
class PceeBert(TextMethod):
    """Early exit after several sure exits in a row. `TextMethod` builds the exits and trains them, as above."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT-base, ALBERT, TinyBERT
    corpus: str = "rotten-tomatoes"  # data; the paper: GLUE
    train_size: int = 4000  # training sentences
    length: int = 40  # most word pieces of a sentence
    epochs: float = 1.0  # passes over them; the released script: up to 15
    batch: int = 8  # the released script: 16
    rate: float = 1e-4  # learning rate; the released script: 2e-5
    head_rate: float = 1e-3  # learning rate of the heads, which start from nothing; the released script: 2e-5
    patience: int = 2  # t, how many exits in a row must be sure; the released script: 2, of 12 layers

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "normalised entropy threshold"
    knobs: ClassVar[tuple[float, ...]] = (
        1.1, 0.998, 0.995, 0.99, 0.98, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.0
    )  # fmt: skip
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"t = {t}": {"patience": t} for t in (2, 3)}
    exempt: ClassVar[Mapping[str, str]] = {
        "eager_is_the_first_exit": "t sure exits in a row take t layers: at the first knob all leave at layer t."
    }

    def policy(self, knob: float, prepared: Prepared) -> PatientConfidence:
        """The knob is tau."""
        return PatientConfidence(knob, self.patience)
