"""Early Exiting with Ensemble Internal Classifiers (voting exit).

Idea
    The exits of a network form an ensemble: its members should be right, and not all wrong in the same way. So train
    each exit to differ from the earlier exit that it resembles most, and let all exits passed so far vote. A single
    deviating answer then neither stops the computation nor resets the count, as it would with patience.

Model
    As in PABEE: a head after each of L layers, a tanh pooler for all heads, then a linear layer of its own.
    p_i = softmax of head i.

Training
    L = sum_i CE(p_i, y) - lambda * sum_{i >= 2} D_i,  D_i = min_{j < i} -sum_c p_j(c) ln p_i(c).
    For BERT, the appendix weights the first sum by i, as is done here. lambda = 0 is ordinary joint training.

Exit rule
    v_l(c) is the number of exits i <= l whose most likely class is c. Leave after layer l with argmax_c v_l(c) as soon
    as max_c v_l(c) >= tau. At layer L the majority answers, which need not be what the last exit says.
    A variant divides v_l by l^mu. tau = 1 stops at the first exit, tau > L never stops; tau <= l, and with two classes
    l <= 2 tau - 1.

Skipped
    All layers after l, with their heads.

Deviations
    1. MiniLM (6 layers, 384 wide) on Rotten Tomatoes, 4,000 training sentences, one epoch at rate 1e-4 (heads 1e-3),
       instead of pretrained encoders of 12 layers on GLUE: what two cores can train in minutes. The paper's duration of
       training, learning rates, weight decay, warm-up and clipping are not known (here the last three are 0.01, 10 % of
       the steps and norm 1). Heads read the mean over tokens. With two classes there is only one wrong answer, so wrong
       answers cannot differ.
    2. Weights are i / sum i, and lambda stands for lambda / L, so that both are means. Its value is ours: 0.1; the
       paper's could not be read.
    3. Ours too: no gradient passes to p_j, so only the later exit moves away; and D_i stops growing at ln C, the value
       of an undecided exit. Without such a bound the loss is unbounded.
    4. Ours too: of equal votes at layer L the class with the deepest vote wins.
    5. No official code is known; loss and rule are from reading notes on the full text, and mu's place is a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.policies.voting import Voting
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import depth_weights, exit_losses, weighted


def diversities(outputs: Tensor) -> Tensor:
    """Return ``[L - 1]``: the mean over samples of D_i for exits i = 2 … L, at most ln C, of logits ``[L, N, C]``.

    ``D_i = min_{j < i} -sum_c p_j(c) ln p_i(c)``: how far exit i is from the earlier exit that it resembles most, which
    may be another one for each sample. No gradient passes to p_j.
    """
    ln_p = outputs.log_softmax(dim=-1)
    p = ln_p.exp().detach()
    D = [(p[:i] * -ln_p[i]).sum(dim=-1).amin(dim=0) for i in range(1, len(outputs))]
    return torch.stack(D).clamp(max=math.log(outputs.shape[-1])).mean(dim=1)


def diverse_loss(outputs: Tensor, targets: Tensor, diversity: float) -> Tensor:
    """``L = sum_i i * CE(p_i, y) / sum_i i - lambda / L * sum_{i >= 2} D_i`` of logits ``[L, N, C]``."""
    accuracy_term = weighted(exit_losses(outputs, targets), depth_weights(len(outputs)))
    return accuracy_term - diversity / len(outputs) * diversities(outputs).sum()


@dataclass(frozen=True)
class VotingExit(TextMethod):
    """Diverse exits that vote."""

    encoder: str = "minilm-l6"  # backbone; the paper: ALBERT, BERT
    corpus: str = "rotten-tomatoes"  # data; the paper: GLUE-style tasks, SST-2 among them
    diversity: float = 0.1  # lambda; the paper's is not known; 0: PABEE's training
    power: float = 0.0  # mu of the variant normalised by depth; 0: plain votes
    train_size: int = 4000  # training sentences
    length: int = 40  # most word pieces of a sentence; the paper's is not known
    epochs: float = 1.0  # passes over them; the paper's are not known
    batch: int = 8  # samples per step; the paper's is not known
    rate: float = 1e-4  # learning rate; the paper's is not known
    head_rate: float = 1e-3  # learning rate of the heads, which start from nothing; the paper's is not known

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "votes"
    knobs: ClassVar[tuple[float, ...]] = (1, 2, 3, 4, 5, 6, 7)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"diverse": {}, "plain": {"diversity": 0.0}}
    # Exits that have hardly been trained do not agree: there only a rule that needs fewer votes shows.
    others: ClassVar[Mapping[str, Any]] = {**TextMethod.others, "power": -2.0}
    exempt: ClassVar[Mapping[str, str]] = {
        "never_answers_as_the_full_model": "without enough votes the majority of all exits answers, not the last exit."
    }

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """All weights together; without the diversity term this is what PABEE does."""
        if not self.diversity:
            super().train(model, data, bench)
            return

        def loss(batch: Batch) -> Tensor:
            return diverse_loss(model(batch.inputs), batch.targets, self.diversity)

        def train() -> None:
            model.train()
            fit(
                model.parameters(), data.train, loss, bench, label="training diverse exits", epochs=self.epochs,
                batch=self.batch, rate=self.rate, faster=model.heads.parameters(), faster_rate=self.head_rate,
            )  # fmt: skip

        settings = {"diversity": self.diversity, "train": len(data.train), **self.options}
        trained(model, train, bench, data=data.digest, settings=settings)
        model.eval()

    def policy(self, knob: float, prepared: Prepared) -> Voting:
        """The knob is tau."""
        return Voting(knob, self.power)
