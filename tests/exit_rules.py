"""Every exit rule with its most eager settings and outputs that it can read: what tests of all rules go through."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eelit.methods import policies
from eelit.methods.policies.activation import Activation
from eelit.methods.policies.class_exclusion import ClassExclusion
from eelit.methods.policies.class_thresholds import ClassThresholds
from eelit.methods.policies.continuation import ContinuationThreshold
from eelit.methods.policies.document_threshold import DocumentThreshold
from eelit.methods.policies.dont_know import DontKnow
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.exit_probability import ExitProbability
from eelit.methods.policies.fixed_exit import FixedExit, MeanSoFar, SoleExit
from eelit.methods.policies.flexible_patience import FlexiblePatience
from eelit.methods.policies.forecast import Forecast
from eelit.methods.policies.gate_confidence import GateConfidence
from eelit.methods.policies.likeliest_depth import LikeliestDepth
from eelit.methods.policies.linear_choice import FEATURES, LinearChoice
from eelit.methods.policies.margin import Margin
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence
from eelit.methods.policies.predicted_class import PredictedClass
from eelit.methods.policies.priced_gain import PricedGain
from eelit.methods.policies.raw_margin import RawMargin
from eelit.methods.policies.score_proximity import ScoreProximity
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.policies.sole_class import SoleClass
from eelit.methods.policies.state_similarity import StateSimilarity
from eelit.methods.policies.surest import Surest
from eelit.methods.policies.target_classes import TargetClasses
from eelit.methods.policies.temperature import Tempered
from eelit.methods.policies.token_gate import TokenGate
from eelit.methods.policies.voting import Voting
from eelit.methods.policies.window_uncertainty import SentenceUncertainty, Together, WindowUncertainty

EXITS, SAMPLES, CLASSES, WORDS = 4, 6, 5, 3
INF = float("inf")
SHAPES = {"logits": (CLASSES,), "pair": (2,), "values": (), "state": (16,), "words": (WORDS, CLASSES)}
"""What a rule reads of a sample."""


def random_rows(seed, *shape):
    """Return random numbers as nested lists."""
    return np.random.default_rng(seed).normal(size=shape).round(3).tolist()


GATES = tuple((random_rows(i, 6, CLASSES), random_rows(i, 6), random_rows(i + 9, 6), 0.1) for i in range(EXITS))
"""Weights of networks that tell whether an answer is known, one for each exit."""
RULES = tuple(tuple(random_rows(i, 2, FEATURES + 1)) for i in range(EXITS))
"""Weights of linear rules for two actions, to stop and to go on, one for each exit."""


@dataclass(frozen=True)
class Case:
    """A rule that stops whom it can, and one in the middle of its settings; ``reads`` is a name in `SHAPES`."""

    eager: Any
    middle: Any
    reads: str
    alone: bool = True  # whether what a sample gets depends on no other

    def __str__(self):
        return f"{type(self.eager).__name__}-{self.reads}"

    def outputs(self, seed=0):
        """Return finite outputs ``[E, N, ...]`` in float64, exits alike enough for patience."""
        rng = np.random.default_rng(seed)
        base = rng.normal(scale=2, size=(1, SAMPLES, *SHAPES[self.reads]))
        return base + rng.normal(scale=0.7, size=(EXITS, *base.shape[1:]))


CASES = [
    Case(MaxConfidence(0), MaxConfidence(0.7), "logits"),
    Case(MaxConfidence((0, 0, 0, 0)), MaxConfidence([0.9, 0.7, 0.6, 0.5]), "words"),
    Case(Entropy(INF), Entropy(1.0), "logits"),
    Case(Entropy([INF] * 4), Entropy(1.0), "words"),
    Case(Margin(0), Margin(0.4), "logits"),
    Case(RawMargin(0), RawMargin((1.5, 1.0, 0.8, 0.8)), "logits"),
    Case(DontKnow(GATES, 1), DontKnow(GATES), "logits"),
    Case(DontKnow(GATES, (1,) * 4), DontKnow(GATES, (0.4, 0.5, 0.6, 0.6)), "logits"),
    Case(LinearChoice((((0.0,) * 4,),) * 4), LinearChoice(RULES), "logits"),
    Case(LikeliestDepth(0), LikeliestDepth(0.5), "logits"),
    Case(SoleClass(0.5), SoleClass((0.9, 0.7, 0.6, 0.5)), "logits"),
    Case(ClassExclusion((1,) * 4), ClassExclusion((0.2, 0.3, 0.4, 0.4)), "logits"),
    Case(Activation(-INF), Activation([2.5, 2.0, 1.5, 1.5]), "logits"),
    Case(Forecast((0, 0, 0, 0)), Forecast([2.5, 3.0, 3.5, 4.0], 3), "logits"),
    Case(TargetClasses(range(5), [[0] * 5] * 4), TargetClasses((1, 3), [[0.6, 0.5]] * 2 + [[0.4, 0.5]] * 2), "logits"),
    Case(PredictedClass([[-1] * 5] * 4), PredictedClass([[0.3, 0.2, 0.4, 0.5, 0.3]] * 4), "logits"),
    Case(
        PredictedClass([[-1] * 5] * 4, "max probability"),
        PredictedClass([[0.6, 0.5, 0.4, 0.7, 0.6]] * 2 + [[0.5] * 5] * 2, "max probability"),
        "logits",
    ),
    Case(ClassThresholds(0, 0), ClassThresholds(0.9, 0.6), "pair"),
    Case(Patience(0), Patience(1), "logits"),
    Case(Patience(0, tolerance=INF), Patience(1, tolerance=0.5), "values"),
    Case(FlexiblePatience(INF, 0), FlexiblePatience(0.3, 1), "logits"),
    *(
        Case(FlexiblePatience(INF, 1, kind), FlexiblePatience(0.3, 1, kind), "logits")
        for kind in ("rekl", "bikl", "js")
    ),
    Case(PatientConfidence(2, 1), PatientConfidence(0.6, 2), "logits"),
    Case(Voting(0), Voting(2, 0.5), "logits"),
    Case(Surest(0), Surest(0.7), "logits"),
    Case(Tempered((2, 2, 2, 2), MaxConfidence(0)), Tempered((3, 2, 1, 1), Entropy(1.2)), "logits"),
    Case(Tempered(0.5, Patience(0)), Tempered(0.5, Patience(1)), "logits"),
    Case(ScoreThreshold(-INF), ScoreThreshold((0.5, 0.3, 0.1, 0.1)), "values"),
    Case(ExitProbability(0), ExitProbability((0.5, 0.3, 0.6, 0.5)), "values"),
    Case(ContinuationThreshold(INF), ContinuationThreshold(0.2), "values"),
    Case(ScoreProximity(-INF, 2), ScoreProximity(0.5, 2), "values", alone=False),
    *(
        Case(
            DocumentThreshold(rule, -INF, 2),
            DocumentThreshold(rule, (limit, limit / 2, limit, limit), 2),
            "values",
            alone=False,
        )
        for rule, limit in (("score", 0.2), ("capacity", 2), ("rank", 3), ("proximity", 0.5))
    ),
    Case(GateConfidence(0), GateConfidence(0.6), "values"),
    Case(GateConfidence(0), GateConfidence((0.6, 0.5, 0.4, 0.4)), "pair"),
    Case(PricedGain(INF, (1.0, 0.0)), PricedGain(0.3, (1.0, 0.0)), "pair"),
    Case(StateSimilarity(-2), StateSimilarity(0.9), "state"),
    Case(TokenGate(INF), TokenGate(0.5), "pair"),
    Case(FixedExit(0), FixedExit(1), "logits"),
    Case(FixedExit(0), FixedExit(1), "values"),
    Case(SoleExit(0), SoleExit(2), "logits"),
    Case(MeanSoFar(0), MeanSoFar(2), "logits"),
    Case(WindowUncertainty(2, 1), WindowUncertainty(0.6, 1), "words"),
    Case(WindowUncertainty(2, 3), WindowUncertainty(0.8, 3), "words"),
    Case(SentenceUncertainty(2), SentenceUncertainty(0.8), "words"),
    Case(Together(MaxConfidence(0)), Together(MaxConfidence(0.5)), "words"),
]

PRECISIONS: dict[str, Callable[[Any], Any]] = {
    **{f"numpy-{name}": lambda x, name=name: np.asarray(x, dtype=name) for name in ("float16", "float32", "float64")},
    **{
        f"torch-{name}": lambda x, name=name: torch.as_tensor(np.asarray(x)).to(getattr(torch, name))
        for name in ("float16", "bfloat16", "float32", "float64")
    },
}
"""Name of a library and a precision → what takes numbers there."""


def rules():
    """Return the names of all classes of the library with a ``step``."""
    found = set()
    for module in pkgutil.iter_modules(policies.__path__):
        members = inspect.getmembers(importlib.import_module(f"{policies.__name__}.{module.name}"), inspect.isclass)
        found |= {name for name, kind in members if hasattr(kind, "step") and not getattr(kind, "_is_protocol", False)}
    return found


def decisions(policy, outputs):
    """Return who stops at each exit, a boolean array ``[E, N, ...]`` of numpy, everybody going on all the same."""
    state, found = policy.start(), []
    for output in outputs:
        state, stop = policy.step(state, output)
        found.append(np.asarray(stop))
    return np.stack(found)
