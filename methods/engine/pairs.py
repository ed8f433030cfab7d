"""Pairs of a query and a document as one text each, for encoders that read both together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.encoder import EncoderStage, encoder, stages_of
from eelit.methods.engine.examples import Data
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.tasks import data, examples

SEPARATOR = {"newsgroups": 102, "made": 3}
"""Token that closes the query and, again, the document; the first token of a pair is the class token."""


@lru_cache(maxsize=2)
def graded_pairs(
    source: str, *, train: int, validation: int, test: int, candidates: int, query: int, document: int
) -> Data:
    """Return pairs as int64 token ids: class token, query, separator, document, separator.

    ``train`` pairs have targets 1 (relevant: grade 2) or 0, as many of each. ``validation`` and ``test`` are numbers of
    queries with ``candidates`` pairs each, which follow each other; their targets are grades 0, 1, 2. Queries and
    documents are cut to so many tokens. ``newsgroups``, or ``made`` (made words of five topics; unit tests only).
    """
    parts: list[tuple[Sequence[NDArray[np.int64]], NDArray[np.int64]]]
    if source == "made":
        parts = [_made(train // 2, 2, seed=0), _made(validation, candidates, seed=1), _made(test, candidates, seed=2)]
    elif source == "newsgroups":
        from eelit.methods.data import newsgroups
        from eelit.methods.data.tokens import token_ids

        split = newsgroups.pairs(train, validation, test, candidates)
        parts = [
            (joined(token_ids(p.queries, query + 2), token_ids(p.documents, document + 2)), p.grades)
            for p in (split.train, split.validation, split.test)
        ]
    else:
        raise ValueError(f"no graded pairs {source!r}; there are newsgroups and made")
    (learnt, grades), *held = parts
    return data([examples(learnt, relevant(grades)), *(examples(*part) for part in held)], classes=2)


def relevant(grades: Any) -> Any:
    """Return 1 for the highest grade, which alone counts as relevant where there are two classes, and 0 for others."""
    return (grades == 2) * 1


def joined(queries: Sequence[NDArray[np.int64]], documents: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Join tokens ``[CLS] … [SEP]`` of query and document to ``[CLS] query [SEP] document [SEP]``."""
    return [np.concatenate([q, d[1:]]) for q, d in zip(queries, documents, strict=True)]


class Segments(nn.Module):
    """The embeddings of a BERT-type encoder, told which tokens stand behind the first separator (segment 1)."""

    def __init__(self, embeddings: nn.Module, separator: int) -> None:
        super().__init__()
        self.embeddings, self.separator = embeddings, separator

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed pairs ``[N, T]``."""
        return self.embeddings(input_ids=input_ids, token_type_ids=segments(input_ids, self.separator))


class PairStage(nn.Module):
    """A layer of an encoder; the state is hidden states ``[N, T, d]`` and who of the tokens is the document's."""

    def __init__(self, layer: EncoderStage, separator: int) -> None:
        super().__init__()
        self.layer, self.separator = layer, separator

    def forward(self, state: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Run the layer; the first takes token ids ``[N, T]``."""
        if isinstance(state, Tensor):
            return self.layer(state), segments(state, self.separator)
        return self.layer(state[0]), state[1]


class PairHead(nn.Module):
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
        """Read the state of `PairStage`."""
        hidden, document = state
        u, v = _scaled_mean(hidden, 1 - document), _scaled_mean(hidden, document)
        compared = torch.cat([(u - v).abs(), u * v], dim=1)
        found: Tensor = self.classifier(self.dropout(torch.tanh(self.pooler(compared))))
        return found


def _scaled_mean(hidden: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean direction ``[N, d]`` of the chosen tokens, with length ``sqrt(d)``."""
    total = (hidden * chosen[..., None].to(hidden.dtype)).sum(dim=1)
    return F.normalize(total, dim=1) * hidden.shape[-1] ** 0.5


def pair_exits(name: str, separator: int, *, seed: int) -> MultiExit:
    """Return an encoder of pairs with a head of its own after every layer."""
    torch.manual_seed(seed)
    model = encoder(name)
    layers = stages_of(model)
    assert layers[0].embeddings is not None
    layers[0].embeddings = Segments(layers[0].embeddings, separator)
    heads = [PairHead(model.config.hidden_size) for _ in layers]
    return MultiExit([PairStage(layer, separator) for layer in layers], heads).eval()


def segments(ids: Tensor, separator: int) -> Tensor:
    """Return 0 for tokens up to and including the first separator, 1 for those behind it, ``[N, T]``."""
    closed = (ids == separator).to(torch.int64)
    return (closed.cumsum(dim=1) - closed).clamp(max=1)


def _made(queries: int, candidates: int, seed: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Texts of 6 made words, most of their topic; topics 2k and 2k + 1 share a top level, 0 and 2 are asked for.

    Of two candidates one is relevant; of more two are, and a third has grade 1.
    """
    rng, topics = np.random.default_rng(seed), 5
    pairs, grades = [], []

    def words(topic: int) -> NDArray[np.int64]:
        return np.where(rng.random(6) < 0.8, 4 + 12 * topic + rng.integers(0, 12, 6), rng.integers(4, 64, 6))

    for _ in range(queries):
        ours = 2 * int(rng.integers(2))
        near = ours ^ 1
        others = [t for t in range(topics) if t not in (ours, near)]
        rest = rng.choice(others, max(0, candidates - 3))
        drawn = [ours, int(rng.choice([near, *others]))] if candidates == 2 else [ours, ours, near, *rest.tolist()]
        asked = words(ours)
        for topic in rng.permutation(drawn).tolist():
            pairs.append(np.concatenate([[2], asked, [3], words(topic), [3]]))
            grades.append(2 if topic == ours else int(topic == near))
    return pairs, np.array(grades)
