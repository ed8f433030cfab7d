"""Pairs of a query and a document as one text each, for encoders that read both together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data.memory_cache import in_memory
from eelit.methods.engine.examples import Data
from eelit.methods.engine.tasks import data, examples

SEPARATOR = {"newsgroups": 102, "made": 3}
"""Token that closes the query and, again, the document; the first token of a pair is the class token."""


@in_memory(2)
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
        sizes = ((train // 2, 2), (validation, candidates), (test, candidates))
        parts = [_made(*size, query, document, seed) for seed, size in enumerate(sizes)]
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


def _made(
    queries: int, candidates: int, query: int, document: int, seed: int
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Up to 6 made words each, most of one topic; topics 2k and 2k + 1 share a top level, 0 and 2 are asked for.

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
            pairs.append(np.concatenate([[2], asked[:query], [3], words(topic)[:document], [3]]))
            grades.append(2 if topic == ours else int(topic == near))
    return pairs, np.array(grades)
