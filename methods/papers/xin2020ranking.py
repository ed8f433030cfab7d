"""Early Exiting BERT for Efficient Document Ranking (Early-exit monoBERT).

Idea
    In re-ranking nearly all candidates of a query are irrelevant, and for most this is visible in early layers. So
    pairs of query and document leave early, with one threshold for "relevant" and another for "not relevant", as losing
    a relevant document costs more than running some layers.

Model
    A cross-encoder reads [CLS] query [SEP] document [SEP]. A head after each of L layers, with a pooler of its own:
    z_i = V_i dropout(tanh(W_i h_i + b_i)) + c_i;  p_i = softmax(z_i), p_i[1] for "relevant".

Training
    Layers and heads together, point by point: L = CE(z_1, y) + … + CE(z_L, y). Each query comes with one relevant
    document and one that is not; of the candidates to be ranked nearly all are not.

Exit rule
    A pair leaves at the first i < L with p_i[1] > PC or p_i[0] > NC (both strictly), else at L. Its score is p_i[1]
    there; the candidates of a query are sorted by score, whatever layer each comes from. A threshold above 1 switches
    its condition off. Here the knob is NC, and PC = 1 - share * (1 - NC) lies above it.

Skipped
    All layers after the exit with their heads, for that pair.

Deviations
    1. MiniLM (6 layers), 4,000 training pairs; the paper: BERT-base (12 layers), 830,000 pairs of MS MARCO, and ASNQ.
    2. 20 Newsgroups, as no package ships those. A message asks for messages of its group (grade 2, the only one that
       counts as relevant in training); those of the same top level have grade 1.
    3. Queries are cut to 12 tokens, documents to 24, not to 512 together; a query has 20 random candidates (2 of grade
       2, at most 3 of grade 1), not the first 1,000 of BM25: what two cores can do in minutes.
    4. Heads compare the mean tokens u of the query and v of the document: they read |u - v| and u * v instead of the
       class token, as MiniLM was pretrained to make such means similar, and start from random weights instead of BERT's
       pooler. With one mean of all tokens almost nothing was learned.
    5. Rate 1e-4 (heads: 1e-3) for one epoch in batches of 32, not 3e-6 for four (ASNQ: 2e-5 for two) in batches of 60.
       It warms up for 10 % of the steps, which the released script does not; weight decay 0.01 and clipping at norm 1
       are as there.
       Quality is NDCG@10 (gains 2^grade - 1), not MRR@10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.encoder import EncoderStage, encoder, stages_of
from eelit.methods.engine import chance
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import Mean, Score, ndcg, ndcg_per_query
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.pairs import SEPARATOR, graded_pairs, relevant
from eelit.methods.engine.records import Chance
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.base import widened
from eelit.methods.policies.class_thresholds import ClassThresholds
from eelit.methods.recipes.joint import train_joint


def segments(ids: Tensor, separator: int) -> Tensor:
    """Return 0 for tokens up to and including the first separator, 1 for those behind it, ``[N, T]``."""
    closed = (ids == separator).to(torch.int64)
    return (closed.cumsum(dim=1) - closed).clamp(max=1)


class SegmentEmbeddings(nn.Module):
    """The embeddings of a BERT-type encoder, told which tokens stand behind the first separator (segment 1)."""

    def __init__(self, embeddings: nn.Module, separator: int) -> None:
        super().__init__()
        self.embeddings, self.separator = embeddings, separator

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map token ids of pairs ``[N, T]`` to embeddings ``[N, T, d]``."""
        return self.embeddings(input_ids=input_ids, token_type_ids=segments(input_ids, self.separator))


class CrossEncoderLayer(nn.Module):
    """A layer of an encoder; the state is hidden states ``[N, T, d]`` and who of the tokens is the document's."""

    def __init__(self, layer: EncoderStage, separator: int) -> None:
        super().__init__()
        self.layer, self.separator = layer, separator

    def forward(self, state: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Run the layer; the first takes token ids ``[N, T]``."""
        if isinstance(state, Tensor):
            return self.layer(state), segments(state, self.separator)
        return self.layer(state[0]), state[1]


class RelevanceHead(nn.Module):
    """An exit head that compares query and document: ``V tanh(W [|u - v|, u * v] + b) + c``, logits ``[N, 2]``.

    ``u`` and ``v`` are the means of the query's and of the document's tokens, scaled to the length of a vector of ones.
    MiniLM was pretrained so that such means are alike where texts are; in the mean of all tokens this cannot be seen.
    """

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.pooler = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, 2)

    def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """Read the state of `CrossEncoderLayer`."""
        hidden, document = state
        u, v = scaled_mean(hidden, 1 - document), scaled_mean(hidden, document)
        compared = torch.cat([(u - v).abs(), u * v], dim=1)
        found: Tensor = self.classifier(self.dropout(torch.tanh(self.pooler(compared))))
        return found


def scaled_mean(hidden: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean direction ``[N, d]`` of the chosen tokens, with length ``sqrt(d)``."""
    total = (widened(hidden) * chosen[..., None]).sum(dim=1)  # beyond half precision, as is its length
    return (F.normalize(total, dim=1) * hidden.shape[-1] ** 0.5).to(hidden.dtype)


def mono_bert(name: str, separator: int, *, seed: int) -> MultiExit:
    """Return an encoder of pairs with a head of its own after every layer."""
    torch.manual_seed(seed)
    model = encoder(name)
    layers = stages_of(model)
    assert layers[0].embeddings is not None
    layers[0].embeddings = SegmentEmbeddings(layers[0].embeddings, separator)
    heads = [RelevanceHead(model.config.hidden_size) for _ in layers]
    return MultiExit([CrossEncoderLayer(layer, separator) for layer in layers], heads).eval()


OFF = 1.1  # a threshold that is never reached


@dataclass(frozen=True)
class EarlyExitMonoBert(ExitMethod):
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
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 240, "batch": 16, "query": 10, "document": 14, "test_queries": 8, "validation_queries": 4,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        "validation_queries": 1, "test_queries": 1, "query": 2, "document": 2, "share": 2.0,
    }  # fmt: skip

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
        return mono_bert(self.encoder, SEPARATOR[self.corpus], seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The plain sum of all exits' losses."""
        how: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        train_joint(model, data, bench, weights=[1.0] * model.exits, head_rate=self.head_rate, **how)

    def policy(self, knob: float, prepared: Prepared) -> ClassThresholds:
        """The knob is NC."""
        return ClassThresholds(1 - self.share * (1 - knob), knob)

    def labels(self, targets: Tensor) -> Tensor:
        """Return 1 for a relevant document and 0 for others, from grades."""
        return relevant(targets)

    @property
    def score(self) -> Score:
        """NDCG@10 of pairs sorted by p[1]: logits ``[N, 2]``, grades ``[N]``; queries that are cut off do not count."""
        return Mean(lambda outputs, targets: torch.from_numpy(ndcg_per_query(*self.ranked(outputs, targets))))

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """What random orders of each query's candidates reach."""
        seen = prepared.split("test")
        _, grades, sizes = self.ranked(seen.answers[-1], seen.targets)
        return chance.of_orders(lambda values: ndcg(values, grades, sizes), len(grades))

    def ranked(self, outputs: Tensor, grades: Tensor) -> tuple[Any, Any, Any]:
        """Return the scores and grades of all whole queries, and the number of candidates of each."""
        sizes = np.full(len(grades) // self.candidates, self.candidates)
        scores = outputs.double().softmax(dim=-1)[:, 1].numpy()
        return scores[: sizes.sum()], grades[: sizes.sum()].numpy(), sizes
