"""Real logits for the tests of one's own model: exits that see ever more pixels of scikit-learn's digits."""

from functools import cache

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

PIXELS = (6, 12, 20, 36, 64)
COSTS = tuple(map(float, PIXELS))
TRAINED_ON = 400


@cache
def digits():
    """Return logits ``[5, 1397, 10]`` and labels of digits on which nothing was trained."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order] / 16, data.target[order]
    pixels = np.random.default_rng(1).permutation(64)
    logits = []
    for count in PIXELS:
        seen = x[:, pixels[:count]]
        model = LogisticRegression(max_iter=300, C=0.3).fit(seen[:TRAINED_ON], y[:TRAINED_ON])
        logits.append(model.decision_function(seen[TRAINED_ON:]))
    return np.stack(logits).astype(np.float32), y[TRAINED_ON:]


def made(exits=5, samples=300, classes=6, seed=0):
    """Return logits ``[E, N, C]`` in float32 that get surer with depth, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, samples)
    ease = np.linspace(0.5, 3, exits)[:, None] + rng.exponential(size=samples)
    z = rng.normal(size=(exits, samples, classes)) + ease[:, :, None] * np.eye(classes)[y]
    return z.astype(np.float32), y
