"""Depth-Adaptive Transformer (DAT).

Idea
    A translation decoder needs many blocks for some tokens and few for others. Give every block a classifier, train all
    of them with ordinary teacher forcing, and let a single linear layer predict the depth: once per sentence, once per
    token, or as a gate after every block. Its target is the depth chosen by an oracle, which weighs the quality of each
    block against a price per block; so no reinforcement learning is needed.

Model
    Encoder, and a decoder of N blocks: h_t^0 = embed(y_t), h_t^n = block_n(h_{<=t}^{n-1}, s), s the encoder's outputs.
    Every block is an exit through one output layer, tied to the embeddings: p(y_{t+1} | h_t^n) = softmax(W h_t^n).
    LL_t^n = log p(y_t | h_{t-1}^n),  C_t^n = 1[y_t = argmax_y p(y | h_{t-1}^n)].
    sequence     q(n | x) = softmax(W_h mean(s) + b_h): one depth for the whole sentence.
    multinomial  q_t = softmax(W_h h_t^1 + b_h): one depth for each token, predicted after the first block.
    geometric    chi_t^n = sigmoid(w_h h_t^n + b_h) for n < N, one w_h and b_h for all blocks;
                 q_t(n) = chi_t^n prod_{m<n} (1 - chi_t^m) for n < N,  q_t(N) = prod_{m<N} (1 - chi_t^m).
    confidence   max_y p(y | h_t^n): no parameters of its own.

Training
    Aligned: all tokens run through all blocks, L_dec = - 1 / (sum_n w_n) sum_n w_n LL^n with w_n = 1.
    Mixed: M sequences of exits are drawn, n_t uniform over 1 ... N; a token that has left keeps its state,
    h_t^m = h_t^{n_t} for m > n_t; LL(n_1 ... n_T) = sum_t log p(y_t | h_{t-1}^{n_t}), and L_dec is the mean of -LL over
    the sequences.
    Depth: aligned training goes on with L = L_dec + alpha L_exit, L_exit = sum_t CE(q*_t, q_t), nothing detached; q* is
    1 at the oracle's depth. Per token:  n*_t = argmax_n sum_t' kappa(t, t') C_t'^n - lambda n  with
    kappa(t, t') = exp(-|t - t'|^2 / sigma), sigma = 0 meaning t alone; per sentence:  n* = argmax_n sum_t C_t^n -
    lambda n. The likelihood oracle has LL in place of C. Ties go to the lowest block.

Exit rule
    geometric: leave at the first n < N with chi_t^n > tau; confidence: at the first n < N with max_y p > tau; both
    strictly. sequence, multinomial: leave at n = argmax_n q(n) o^n, o = tau / (1 - tau); at tau = 0.5 that is the
    paper's argmax q. Else at block N. tau is the knob. The token is argmax_y p(y | h_t^n).

Skipped
    All blocks above, except for the keys and values that they compute from the copied state, h_t^m := h_t^n for m > n,
    by their own projections, so that later tokens can attend to it. The confidence rule pays for the output layer at
    every block that it tests.

Deviations
    1. The task is spelling to phonemes: letters of English words, and their pronunciations in the CMU Pronouncing
       Dictionary (the first of each, stress left out), not IWSLT'14 German-English or WMT'14 English-French. Verses of
       public-domain Bibles were tried: 7,427 of at most 20 words, from Spanish (Reina-Valera 1909) to English (World
       English Bible), 1,000 byte-pair tokens, this network, 1.9 passes in 73 seconds, which is a third of the time that
       a variant is trained for here; no longer trial was made. BLEU was 3.0 on 200 test verses (0.7 with the references
       of other verses; 0.8 to 3.2 by block), 26 % of the next tokens were right, and they took 5.7 bits, 6.6 with the
       source of another verse. So the source is read, but after so short a training translations are too poor for half
       a point of BLEU to mean anything. Here BLEU is that of phonemes, with one pronunciation as the reference.
    2. One output layer for all exits, tied to the embeddings, as in the paper's WMT models; its IWSLT models have one
       for each exit. Encoder and decoder are equally wide (the paper's on IWSLT: 512 and 256). Blocks normalise their
       inputs, not their outputs, which needs no long warm-up; so states are normalised before the output layer, by one
       norm for all blocks, and w_h and W_h read the same normalised states.
    3. Muon and AdamW, gradients clipped at norm 1, four passes over the pairs and as many more with the exit loss; the
       paper: Adam, norm 3, 50,000 updates, and then until convergence. For confidence, which has no exit loss, the
       second training goes on with the first one's, so that all variants have as many steps, and mixed training, too.
    4. Greedy search, not beams of 5 and 4. Translations end at the length of the longest reference for training.
    5. One tau for all blocks; the paper also tunes one for each block, for confidence by 10,000 random draws. The two
       predictors of a depth have no knob at inference in the paper: it trains one model for every lambda.
    6. alpha, and the grids of lambda and sigma, could not be read: 0.5, and 0.1 and 0. L_exit is a mean over tokens (or
       sentences), as L_dec is. That ties go to the lowest block is our reading. Other weights w_n are left out.
    7. Costs begin when the source has been read: the encoder, keys and values of its outputs in all blocks (the paper
       counts these when a block is first called), and the prediction for the sequence are left out. The multinomial
       prediction is recomputed, and counted, at each block tested; only the first is used.
    8. Mixed training has the same number of updates as aligned training; its decoder passes cost M times as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.decoding import Reads
from eelit.methods.backbones.translator import Translator
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import device_of
from eelit.methods.engine.translations import PAD, TranslationData, shifted, trimmed
from eelit.methods.families.translation import Prepared, SpokenWords, TranslationMethod
from eelit.methods.policies.base import Policy, checked
from eelit.methods.policies.likeliest_depth import LikeliestDepth
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.fit import Batch
from eelit.methods.recipes.joint import exit_losses
from eelit.methods.recipes.translating import train_all

Depth = Literal["geometric", "multinomial", "sequence", "confidence"]
Oracle = Literal["correctness", "likelihood"]
SLOWER = 0.3
"""Share of the learning rates with which training goes on, with depth or, for confidence, without."""


class StopGate(nn.Module):
    """The gate that all blocks share: chi = sigmoid(w_h h + b_h)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def logit(self, states: Tensor) -> Tensor:
        """Return the logit ``[...]`` of chi for states ``[..., d]``."""
        found: Tensor = self.linear(states)[..., 0]
        return found

    def forward(self, states: Tensor) -> Tensor:
        """Return chi ``[...]``, the probability of stopping at states ``[..., d]``."""
        return self.logit(states).sigmoid()


def log_geometric(logits: Tensor) -> Tensor:
    """Return log q ``[N, ...]`` from the logits of chi^1 … chi^{N-1}, ``[N - 1, ...]``."""
    leave, stay = F.logsigmoid(logits), F.logsigmoid(-logits).cumsum(dim=0)
    none = torch.zeros_like(stay[:1])
    return torch.cat([leave, none]) + torch.cat([none, stay])


def kernel(length: int, sigma: float) -> Tensor:
    """Return kappa ``[length, length]``; at sigma = 0 each token has itself alone."""
    if sigma == 0:
        return torch.eye(length)
    places = torch.arange(length)
    return torch.exp(-((places[:, None] - places) ** 2) / sigma)


def best_depth(scores: Tensor, price: float) -> Tensor:
    """Return ``argmax_n scores^n - price n`` of scores ``[N, ...]``, from 0; of equals the lowest."""
    depths = torch.arange(len(scores), device=scores.device).view(-1, *[1] * (scores.dim() - 1))
    worth = scores.double() - price * depths
    return torch.where(worth == worth.amax(dim=0), depths, len(scores)).amin(dim=0)


def scores_of(logits: Tensor, references: Tensor, oracle: Oracle) -> Tensor:
    """Return LL_t^n or C_t^n ``[N, n, t]``, 0 behind the end, of logits ``[N, n, t, V]``."""
    words = references != PAD
    if oracle == "correctness":
        return (logits.argmax(dim=-1) == references) * words.double()
    said = logits.log_softmax(dim=-1).gather(-1, references.expand(len(logits), -1, -1)[..., None])[..., 0]
    return torch.where(words, said, 0.0).double()


@dataclass(frozen=True)
class DepthTraining:
    """How depth is trained: what predicts it, the oracle, lambda, sigma and alpha."""

    depth: Depth
    oracle: Oracle
    price: float
    smoothing: float
    alpha: float

    def target(self, scores: Tensor) -> Tensor:
        """Return the oracle's depth, from 0, of scores ``[N, n, t]``: ``[n]`` of sentences or ``[n, t]`` of tokens."""
        if self.depth == "sequence":
            return best_depth(scores.sum(dim=2), self.price)
        return best_depth(scores @ kernel(scores.shape[-1], self.smoothing).to(scores), self.price)

    def loss(self, model: Translator, states: Tensor, mean: Tensor, references: Tensor) -> Tensor:
        """Return L_exit, given the states ``[N, n, t, d]`` and the mean ``[n, d]`` of the encoder's outputs."""
        with torch.no_grad():
            best, words = self.target(scores_of(model.head(states), references, self.oracle)), references != PAD
        if self.depth == "sequence":
            return F.cross_entropy(model.forecaster(mean), best)
        if self.depth == "multinomial":
            return F.cross_entropy(model.gate(states[0][words]), best[words])
        assert isinstance(model.predictor, StopGate)
        log_q = log_geometric(model.predictor.logit(model.norm(states[:-1][:, words])))
        return -log_q.gather(0, best[words][None]).mean()


def aligned_loss(model: Translator, batch: Batch, training: DepthTraining | None = None) -> Tensor:
    """Return L_dec of aligned training, a mean over tokens, and in addition alpha L_exit if depth is trained."""
    references = trimmed(batch.targets)
    read, words = model.encode(trimmed(batch.inputs))
    states, real = torch.stack(model.decode(read, words, shifted(references))), references != PAD
    found = exit_losses(model.head(states[:, real]), references[real]).mean()
    if training is None:
        return found
    return found + training.alpha * training.loss(model, states, model.mean_of(read, words), references)


def mixed_loss(model: Translator, batch: Batch, sequences: int) -> Tensor:
    """Return L_dec of mixed training, a mean over tokens, with exits drawn anew for each batch."""
    references = trimmed(batch.targets).repeat(sequences, 1)
    depths = torch.randint(model.exits, references.shape).to(references.device)
    read, words = model.encode(trimmed(batch.inputs))
    read, words = read.repeat(sequences, 1, 1), words.repeat(sequences, 1, 1, 1)
    final, real = model.decode(read, words, shifted(references), depths)[-1], references != PAD
    return F.cross_entropy(model.head(final[real]), references[real])


@dataclass(frozen=True)
class Dat(SpokenWords, TranslationMethod):
    """Depth per token or per sentence, trained on an oracle's; and confidence, for comparison."""

    depth: Depth = "geometric"  # what decides the depth: see Model
    sequences: int = 0  # M of mixed training, in the paper up to 6; 0: aligned training, which it prefers
    oracle: Oracle = "correctness"  # what the oracle looks at; the paper: this and the likelihood
    price: float = 0.1  # lambda, of one block in the oracle; the paper: for example 0.1
    smoothing: float = 0.0  # sigma, width of the oracle's kernel; the paper: 0 and more
    alpha: float = 0.5  # weight of the exit loss; the paper's could not be read
    corpus: str = "cmudict"  # data; the paper: IWSLT'14 and WMT'14
    train_size: int = 12000  # pairs; the paper: 160 thousand and 36 million
    longest: int = 10  # letters of a word
    encoders: int = 2  # blocks of the encoder; the paper: 6
    blocks: int = 6  # N, blocks of the decoder; the paper: 6
    width: int = 64  # d; the paper: 512 in the encoder, 256 in the decoder
    heads: int = 4  # of attention; the paper: 4
    inner: int = 128  # width inside the feed-forward parts; the paper: 1024
    dropout: float = 0.05  # share; the paper: 0.3
    epochs: float = 4.0  # passes over the pairs in the first training
    more_epochs: float = 4.0  # and in the second, with the exit loss; the paper: until convergence
    batch: int = 64  # pairs of a step; the paper: 8 thousand tokens
    rate: float = 1e-2  # of Muon
    other_rate: float = 4e-3  # of AdamW

    data: ClassVar[tuple[str, ...]] = ("cmudict",)
    knob: ClassVar[str] = "tau"
    knobs: ClassVar[tuple[float, ...]] = (
        0.0, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.1,
    )  # fmt: skip
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "geometric": {},
        "multinomial": {"depth": "multinomial"},
        "sequence": {"depth": "sequence"},
        "confidence": {"depth": "confidence"},
    }
    tiny: ClassVar[Mapping[str, Any]] = {
        "corpus": "made", "train_size": 600, "longest": 6, "encoders": 1, "blocks": 3, "width": 32, "heads": 2,
        "inner": 32, "dropout": 0.0, "epochs": 5.0, "more_epochs": 1.0, "batch": 32,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 4000, "longest": 7, "encoders": 1, "blocks": 4, "width": 48, "inner": 64,
        "epochs": 3.0, "more_epochs": 0.5,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {"epochs": 40.0}
    others: ClassVar[Mapping[str, Any]] = {
        "oracle": "likelihood", "smoothing": 4.0, "price": 1.5, "heads": 4, "dropout": 0.2,
    }  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse what can mean nothing."""
        checked("Dat", "sequences", self.sequences, whole=True, least=0)
        for name in ("price", "smoothing", "alpha"):
            checked("Dat", name, getattr(self, name), least=0, finite=True)
        if self.sequences and self.depth != "confidence":
            raise ValueError(f"mixed training has no states at full depth that an oracle for {self.depth} could judge")

    @property
    def reads(self) -> Reads:
        """Which output decides the depth: a gate, the block forecast for a sequence, or the logits of a token."""
        kinds: dict[Depth, Reads] = {"sequence": "forecast", "confidence": "logits"}
        return kinds.get(self.depth, "gate")

    def train(self, model: Translator, data: TranslationData, bench: Bench) -> None:
        """The exits first, in one training that the variants share; then depth with them, at lower rates."""
        if sequences := self.sequences:

            def loss(batch: Batch) -> Tensor:
                return mixed_loss(model, batch, sequences)
        else:

            def loss(batch: Batch) -> Tensor:
                return aligned_loss(model, batch)

        rates = {"rate": self.rate, "other_rate": self.other_rate}
        label = "training all exits to translate"
        train_all(model, data, bench, loss, label=label, epochs=self.epochs, batch=self.batch, **rates)
        rates = {name: SLOWER * rate for name, rate in rates.items()}
        if self.depth == "confidence":  # without a depth to train, but as many steps as where there is one
            label = "training all exits further"
            train_all(model, data, bench, loss, label=label, epochs=self.more_epochs, batch=self.batch, **rates)
            return
        torch.manual_seed(bench.seed)
        if self.depth == "geometric":
            model.predictor = StopGate(model.width).to(device_of(model))
        elif self.depth == "multinomial":
            model.predictor = nn.Linear(model.width, model.exits).to(device_of(model))
        else:
            model.forecaster = nn.Linear(model.width, model.exits).to(device_of(model))
        training = DepthTraining(self.depth, self.oracle, self.price, self.smoothing, self.alpha)

        def both(batch: Batch) -> Tensor:
            return aligned_loss(model, batch, training)

        train_all(
            model, data, bench, both, label="training depth as well", epochs=self.more_epochs, batch=self.batch, **rates
        )

    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """The knob is tau."""
        if self.depth == "geometric":
            return ScoreThreshold(knob, "gate")
        if self.depth == "confidence":
            return MaxConfidence(math.nextafter(knob, math.inf))  # that reaches its threshold, and this goes above it
        return LikeliestDepth(knob)
