"""The ranker of boosted trees that methods on graded queries leave early."""

from __future__ import annotations

from lightgbm import Booster

from eelit.methods.engine.method import Bench
from eelit.methods.engine.queries import Queries
from eelit.methods.engine.trees import boosted


def lambdamart(queries: Queries, bench: Bench, *, trees: int, rate: float, leaves: int) -> Booster:
    """Train a LambdaMART ranker on graded queries (gain ``2^grade - 1``)."""
    settings = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": 40,
        "learning_rate": rate,
        "num_leaves": leaves,
        "min_data_in_leaf": 50,
        "lambda_l2": 1.0,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
    }
    label = "training the ranker"
    return boosted(
        queries.features, queries.grades, bench, trees=trees, label=label, settings=settings, sizes=queries.sizes
    )
