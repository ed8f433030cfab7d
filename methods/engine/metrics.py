"""Measures of quality: of classes and values in torch, of rankings in numpy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Score: TypeAlias = Callable[[Tensor, Tensor], float]
"""From answers ``[N, C]`` or ``[N]`` and targets ``[N]`` to quality."""


@dataclass(frozen=True)
class Mean:
    """A score that is a mean over samples: ``each`` says what every answer ``[N, ...]`` is worth, ``[N]``.

    Where ``each`` gives None, the score is what ``otherwise`` says of all answers together.
    """

    each: Callable[[Tensor, Tensor], Tensor | None]
    otherwise: Score | None = None

    def __call__(self, answers: Tensor, targets: Tensor) -> float:
        """Return the quality of all answers."""
        each = self.each(answers, targets)
        if each is not None:
            return float(each.double().mean())
        assert self.otherwise is not None
        return self.otherwise(answers, targets)


def judged(score: Score, answers: Tensor, targets: Tensor) -> float | NDArray[Any]:
    """Return what each answer is worth, ``[N]``; of a score that is no mean over samples what all are."""
    each = score.each(answers, targets) if isinstance(score, Mean) else None
    return score(answers, targets) if each is None else each.cpu().numpy()


def right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the largest logit ``[N, C]`` of each sample is at the target, ``[N]``.

    Raises `ValueError` for logits of one class, of which that is always the largest.
    """
    if outputs.dim() < 2 or outputs.shape[-1] < 2:
        raise ValueError(f"accuracy is that of logits [N, C] of at least two classes, not {list(outputs.shape)}")
    return outputs.argmax(dim=-1) == targets


accuracy = Mean(right)
"""Share of samples whose largest logit ``[N, C]`` is at the target."""


def pearson(outputs: Tensor, targets: Tensor) -> float:
    """Pearson correlation of values ``[N]`` with targets ``[N]``; 0 if either is constant."""
    x, y = outputs.double() - outputs.double().mean(), targets.double() - targets.double().mean()
    norm = float(x.norm() * y.norm())
    return float((x * y).sum()) / norm if norm > 0 else 0.0


usual = Mean(lambda answers, targets: None if answers.dim() == 1 else right(answers, targets), pearson)
"""Accuracy of logits ``[N, C]``; for values ``[N]`` Pearson's correlation."""


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
