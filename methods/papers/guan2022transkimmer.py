"""Transkimmer: Transformer Learns to Layer-wise Skim (Transkimmer).

Idea
    Most tokens are no longer needed before the last layer. Before every layer a small predictor decides, token by
    token, which tokens need neither this layer nor any later one. Those go straight to the output in their current
    state, and the layers process the remaining tokens. The text never exits as a whole; its tokens do, one by one.

Model
    H^0 are the embeddings, H^l the states after layer l = 1 … L. Predictor before layer l, with weights of its own:
    P_l(h) = Linear(GELU(LayerNorm(Linear(LayerNorm(h))))), two logits (skim, keep), at first -5 and +5 by its bias.
    m^l_j = m~^l_j m^(l-1)_j with m~ in {0, 1} from P_l(H^(l-1)_j): a token that left does not return. Token 0 always
    stays. Output: O^0 = H^0, O^l_j = m^l_j H^l_j + (1 - m^l_j) O^(l-1)_j. The head reads O^L, from every token.

Training
    m~ by Gumbel-softmax, temperature 1, hard forward and soft backward. One optimiser for everything:
    L = L_task + lambda L_skim, L_skim = 1/L sum_l mean_j m^l_j, the share of tokens kept. Tokens are masked here.

Exit rule
    Token j leaves before the first layer at which P_l says keep - skim <= margin. At margin 0, the paper's rule, the
    more likely of the two decides (skim if equal). The knob moves the margin: at infinity all tokens but the first
    leave before layer 1, at minus infinity none ever does.

Skipped
    Keys, values, queries and feed-forward work of that layer and all later ones for the tokens that left, and their
    predictors. Tokens are really removed: the remaining ones are packed together, and attention runs on these alone.

Trained otherwise
    Predictors and head learn at 2e-4, not at 1e-3 (deviation 6). Steps are as many as in all rows.

Deviations
    1. MiniLM (6 layers, 384 wide) on Rotten Tomatoes, 4,000 training sentences of at most 40 tokens, one epoch at rate
       1e-4, instead of BERT and RoBERTa (12 layers, 768 wide) on GLUE, SQuAD and long texts, up to 512 tokens, at 2e-5
       for 3 epochs (small tasks: 5). The rate warms up for 10 % of the steps, weights decay by 0.01, and gradients are
       clipped at norm 1; the released script does none of these. There is no padding to skim: what a model fed with
       padded texts saves on padding is not counted as saved here.
       Batches are of 8 (released code: 64). The plain network that claims compare with is trained in the same way.
       Predictors add 8% to the full cost.
    2. The head reads the mean over all tokens as they left, not the class token: MiniLM is meant to be read so.
    3. One network serves all knobs, which move the margin of the decision; the paper trains one for each lambda. The
       variants are its lambda and a gentler one.
    4. Tokens that left are masked so that the remaining attention adds up to 1 again; the released code masks after the
       softmax and does not normalise. Only in this way do masking in training and removal at inference give the same
       network.
    5. Nothing is drawn at inference. The released code goes on adding Gumbel noise in evaluation.
    6. Predictors and head, which start from scratch, learn at twice the rate of the rest (released code: the same
       rate): within one epoch the predictors have to move away from "keep everything", but not before the network has
       learned the task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.token_layer import TokenLayer
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.weights import trained
from eelit.methods.families.skimming import Prepared, SkimEncoder, SkimMethod, together
from eelit.methods.policies.base import widened
from eelit.methods.policies.token_gate import TokenGate
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


class SkimPredictor(nn.Sequential):
    """P_l: logits (skim, keep) ``[..., 2]`` of states ``[..., d]``; at first nearly all tokens are kept."""

    def __init__(self, width: int, bias: float = 5.0) -> None:
        last = nn.Linear(width, 2)
        nn.init.normal_(last.weight, std=0.02)
        last.bias.data.copy_(torch.tensor([-bias, bias]))
        super().__init__(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), last)


class SkimmingEncoder(SkimEncoder):
    """Who leaves before layer l stays out of it and of all later ones, and keeps its state for the head."""

    def masked(
        self, layer: TokenLayer, H: Tensor, O: Tensor, m: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return H^l, O^l ``[N, T, d]`` and m^l ``[N, T]`` from those before; ``chosen`` is m~^l, 1 for token 0."""
        m = chosen * m
        H = layer(H, m)
        O = m[..., None] * H + (1 - m[..., None]) * O
        return H, O, m

    def left_out(
        self, layer: TokenLayer, H: Tensor, O: Tensor, at: Tensor, chosen: Tensor, length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same where m^l is 0 or 1: H^l ``[a, d]`` only where it is 1, O^l of all, and those places."""
        H, at = H[chosen], at[chosen]
        H = layer.packed(H, H, together(at, length))
        return H, O.index_copy(0, at, H), at


def sampled(logits: Tensor) -> Tensor:
    """Draw m~ ``[n]`` from the predictors' logits ``[n, 2]`` by Gumbel-softmax: 0 or 1 forward, soft backward."""
    return F.gumbel_softmax(widened(logits), tau=1.0, hard=True)[..., 1].to(logits.dtype)


def skim_loss(masks: Tensor) -> Tensor:
    """Return L_skim, the share of tokens kept, averaged over layers and texts, for masks m ``[L, N, T]``."""
    return masks.mean()


def train_to_skim(
    model: SkimEncoder, data: Data, bench: Bench, *, price: float, head_rate: float, **options: Any
) -> None:
    """Minimise ``L_task + price * L_skim``, everything at once; head and predictors learn at ``head_rate``.

    ``options`` are those of `fit`.
    """

    def loss(batch: Batch) -> Tensor:
        outputs, masks = model(batch.inputs, sampled)
        return exit_losses(outputs[None], batch.targets)[0] + price * skim_loss(masks)

    def train() -> None:
        model.train()
        fit(
            model.parameters(), data.train, loss, bench, label=f"training to skim, price {price:g}",
            faster=[*model.head.parameters(), *model.predictors.parameters()], faster_rate=head_rate, **options,
        )  # fmt: skip

    settings = {"price": price, "head_rate": head_rate, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class Transkimmer(SkimMethod):
    """Layer-wise skimming of tokens by learned predictors."""

    price: float = 0.5  # lambda, the weight of the skim loss; released script: 0.5, default of the code: 1
    bias: float = 5.0  # of the predictors' last layers at the start, keep positive, skim negative; released code: 5
    encoder: str = "minilm-l6"  # backbone; the paper: BERT-base, RoBERTa-base
    corpus: str = "rotten-tomatoes"  # data; the paper: GLUE, SQuAD v2, IMDB, Yelp, 20 Newsgroups
    train_size: int = 4000  # training sentences
    length: int = 40  # most word pieces of a sentence
    held: int = 2000  # at most so many sentences for validation and for test
    epochs: float = 1.0  # passes over them; released code: 3, small tasks 5
    batch: int = 8  # released code: 64
    rate: float = 1e-4  # learning rate; released code: 2e-5
    head_rate: float = 2e-4  # learning rate of predictors and head; released code: 2e-5

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "margin"
    knobs: ClassVar[tuple[float, ...]] = (math.inf, 6.0, 5.0, 4.5, 4.0, 3.0, 2.0, 1.0, 0.0, -2.0, -4.0, -math.inf)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lambda 0.5": {}, "lambda 0.1": {"price": 0.1}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 900, "epochs": 4.0, "rate": 2e-3, "head_rate": 5e-3,
        "price": 0.05, "batch": 32, "held": 120,
    }  # fmt: skip
    tiny_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lambda 0.1": {"price": 0.01}}
    others: ClassVar[Mapping[str, Any]] = {"held": 30, "length": 9}
    # Few steps, so the head learns faster, and the predictors with it: at the costlier price they start farther off.
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 240, "held": 30, "head_rate": 1e-3}
    smoke_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lambda 0.5": {"bias": 6.5}}

    def load(self) -> Data:
        """Token ids of sentences, with classes."""
        found = tasks.text(self.corpus, train=self.train_size, length=self.length)
        return replace(found, validation=found.validation.head(self.held), test=found.test.head(self.held))

    def build(self, data: Data, seed: int) -> SkimmingEncoder:
        """A predictor before every layer, one head at the end."""
        return SkimmingEncoder(self.encoder, data.classes, partial(SkimPredictor, bias=self.bias), seed=seed)

    def train(self, model: SkimEncoder, data: Data, bench: Bench) -> None:
        """Task and skimming together."""
        train_to_skim(model, data, bench, price=self.price, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `fit` that are settings here."""
        return {"epochs": self.epochs, "batch": self.batch, "rate": self.rate, "head_rate": self.head_rate}

    def policy(self, knob: float, prepared: Prepared) -> TokenGate:
        """The knob is the margin."""
        return TokenGate(knob)
