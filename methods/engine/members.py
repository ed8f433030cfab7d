"""The members of a cascade: separate models behind one protocol, with the cost of each sample in one unit.

That unit is the multiply-accumulate of `costs`. A network's are counted; a linear model has one for each weight, libsvm
one for each number in its support vectors and each of their coefficients; a tree has none unless its leaves are linear,
but a comparison at each node on a sample's path, which counts as `COMPARISON` of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import lightgbm
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from torch import Tensor, nn

from eelit.methods.engine.costs import MacCounter, UncountedOperation, count
from eelit.methods.engine.multi_exit import device_of, evaluating
from eelit.methods.policies.base import Output

COMPARISON = 1.0
"""Multiply-accumulates that one comparison in a tree counts as: both read a number, do one operation and go on."""
FORESTS = (
    *(RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor),
    *(GradientBoostingClassifier, GradientBoostingRegressor),
)
"""Models of many trees, in ``estimators_``."""
KERNELS = ("linear", "poly", "rbf", "sigmoid")
"""Kernels of libsvm that multiply once for each feature of each support vector."""
ASKED = ("predict", "predict_proba", "predict_log_proba", "decision_function")
"""By which of its functions an estimator can be asked for an answer."""


class Member(nn.Module, ABC):
    """One model of a cascade, used on its own inputs: whatever another has computed is of no use to it."""

    @abstractmethod
    def forward(self, x: Tensor) -> Output:
        """Return what the model says of inputs ``[n, ...]``: logits ``[n, C]``, values ``[n]``, or more by name."""

    @abstractmethod
    def costs(self, x: Tensor) -> NDArray[np.float64]:
        """Return the cost ``[n]`` of each of the inputs."""


class Network(Member):
    """A torch module as a member."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._costs: dict[torch.Size, int] = {}

    def forward(self, x: Tensor) -> Output:
        """Return what the network says, wherever it is."""
        return self.network(x.to(device_of(self.network)))

    def costs(self, x: Tensor) -> NDArray[np.float64]:
        """Return the MACs of the network, the same for all inputs of one shape."""
        if x.shape[1:] not in self._costs:
            with evaluating(self):
                self._costs[x.shape[1:]] = count(lambda: self(x[:1]))
        return np.full(len(x), float(self._costs[x.shape[1:]]))


def flat(x: Tensor) -> NDArray[Any]:
    """Return inputs ``[n, ...]``, wherever they are, as rows ``[n, F]``; numpy has no bfloat16."""
    rows: NDArray[Any] = (x.float() if x.dtype == torch.bfloat16 else x).flatten(1).cpu().numpy()
    return rows


class Estimator(Member):
    """A model of scikit-learn or LightGBM as a member: linear, with kernels, trees of any kind, or a pipeline.

    It says log-probabilities ``[n, classes]`` (-inf made finite), or values ``[n]`` if ``classes`` is None.
    """

    def __init__(
        self,
        estimator: Any,
        classes: int | None,
        *,
        comparison: float = COMPARISON,
        view: Callable[[Tensor], NDArray[Any]] = flat,
    ) -> None:
        super().__init__()
        self.estimator, self.classes, self.comparison, self.view = estimator, classes, comparison, view

    def forward(self, x: Tensor) -> Tensor:
        """Return log probabilities ``[N, classes]``, or without classes the predicted values ``[N]``."""
        rows = self.view(x)
        if self.classes is None:
            return torch.as_tensor(self.estimator.predict(rows), dtype=torch.float32)
        found = np.zeros((len(rows), self.classes))  # classes that it never saw have no probability
        found[:, np.asarray(self.estimator.classes_, dtype=np.int64)] = self.estimator.predict_proba(rows)
        return torch.as_tensor(np.log(found.clip(1e-12)), dtype=torch.float32)

    def costs(self, x: Tensor) -> NDArray[np.float64]:
        """Return what each of the inputs takes, comparisons priced."""
        return self.price(self.view(x))

    def price(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return what each row ``[n, F]`` takes."""
        return multiplications(self.estimator, rows) + self.comparison * comparisons(self.estimator, rows)


def multiplications(estimator: Any, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return how many multiplications the estimator makes for each row ``[n]``.

    Raises `UncountedOperation` for a kind of estimator that neither this function nor `comparisons` knows.
    """
    if isinstance(estimator, Pipeline):
        return np.sum([multiplications(step, rows) for _, step in estimator.steps], axis=0, dtype=np.float64)
    if (booster := _booster(estimator)) is not None:
        return _on_the_way(booster, rows)[1]
    if estimator == "passthrough" or _trees(estimator) is not None:
        return np.zeros(len(rows))
    if hasattr(estimator, "support_vectors_") and estimator.kernel in KERNELS:
        # libsvm multiplies by each support vector, also where these could be added up to one weight for each feature.
        return np.full(len(rows), float(estimator.support_vectors_.size + estimator.dual_coef_.size))
    if isinstance(estimator, StandardScaler | MinMaxScaler):
        return np.full(len(rows), float(estimator.n_features_in_))
    weights = estimator.components_ if isinstance(estimator, PCA) else getattr(estimator, "coef_", None)
    if weights is None:
        raise UncountedOperation(f"{type(estimator).__name__} has no formula in eelit.methods.engine.members")
    return np.full(len(rows), float(np.size(weights)))


def comparisons(estimator: Any, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return how many comparisons the estimator makes on the way of each row ``[n]`` through its trees."""
    if isinstance(estimator, Pipeline):
        if len(estimator.steps) > 1:
            rows = estimator[:-1].transform(rows)
        return comparisons(estimator.steps[-1][1], rows)
    if (booster := _booster(estimator)) is not None:
        return _on_the_way(booster, rows)[0]
    # The leaf, which ends a path, compares nothing.
    paths = [np.diff(tree.decision_path(rows).indptr) - 1 for tree in _trees(estimator) or ()]
    return np.sum(paths, axis=0, dtype=np.float64) if paths else np.zeros(len(rows))


def _trees(estimator: Any) -> list[Any] | None:
    """Return the trees of an estimator of scikit-learn; None if it is none of trees."""
    if isinstance(estimator, DecisionTreeClassifier | DecisionTreeRegressor):
        return [estimator]
    if isinstance(estimator, FORESTS):
        return list(np.ravel(np.asarray(estimator.estimators_, dtype=object)))
    return None


def _booster(estimator: Any) -> lightgbm.Booster | None:
    return estimator.booster_ if isinstance(estimator, lightgbm.LGBMModel) else None


def _on_the_way(booster: lightgbm.Booster, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the comparisons that LightGBM makes for each row, and its multiplications in linear leaves, ``[2, n]``."""
    leaves = np.asarray(booster.predict(rows, pred_leaf=True, num_threads=1)).reshape(len(rows), -1)
    work = [_leaves(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
    found = [[work[t][leaf] for t, leaf in enumerate(row)] for row in leaves.tolist()]
    return np.array(found, dtype=np.float64).reshape(len(rows), -1, 2).sum(axis=1).T


def _leaves(node: dict[str, Any], depth: int = 0) -> dict[int, tuple[int, int]]:
    """Return leaf → comparisons made before it is reached and weights in it, of a tree that LightGBM has dumped."""
    if "left_child" not in node:
        return {node.get("leaf_index", 0): (depth, len(node.get("leaf_coeff", ())))}
    return _leaves(node["left_child"], depth + 1) | _leaves(node["right_child"], depth + 1)


class Work:
    """What was done, in multiply-accumulates, comparisons priced."""

    cost: float = 0.0


@contextmanager
def counted(model: nn.Module) -> Iterator[Work]:
    """Count all that is computed inside, from outside: what torch executes, and what estimators in ``model`` are asked.

    An estimator's functions are stood in for, so that the rows count that it is really given, whoever gives them.
    """
    work, deep = Work(), [False]
    members = [part for part in model.modules() if isinstance(part, Estimator)]

    def watched(member: Estimator, ask: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(ask)
        def asked(rows: Any, *more: Any, **options: Any) -> Any:
            if deep[0]:  # one of its functions asks another
                return ask(rows, *more, **options)
            deep[0] = True
            try:
                work.cost += float(member.price(rows).sum())
                return ask(rows, *more, **options)
            finally:
                deep[0] = False

        return asked

    for member in members:
        for name in (name for name in ASKED if hasattr(member.estimator, name)):
            vars(member.estimator)[name] = watched(member, getattr(member.estimator, name))
    try:
        with MacCounter() as counter:
            yield work
    finally:
        work.cost += counter.macs
        for member in members:
            for name in ASKED:
                vars(member.estimator).pop(name, None)
