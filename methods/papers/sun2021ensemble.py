"""Early Exiting with Ensemble Internal Classifiers (voting exit).

Idea
    The exits of a network are a committee: its members should be right, and not all wrong in the same way. So train
    each exit to differ from the earlier one that it resembles most; and let all exits passed so far vote. One stray
    answer then neither stops the computation nor wipes out the count, as it would with patience.

Model
    As in PABEE: a head after each of L layers, a tanh pooler for all heads, then a linear layer of its own.
    p_i = softmax of head i.

Training
    L = sum_i CE(p_i, y) - lambda * sum_{i >= 2} D_i,  D_i = min_{j < i} -sum_c p_j(c) ln p_i(c).
    The appendix weighs the first sum by i for BERT, as is done here. lambda = 0 is what others do.

Exit rule
    v_l(c) is the number of exits i <= l whose most likely class is c. Leave after layer l with argmax_c v_l(c) as soon
    as max_c v_l(c) >= tau. At layer L the majority answers, which need not be what the last exit says.
    A variant divides v_l by l^mu. tau = 1 stops at the first exit, tau > L never stops; tau <= l, and with two classes
    l <= 2 tau - 1.

Skipped
    All layers after l, with their heads.

Deviations
    1. MiniLM (6 layers, 384 wide) on Rotten Tomatoes, 4,000 training sentences, one epoch at rate 1e-4 (heads 1e-3),
       instead of pretrained encoders of 12 layers on GLUE: what two cores can train in minutes. Heads read the mean
       over tokens. With two classes there are no different wrong answers to spread over.
    2. Weights are i / sum i, and lambda stands for lambda / L, so that both are means. Its value is ours: 0.1; the
       paper's could not be read.
    3. Ours too: no gradient passes to p_j, so that only the later exit moves away, and D_i stops growing at ln C, at
       what an undecided exit has anyway; without such a bound the loss has none either.
    4. Ours too: of equal votes at layer L the class with the deepest vote wins.
    5. No official code is known; loss and rule are from reading notes on the full text, and mu's place is a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar

from eelit.methods.claims.comparisons import disagreement, gains_at_equal_cost, oracle
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.voting import Voting
from eelit.methods.recipes.diverse import train_diverse
from eelit.methods.recipes.joint import depth_weights


@dataclass(frozen=True)
class VotingExit(TextMethod):
    """Diverse exits that vote."""

    encoder: str = "minilm-l6"  # backbone; the paper: ALBERT, BERT
    corpus: str = "rotten-tomatoes"  # data; the paper: GLUE-style tasks, SST-2 among them
    diversity: float = 0.1  # lambda; the paper's is not known; 0: PABEE's training
    power: float = 0.0  # mu of the variant normalised by depth; 0: plain votes
    train_size: int = 4000  # training sentences
    epochs: float = 1.0  # passes over them
    batch: int = 32  # samples per step
    rate: float = 1e-4  # learning rate
    head_rate: float = 1e-3  # learning rate of the heads, which start from nothing

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "votes"
    knobs: ClassVar[tuple[float, ...]] = (1, 2, 3, 4, 5, 6, 7)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"diverse": {}, "plain": {"diversity": 0.0}}
    exempt: ClassVar[Mapping[str, str]] = {
        "never_answers_as_the_full_model": "without enough votes the majority of all exits answers, not the last exit."
    }

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Depth-weighted joint training, each exit pushed away from its likest predecessor."""
        if not self.diversity:
            return super().train(model, data, bench)
        weights = depth_weights(model.exits)
        return train_diverse(model, data, bench, weights=weights, diversity=self.diversity, **self.options)

    def policy(self, knob: float, prepared: Prepared) -> Voting:
        """The knob is tau."""
        return Voting(knob, self.power)

    def claims(self, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
        """Votes against patience; the oracle out of reach; what the diversity term does."""
        seen, exits = prepared.split("test"), prepared.model.exits
        votes, patient = [Voting(tau) for tau in self.knobs], [Patience(t) for t in range(1, exits - 1)]
        gains = gains_at_equal_cost(self, prepared, votes, patient)
        gain, first = mean(gains or [0.0]), oracle(seen.outputs, seen.targets)
        best = max(point.quality for point in curve.test)
        reached = self.score(seen.at(first), seen.targets)
        found = [
            Outcome(
                name="votes beat patience",
                statement="At no more than the cost of each patience, with settings of either chosen on validation "
                "data, votes are on average half a point more accurate on test data.",
                holds=gain >= 0.005,
                measured=f"{gain:+.4f} on average over the costs of {len(gains)} settings",
            ),
            Outcome(
                name="far below the oracle",
                statement="Leaving at the first exit that is right is 5 points more accurate than any number of votes.",
                holds=reached >= best + 0.05,
                measured=f"{reached:.4f} at exit {first.mean() + 1:.2f} on average; votes {best:.4f}",
            ),
        ]
        return [*found, self.better(prepared, bench)] if self.diversity else found

    def better(self, prepared: Prepared, bench: Bench) -> Outcome:
        """The diversity term makes exits differ more, and the vote better."""
        quality, differ = [], []
        for ready in (prepared, self.replace({"diversity": 0.0}).prepare(bench)):
            held, test = ready.split("validation"), ready.split("test")
            tau = max(self.knobs, key=lambda k: self.trial(Voting(k), held).quality)
            quality.append(self.trial(Voting(tau), test).quality)
            differ.append(disagreement(test.outputs))
        return Outcome(
            name="diverse exits vote better",
            statement="With the diversity term neighbouring exits differ more often, and with tau chosen on validation "
            "data votes are half a point more accurate on test data than without it.",
            holds=differ[0] > differ[1] and quality[0] >= quality[1] + 0.005,
            measured=f"differing {differ[0]:.1%} / {differ[1]:.1%}, accuracy {quality[0]:.4f} / {quality[1]:.4f}",
            not_comparable="The term spreads wrong answers, and with two classes there is but one wrong answer."
            if prepared.data.classes == 2
            else "",
        )
