"""LeeBERT: Learned Early Exit for BERT with cross-level optimization (LeeBERT).

Idea
    Every exit can learn from every other exit, not from the last alone. That makes many losses, and nobody knows what
    each is worth: so the weights are learned too, on the other half of the training data, by how much each loss helps
    there. Stop by patience, as in PABEE.

Model
    A head after each of n layers, z_i its logits: tanh pooler (one for all heads), then a linear layer of its own.

Training
    CE_m = CE(z_m, y);   KD_{m,k} = T^2 KL(softmax(z_k / T) || softmax(z_m / T)): exit m learns from exit k, z_k fixed.
    Teachers: all other exits (LAE), or the later ones (LLE).   L = sum_m w_m CE_m + s sum_{m,k} u_{m,k} KD_{m,k},
    with w a softmax over exits of numbers a_m and u a softmax over pairs of b_{m,k}, all 0 at first: equal weights.
    Two halves of the training data, D1 and D2. Each round draws a batch from either, and
    1. weights: theta' = theta - xi grad L(theta; D1);   a, b follow the gradient of V(theta') + rho L(theta; D1), with
       V the mean of all CE_m on D2, through theta' (finite differences for the mixed second derivative);
    2. model: theta follows the gradient of L on both batches.

Exit rule
    cnt_1 = 0;  cnt_i = cnt_{i-1} + 1 if argmax z_i = argmax z_{i-1}, else 0.  Stop at exit i when cnt_i = patience.

Skipped
    All layers after the exit, with their heads.

Deviations
    1. The paper's text was not at hand. Known of it: both kinds of losses, LAE and LLE, learned weights, two halves of
       the data, gradients from both for the weights, patience. Ours: softmax, V, how rounds 1 and 2 go, all numbers.
    2. MiniLM (6 layers) on Rotten Tomatoes, 4,000 training sentences, one epoch, instead of ALBERT and BERT (12 layers)
       on GLUE: what two cores can train in minutes. Batches of 16 from either half make 32.
    3. Heads have PABEE's pooler and read the mean over tokens: what differs from PABEE here is training alone.
    4. Step 1 comes in every fourth round, which saves a third of the training, and is without dropout, which finite
       differences would measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar, cast

from eelit.methods.claims.comparisons import better_than, gains, points_of
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.patience import Patience
from eelit.methods.recipes.cross_level import LossWeights, train_cross_level


@dataclass(frozen=True)
class LeeBert(TextMethod):
    """Mutual distillation with learned weights, and patience."""

    encoder: str = "minilm-l6"  # backbone; the paper: ALBERT-base, BERT-base
    corpus: str = "rotten-tomatoes"  # data; the paper: GLUE
    train_size: int = 4000  # training sentences, half of them for the weights' upper loss
    epochs: float = 1.0  # passes over them; the paper's is not known, as all below
    batch: int = 16  # sentences from either half
    rate: float = 1e-4  # learning rate of the model
    head_rate: float = 1e-3  # learning rate of the heads, which start from nothing
    later_only: bool = False  # exits learn from later ones only (LLE); False: from all others (LAE)
    temperature: float = 2.0  # T
    strength: float = 1.0  # s: 0 leaves nothing but cross-entropy
    look_ahead: float = 0.01  # xi, the step from theta to theta'
    own_share: float = 0.1  # rho, the share of L(theta; D1) in what the weights follow; 0 is the classic two levels
    weight_rate: float = 0.05  # learning rate of a and b; 0 keeps all weights equal
    every: int = 4  # rounds from one step of a and b to the next

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "patience"
    knobs: ClassVar[tuple[float, ...]] = (0, 1, 2, 3, 4, 5)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"LAE": {}, "LLE": {"later_only": True}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 900, "epochs": 4.0, "rate": 5e-3, "head_rate": 2e-2,
    }  # fmt: skip

    def build(self, data: Data, seed: int) -> MultiExit:
        """PABEE's network, with the weights of the losses."""
        model = super().build(data, seed)
        model.add_module("weights", LossWeights(model.exits, later_only=self.later_only))
        return model

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Model and weights in turn."""
        options = self.options | {"temperature": self.temperature, "strength": self.strength}
        options |= {"look_ahead": self.look_ahead, "own_share": self.own_share}
        options |= {"weight_rate": self.weight_rate, "every": self.every}
        train_cross_level(model, cast(LossWeights, model.get_submodule("weights")), data, bench, **options)

    def policy(self, knob: float, prepared: Prepared) -> Patience:
        """The knob is the patience."""
        return Patience(int(knob))

    def claims(self, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
        """At equal cost, better than PABEE and (LAE) than with equal weights, which alone beat PABEE too."""
        shared = ("encoder", "corpus", "train_size", "epochs", "rate", "head_rate")
        rival = Pabee(**{name: getattr(self, name) for name in shared}, batch=2 * self.batch)
        ours, plain = points_of(self, prepared, bench), points_of(rival, rival.prepare(bench), bench)
        beats = better_than("PABEE", gains(ours, plain), "Against the network that PABEE trains")
        if self.later_only:
            return [beats]
        still = self.replace({"weight_rate": 0.0})
        equal = points_of(still, still.prepare(bench), bench)
        learned = better_than("equal weights", gains(ours, equal), "Against a network trained with equal weights")
        helped = mean(gains(equal, plain) or [0.0])
        mutual = Outcome(
            name="learning from each other helps",
            statement="At no more than the cost of each patience, exits that learn from each other with equal weights, "
            "none of them learned, are on average half a point more accurate than PABEE's, which learn from labels "
            "alone, deeper ones weighing more.",
            holds=helped >= 0.005,
            measured=f"{helped:+.4f} accuracy",
        )
        return [beats, learned, mutual, self.teachers(prepared)]

    def teachers(self, prepared: Prepared) -> Outcome:
        """Compare what pairs with a later teacher weigh with what those with an earlier one weigh."""
        weights = cast(LossWeights, prepared.model.get_submodule("weights")).fixed()[1]
        later, earlier = float(weights.triu(1).sum()), float(weights.tril(-1).sum())
        return Outcome(
            name="later teachers count more",
            statement="Learned weights of later teachers sum to a tenth more than those of earlier ones.",
            holds=later >= 1.1 * earlier,
            measured=f"{later:.3f} and {earlier:.3f}",
        )
