"""Measures of quality: of classes and values in torch, of rankings in numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of samples whose largest logit ``[N, C]`` is at the target.

    Raises `ValueError` for logits of one class, of which that is always the largest.
    """
    if outputs.dim() < 2 or outputs.shape[-1] < 2:
        raise ValueError(f"accuracy is that of logits [N, C] of at least two classes, not {list(outputs.shape)}")
    return float((outputs.argmax(dim=-1) == targets).double().mean())


def pearson(outputs: Tensor, targets: Tensor) -> float:
    """Pearson correlation of values ``[N]`` with targets ``[N]``; 0 if either is constant."""
    x, y = outputs.double() - outputs.double().mean(), targets.double() - targets.double().mean()
    norm = float(x.norm() * y.norm())
    return float((x * y).sum()) / norm if norm > 0 else 0.0


def ndcg(scores: NDArray[Any], grades: NDArray[Any], groups: NDArray[Any], k: int = 10) -> float:
    """Mean NDCG@k over queries: gain 2^grade - 1, discount log2(rank + 1); see `ndcg_per_query`."""
    return float(ndcg_per_query(scores, grades, groups, k).mean())


def ndcg_per_query(
    scores: NDArray[Any], grades: NDArray[Any], groups: NDArray[Any], k: int = 10
) -> NDArray[np.float64]:
    """NDCG@k of each query `[queries]`, from scores and grades `[documents]` and the documents per query `[queries]`.

    Documents of a query follow each other. Equal scores keep the given order. A query whose documents all have grade 0
    counts 1, as any order of them is ideal.
    """
    if len(scores) != len(grades) or int(np.sum(groups)) != len(scores):
        raise ValueError(f"{len(scores)} scores, {len(grades)} grades and groups of {int(np.sum(groups))} documents")
    ends = np.cumsum(groups)
    found = [_ndcg(scores[end - n : end], grades[end - n : end], k) for n, end in zip(groups, ends, strict=True)]
    return np.array(found, dtype=np.float64)


def _ndcg(scores: NDArray[Any], grades: NDArray[Any], k: int) -> float:
    gains = 2.0 ** np.asarray(grades, dtype=np.float64) - 1
    discounts = 1 / np.log2(np.arange(2, min(k, len(gains)) + 2))
    best = np.sort(gains)[::-1][:k] @ discounts
    got = gains[np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:k]] @ discounts
    return float(got / best) if best > 0 else 1.0


def mrr(scores: NDArray[Any], relevant: NDArray[Any], groups: NDArray[Any], k: int = 10) -> float:
    """Mean over queries of 1 / rank of the first relevant document, 0 if there is none among the first k.

    From scores and relevance `[documents]` and the documents per query `[queries]`, as `ndcg_per_query`.
    """
    ends = np.cumsum(groups)
    found = [
        _reciprocal(scores[end - n : end], relevant[end - n : end], k) for n, end in zip(groups, ends, strict=True)
    ]
    return float(np.mean(found))


def _reciprocal(scores: NDArray[Any], relevant: NDArray[Any], k: int) -> float:
    first = np.flatnonzero(np.asarray(relevant, dtype=bool)[np.argsort(-np.asarray(scores), kind="stable")[:k]])
    return 1 / (int(first[0]) + 1) if len(first) else 0.0
