"""Separate training of the members of a cascade: each on the training examples by itself."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from torch import Tensor, nn

from eelit.methods.engine.cascade import Cascade
from eelit.methods.engine.examples import Data
from eelit.methods.engine.members import Estimator, Network
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.recipes.plain import train_plain


def train_members(model: Cascade, data: Data, bench: Bench, **options: Any) -> None:
    """Train each member by itself: networks with these ``options`` of `fit`, estimators as they are set."""
    for member in model.members:
        if isinstance(member, Estimator):
            fit_estimator(member, data, bench)
        elif isinstance(member, Network):
            train_network(member, data, bench, **options)


def train_network(member: Network, data: Data, bench: Bench, **options: Any) -> None:
    """Minimise a network's loss on what it answers; ``options`` are those of `fit`."""
    train_plain(MultiExit([member.network], [nn.Identity()]), data, bench, **options)


def fit_estimator(member: Estimator, data: Data, bench: Bench, weights: Tensor | None = None) -> None:
    """Fit a model of scikit-learn or LightGBM, samples weighed by ``weights [N]`` if given. It is fitted on every run.

    The estimator's own settings hold, its random state among them, which must follow the seed. Raises `ValueError`
    unless inputs have one shape and there is one weight for each.
    """
    start = time.perf_counter()
    index, inputs = next(data.train.batches(len(data.train)))
    if len(index) < len(data.train):
        raise ValueError("an estimator needs inputs of one shape")
    if weights is not None and weights.shape != (len(data.train),):
        raise ValueError(f"{len(data.train)} samples need as many weights, not {list(weights.shape)}")
    more = {} if weights is None else {"sample_weight": weights.cpu()[index].numpy()}
    bench.progress(f"fitting {type(member.estimator).__name__}", None)
    member.estimator.fit(member.view(inputs), data.train.targets.cpu()[index].numpy(), **more)
    facts = f"{bench.seed} {data.digest} {len(data.train)} {member.estimator!r}"
    name = hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()
    bench.trainings[name] = time.perf_counter() - start
    bench.prepared_seconds += bench.trainings[name]
    bench.prepared_from_cache = False
