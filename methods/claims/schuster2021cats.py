"""What CATs claim: the promise is kept, with any score; calibration is needed; what the learned score saves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.schuster2021cats import Cats, scores_and_consistency
from eelit.methods.policies.conformal import independent_thresholds, kept, naive_threshold, resampled, shared_threshold

PROMISED = 0.1
"""The epsilon at which most claims are tried; the paper: several."""


def claims(method: Cats, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The promise is kept, whatever the score; without calibration it is not; the learned score saves most."""
    eps, tried = PROMISED, [e for e in method.knobs if 0 < e < 1]
    test, calibration = prepared.split("test"), prepared.split("fitting")
    (s, same), (s0, same0) = scores_and_consistency(test), scores_and_consistency(calibration)
    held, depth = kept(s, same, shared_threshold(s0, same0, eps))
    slack = 2 * (eps * (1 - eps) * (1 / s.shape[1] + 1 / s0.shape[1])) ** 0.5
    pool, chance = np.hstack([s0, s]), np.random.default_rng(bench.seed).random((len(s), s0.shape[1] + s.shape[1]))
    means = [(resampled(x, np.hstack([same0, same]), e)[0], e) for x in (pool, chance) for e in tried]
    worst = min(mean - (1 - e) for mean, e in means)
    naive = min(kept(s, same, naive_threshold(e))[0] - (1 - e) for e in tried)
    other = kept(largest_probabilities(test), same, shared_threshold(largest_probabilities(calibration), same0, eps))[1]
    cautious = kept(s, same, independent_thresholds(s0, same0, eps))[1]
    rows = [
        ("promise kept", f"Calibrated on other data at epsilon = {eps:g}, a share 1 - epsilon of the test answers "
         "is the full model's (up to two standard errors).", held >= 1 - eps - slack, f"{held:.4f}"),
        ("promise kept by any score", "Over 100 random splits the same holds on average at every epsilon, for this "
         "score and for a random one (up to half a point); by construction, as such splits are exchangeable: only a "
         "fault of the calibration would break it.", worst >= -0.005, f"at least {worst:+.4f} above it"),
        ("calibration is needed", "Stopping where the score itself is 1 - epsilon misses that by a point at some "
         "epsilon.", naive < -0.01, f"at least {naive:+.4f} above it"),
        ("the learned score saves most", f"At epsilon = {eps:g} it leaves 0.05 exits before the largest "
         "probability.", depth <= other - 0.05, f"mean exit {depth:.2f}, {other:.2f} by the largest probability"),
        ("one threshold saves more", f"At epsilon = {eps:g} it leaves 0.05 exits before a threshold for each exit.",
         depth <= cautious - 0.05, f"mean exit {depth:.2f}, {cautious:.2f} with a threshold for each exit"),
    ]  # fmt: skip
    return [Outcome(name=a, statement=b, holds=c, measured=d) for a, b, c, d in rows]


def largest_probabilities(seen: StoredOutputs) -> NDArray[np.float64]:
    """Return the largest class probability at each exit but the last, ``[l - 1, n]``, of heads at their temperature."""
    found: NDArray[np.float64] = seen.answers[:-1].double().softmax(dim=-1).amax(dim=-1).numpy()
    return found
