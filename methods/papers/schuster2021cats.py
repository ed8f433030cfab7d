"""Consistent Accelerated Inference via Confident Adaptive Transformers (CATs).

Idea
    Promise agreement, not accuracy: with probability 1 - epsilon the early answer is the full model's. A classifier
    scores how likely that is; a conformal calibration turns any such score into a threshold that keeps the promise.

Model
    A fine-tuned, frozen network F of l layers. Ramps F_k, k < l, with 32 features: F_k = W_k2 tanh(W_k1 h_k) / T_k.
    The score M_k in [0, 1] is one network for all exits (a tanh layer of 32, then softmax of no and yes) on: the class
    predicted, the ramp's features, its largest probability and the lead over the second, what exits k-1 … 2 gave to
    that class (zeros for those not seen), and (k - 1) / (l - 1).

Training
    Each step on data of its own: fine-tune F, then freeze it; ramps on the mean of their cross-entropies with the
    labels; each T_k; the score on whether F_k(x) = F(x), both classes weighing the same, mean over exits.
    Calibration on n fresh inputs: S_i = max of M_k(x_i) over exits k with F_k(x_i) != F(x_i); inputs without such an
    exit are dropped. tau = the ceil((n + 1)(1 - epsilon))-th smallest of S_1 … S_n and infinity.

Exit rule
    Leave at the first k < l with M_k(x) > tau (strictly), else at l. epsilon = 0: nothing leaves early; epsilon = 1:
    all leave at the first exit. An answer that differs needs S > tau: a share epsilon at most, for exchangeable inputs.
    More cautious, and tried in the claims: a threshold for each exit, each with epsilon / (l - 1).

Skipped
    All layers after the exit, with ramps and scores. (The released code decides afterwards and skips nothing.)

Deviations
    1. MiniLM (6 layers) on Rotten Tomatoes, not ALBERT on four sets. Of the track's 4,000 training sentences 70% train
       the network, 12.5% the ramps, 5% temperatures, 12.5% the score; half of its validation data calibrates.
    2. Classes only. Real values that differ by no more than a tolerance the paper calls consistent.
    3. Ramps read the mean over tokens instead of the class token: MiniLM was pretrained that way.
    4. AdamW at 3e-3 for ramps and score, 30 epochs each over their small parts; the T_k are found by bisection.
    5. The released code takes the quantile one rank higher where it falls between two: one step more cautious.
    6. With a threshold for each exit, equal scores all count as larger (u = 1); the released code draws u at random.
    7. As exits look back at ramps, these are part of the stages; the full model that speed-ups refer to has none.
    8. The paper also compares with one fixed layer, the first that agrees often enough in calibration: not tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from eelit.methods.backbones.consistency import ConsistencyExits, consistency_exits
from eelit.methods.engine.examples import Data, parted
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.policies.conformal import independent_thresholds, kept, naive_threshold, resampled, shared_threshold
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.consistency import train_consistency
from eelit.methods.recipes.plain import train_plain

SHARES = {"train": 0.7, "heads": 0.125, "scaling": 0.05, "meta": 0.125}


def judged(seen: StoredOutputs) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return scores, whether the answer is the full model's, and largest probabilities, each ``[E - 1, n]``."""
    said = seen.answers
    same = said[:-1].argmax(dim=-1) == said[-1].argmax(dim=-1)
    return seen.outputs["score"][:-1].double().numpy(), same.numpy(), said[:-1].softmax(-1).amax(-1).double().numpy()


@dataclass(frozen=True)
class Cats(TextMethod):
    """Early exit with a promise of agreement."""

    encoder: str = "minilm-l6"  # backbone; the paper: ALBERT
    corpus: str = "rotten-tomatoes"  # data; the paper: IMDB, VitaminC, AG News, STS-B
    train_size: int = 4000  # training sentences, of which 70% train the network
    epochs: float = 1.0  # passes of the network over its part
    batch: int = 32  # samples per step
    rate: float = 1e-4  # learning rate of the network
    head_rate: float = 1e-3  # learning rate of its own head
    ramp_epochs: float = 30.0  # for the ramps, and again for the score
    ramp_rate: float = 3e-3  # learning rate of both
    promised: float = 0.1  # the epsilon at which the claims are tried; the paper: several

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "tolerated inconsistency"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.02, 0.0)
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 1000, "epochs": 6.0, "rate": 4e-3, "ramp_epochs": 10.0,
    }  # fmt: skip

    def load(self) -> Data:
        """Sentences with classes: the track's training data in four parts, its validation data in two."""
        whole = super().load()
        parts, held = parted(whole.train, SHARES), parted(whole.validation, {"validation": 0.5, "calibration": 0.5})
        return dataclasses.replace(whole, train=parts["train"], validation=held["validation"], more={**parts, **held})

    def build(self, data: Data, seed: int) -> MultiExit:
        """A ramp and a score after every layer but the last."""
        return consistency_exits(self.encoder, data.classes or 1, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Fine-tune, freeze, then ramps, temperatures and score."""
        first = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate, "head_rate": self.head_rate}
        train_plain(model, data, bench, **first)
        then = {"epochs": self.ramp_epochs, "meta_epochs": self.ramp_epochs, "rate": self.ramp_rate}
        train_consistency(cast(ConsistencyExits, model), data, bench, batch=self.batch, **then)

    def policy(self, knob: float, prepared: Prepared) -> ScoreThreshold:
        """The knob is epsilon; the threshold comes from the calibration part alone."""
        scores, same, _ = judged(prepared.split("calibration"))
        return ScoreThreshold(shared_threshold(scores, same, knob))

    def claims(self, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
        """The promise is kept, whatever the score; without calibration it is not; the learned score saves most."""
        eps, tried = self.promised, [e for e in self.knobs if 0 < e < 1]
        (s, same, sure), (s0, same0, sure0) = (judged(prepared.split(name)) for name in ("test", "calibration"))
        held, depth = kept(s, same, shared_threshold(s0, same0, eps))
        slack = 2 * (eps * (1 - eps) * (1 / s.shape[1] + 1 / s0.shape[1])) ** 0.5
        pool, chance = np.hstack([s0, s]), np.random.default_rng(bench.seed).random((len(s), s0.shape[1] + s.shape[1]))
        means = [(resampled(x, np.hstack([same0, same]), e)[0], e) for x in (pool, chance) for e in tried]
        worst = min(mean - (1 - e) for mean, e in means)
        naive = min(kept(s, same, naive_threshold(e))[0] - (1 - e) for e in tried)
        other = kept(sure, same, shared_threshold(sure0, same0, eps))[1]
        cautious = kept(s, same, independent_thresholds(s0, same0, eps))[1]
        rows = [
            ("promise kept", f"Calibrated on other data at epsilon = {eps:g}, a share 1 - epsilon of the test answers "
             "is the full model's (up to two standard errors).", held >= 1 - eps - slack, f"{held:.4f}"),
            ("promise kept by any score", "Over 100 random splits the same holds on average at every epsilon, for this "
             "score and for a random one (up to half a point).", worst >= -0.005, f"at least {worst:+.4f} above it"),
            ("calibration is needed", "Stopping where the score itself is 1 - epsilon misses that by a point at some "
             "epsilon.", naive < -0.01, f"at least {naive:+.4f} above it"),
            ("the learned score saves most", f"At epsilon = {eps:g} it leaves 0.05 exits before the largest "
             "probability.", depth <= other - 0.05, f"mean exit {depth:.2f}, {other:.2f} by the largest probability"),
            ("one threshold saves more", f"At epsilon = {eps:g} it leaves 0.05 exits before a threshold for each exit.",
             depth <= cautious - 0.05, f"mean exit {depth:.2f}, {cautious:.2f} with a threshold for each exit"),
        ]  # fmt: skip
        return [Outcome(name=a, statement=b, holds=c, measured=d) for a, b, c, d in rows]
