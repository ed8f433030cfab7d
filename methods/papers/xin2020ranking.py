"""Early Exiting BERT for Efficient Document Ranking (Early-exit monoBERT).

Idea
    Re-ranking is mostly saying no: nearly all candidates of a query are irrelevant, and most look so early. So pairs of
    query and document leave early, with one threshold for "relevant" and another for "not relevant", as a good document
    lost costs more than some layers.

Model
    A cross-encoder reads [CLS] query [SEP] document [SEP]. A head after each of L layers, with a pooler of its own:
    z_i = V_i dropout(tanh(W_i h_i + b_i)) + c_i;  p_i = softmax(z_i), p_i[1] for "relevant".

Training
    Layers and heads together, point by point: L = CE(z_1, y) + … + CE(z_L, y). Each query comes with one relevant
    document and one that is not; of the candidates to be ranked nearly all are not.

Exit rule
    A pair leaves at the first i < L with p_i[1] > PC or p_i[0] > NC (both strictly), else at L. Its score is p_i[1]
    there; the candidates of a query are sorted by score, whatever layer each comes from. A threshold above 1 switches
    its side off. Here the knob is NC, and PC = 1 - share * (1 - NC) lies above it.

Skipped
    All layers after the exit with their heads, for that pair.

Deviations
    1. MiniLM (6 layers), 4,000 training pairs; the paper: BERT-base (12 layers), 830,000 pairs of MS MARCO, and ASNQ.
    2. 20 Newsgroups, as no package ships those. A message asks for messages of its group (grade 2, the only one that
       counts as relevant in training); those of the same top level have grade 1.
    3. Queries are cut to 12 tokens, documents to 24, not to 512 together; a query has 20 random candidates (2 of grade
       2, at most 3 of grade 1), not the first 1,000 of BM25: what two cores can do in minutes.
    4. Heads compare the mean tokens u of the query and v of the document: they read |u - v| and u * v instead of the
       class token, as MiniLM was pretrained to make such means alike. One mean of all tokens taught next to nothing.
    5. Rate 1e-4 (heads: 1e-3) for one epoch, not 3e-6 for four. Quality is NDCG@10 (gains 2^grade - 1), not MRR@10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import mrr, ndcg
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.pairs import SEPARATOR, graded_pairs, pair_exits, relevant
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.class_thresholds import ClassThresholds
from eelit.methods.recipes.joint import train_joint

OFF = 1.1  # a threshold that is never reached


@dataclass(frozen=True)
class EarlyMonoBert(ExitMethod):
    """A cross-encoder that drops misfits early."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT-base
    corpus: str = "newsgroups"  # data; the paper: MS MARCO passages, ASNQ
    train_size: int = 4000  # training pairs
    validation_queries: int = 60  # queries to choose the knob on
    test_queries: int = 100  # queries to measure on
    candidates: int = 20  # documents to rank for each; the paper: 1,000
    query: int = 12  # tokens of a query at most
    document: int = 24  # tokens of a document at most; the paper: 512 for both together
    epochs: float = 1.0  # passes over the pairs; the paper: 4 (MS MARCO), 2 (ASNQ)
    batch: int = 32  # pairs; the paper: 60
    rate: float = 1e-4  # learning rate; the paper: 3e-6 (MS MARCO), 2e-5 (ASNQ)
    head_rate: float = 1e-3  # learning rate of the heads; the paper: as of the rest
    share: float = 0.1  # PC is this much nearer to 1 than NC; the paper tries many pairs

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "newsgroups")
    knob: ClassVar[str] = "negative threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.5, 0.52, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, OFF)
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "made", "train_size": 1200, "epochs": 4.0, "rate": 4e-3, "head_rate": 4e-3,
        "validation_queries": 20, "test_queries": 30,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 600, "test_queries": 20, "validation_queries": 20}

    @property
    def quality(self) -> str:
        """Mean NDCG of the first ten."""
        return "NDCG@10"

    def load(self) -> Data:
        """Pairs of texts: labels to learn from, grades to rank by."""
        sizes = {"train": self.train_size, "validation": self.validation_queries, "test": self.test_queries}
        return graded_pairs(self.corpus, **sizes, candidates=self.candidates, query=self.query, document=self.document)

    def build(self, data: Data, seed: int) -> MultiExit:
        """A head after every layer, each with its own pooler, which tells query from document."""
        return pair_exits(self.encoder, SEPARATOR[self.corpus], seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The plain sum of all exits' losses."""
        options = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate, "head_rate": self.head_rate}
        train_joint(model, data, bench, weights=[1.0] * model.exits, **options)

    def policy(self, knob: float, prepared: Prepared) -> ClassThresholds:
        """The knob is NC."""
        return ClassThresholds(1 - self.share * (1 - knob), knob)

    def labels(self, targets: Tensor) -> Tensor:
        """Relevant or not."""
        return relevant(targets)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """NDCG@10 of pairs sorted by p[1]: logits ``[N, 2]``, grades ``[N]``; queries that are cut off do not count."""
        return ndcg(*self.ranked(outputs, targets))

    def ranked(self, outputs: Tensor, grades: Tensor) -> tuple[Any, Any, Any]:
        """Return the scores and grades of all whole queries, and the number of candidates of each."""
        sizes = np.full(len(grades) // self.candidates, self.candidates)
        scores = outputs.double().softmax(dim=-1)[:, 1].numpy()
        return scores[: sizes.sum()], grades[: sizes.sum()].numpy(), sizes

    def claims(self, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
        """Faster at little loss; saying no saves the layers; two thresholds beat one. Chosen on validation data."""
        test = prepared.split("test")
        close = [i for i, point in enumerate(curve.validation) if point.quality >= curve.validation[-1].quality - 0.01]
        fast = curve.test[min(close, key=lambda i: curve.validation[i].cost)]
        outputs = (test.at(replay(self.policy(fast.knob, prepared), test.outputs)), test.outputs[-1])
        ranked = [self.ranked(answers, test.targets) for answers in outputs]
        early, full = (mrr(scores, grades == 2, sizes) for scores, grades, sizes in ranked)
        no, yes = (self.trial(rule, test).speed_up for rule in (ClassThresholds(OFF, 0.9), ClassThresholds(0.9, OFF)))
        tried = [x for x in self.knobs if x >= 0.5]
        one = self.within_half([ClassThresholds(x, x) for x in tried], prepared)
        two = self.within_half([ClassThresholds(x, y) for x in tried for y in tried if x > y], prepared)
        rows = [
            ("faster at little loss", "The fastest knob within 0.01 NDCG@10 of the full model on validation data is so "
             "on test data too, and 2.5× faster, the paper's figure for the better of its two data sets.", fast.speed_up
             >= 2.5 and fast.quality >= curve.full_quality - 0.01, f"{fast.quality:.4f} / {curve.full_quality:.4f}, "
             f"MRR@10 {early:.4f} / {full:.4f}, {fast.speed_up:.2f}×"),
            ("saying no saves the layers", "At 0.9, NC alone saves 5 % of the MACs, and twice what PC does.",
             1 - 1 / no > max(0.05, 2 * (1 - 1 / yes)), f"{1 - 1 / no:.1%} of the MACs by NC, {1 - 1 / yes:.1%} by PC"),
            ("two thresholds beat one", "At half the cost, the best pair PC > NC ranks 0.005 NDCG@10 better than the "
             "best single threshold.", two.quality >= one.quality + 0.005, f"{two.quality:.4f} and {one.quality:.4f}"),
        ]  # fmt: skip
        return [Outcome(name=a, statement=b, holds=c, measured=d) for a, b, c, d in rows]

    def within_half(self, rules: list[ClassThresholds], prepared: Prepared) -> OperatingPoint:
        """Return the test point of the rule that is best on validation data at no more than half the full cost."""
        points = [self.trial(rule, prepared.split("validation")) for rule in rules]
        cheap = [i for i, point in enumerate(points) if point.speed_up >= 2] or [0]
        return self.trial(rules[max(cheap, key=lambda i: points[i].quality)], prepared.split("test"))
