"""Early-exit methods, and what you take from them for a network of your own.

One file per paper lies in `papers/`, everything common to them in the folders beside it, and `registry.get(KEY)`
imports the one method that is asked for. What this package itself offers stands in `__all__`: exits on your own
network, what they said, and the rule that decides when to stop. A name is imported when it is first asked for.
Importing this package loads neither numpy nor torch, and of its names only those of the row "(torch)" below need torch
(``pip install 'eelit[run]'``); where it is not installed, they are not in ``__all__``.

==============================  ======================================================================================
what exits said                 `Logits`, `read`, `write`; `WrongLogits`
what to make of it              `advise`, `compare`, `calibrate`; `Advice`, `Comparison`, `CannotPromise`
the rule, kept and applied      `SavedRule`, `load_rule`; `WrongRule`
exit policies                   `Policy`, what they all are, and by name `Activation` to `Voting`
policies that follow from data  `Tempered`, `fit_temperature`, `calibration_error`, `percentile_thresholds`
exits on a network (torch)      `attach`, `Network`, `TokenNetwork`, `load`, `MultiExit`, `infer`, `infer_stream`,
                                `replay`, `Inference`; `CannotAttach`
what it may refuse later        `CannotExport`, `WrongNetwork`
==============================  ======================================================================================

Everywhere ``E`` is the number of exits, ``N`` of samples, ``C`` of classes; exits are counted from 0, and the last one
is the full model. Logits are ``[E, N, C]``, values of a regression ``[E, N]``; what one exit says of the samples that
are still running is ``[n, C]`` or ``[n]``. Costs are cumulative, up to and including each exit, in any unit (1, 2, … if
nobody says); a share of cost is of the full model's. Errors that are the caller's to mend are of a kind of
`ValueError`, told in one sentence.

A rule from what exits said of 400 samples, here made up so that they get surer with depth:

>>> import numpy as np
>>> from eelit.methods import Logits, MaxConfidence, calibrate
>>> rng = np.random.default_rng(0)
>>> labels = rng.integers(0, 3, 400)
>>> surer = np.linspace(1, 5, 4)[:, None, None] * np.eye(3)[labels]
>>> logits = Logits(surer + rng.normal(size=(4, 400, 3)), labels, costs=[1, 2, 3, 4], unit="GMACs")
>>> rule = calibrate(logits, "max-confidence", budget=0.5, settings=10)
>>> rule.promise["goal"], rule.budget_met_, rule.enabled[-1]
('budget', True, 3)
>>> applied = rule.apply(logits)
>>> applied.exits.shape, applied.answers.shape
((400,), (400,))

Policies take arrays of numpy or tensors of torch, one exit after the other, and hold nothing but their settings:

>>> policy = MaxConfidence(0.9)
>>> state, stop = policy.step(policy.start(), np.array([[4.0, 0.0, 0.0], [0.1, 0.0, 0.0]]))
>>> stop.tolist()
[True, False]
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eelit.methods.backbones.own_forward import CannotAttach
    from eelit.methods.engine.evaluate import Inference, infer, replay
    from eelit.methods.engine.multi_exit import MultiExit
    from eelit.methods.own.advise import Advice, advise
    from eelit.methods.own.attach import attach
    from eelit.methods.own.calibrate import CannotPromise, calibrate
    from eelit.methods.own.compare import Comparison, compare
    from eelit.methods.own.files import read, write
    from eelit.methods.own.kept import load
    from eelit.methods.own.logits import Logits, WrongLogits
    from eelit.methods.own.network import Network
    from eelit.methods.own.refusals import CannotExport, WrongNetwork
    from eelit.methods.own.saved import SavedRule, WrongRule, load_rule
    from eelit.methods.own.stream import infer_stream
    from eelit.methods.own.tokens import TokenNetwork
    from eelit.methods.policies.activation import Activation
    from eelit.methods.policies.base import Policy
    from eelit.methods.policies.class_exclusion import ClassExclusion
    from eelit.methods.policies.class_thresholds import ClassThresholds
    from eelit.methods.policies.entropy import Entropy, percentile_thresholds
    from eelit.methods.policies.fixed_exit import FixedExit, MeanSoFar
    from eelit.methods.policies.flexible_patience import FlexiblePatience
    from eelit.methods.policies.gate_confidence import GateConfidence
    from eelit.methods.policies.margin import Margin
    from eelit.methods.policies.max_confidence import MaxConfidence
    from eelit.methods.policies.patience import Patience
    from eelit.methods.policies.patient_confidence import PatientConfidence
    from eelit.methods.policies.raw_margin import RawMargin
    from eelit.methods.policies.score_threshold import ScoreThreshold
    from eelit.methods.policies.sole_class import SoleClass
    from eelit.methods.policies.state_similarity import StateSimilarity
    from eelit.methods.policies.surest import Surest
    from eelit.methods.policies.temperature import Tempered, calibration_error, fit_temperature
    from eelit.methods.policies.voting import Voting

GROUP = "eelit.methods"
"""Entry points by which other packages offer methods."""

__all__ = [
    "Activation", "Advice", "CannotAttach", "CannotExport", "CannotPromise", "ClassExclusion", "ClassThresholds",
    "Comparison", "Entropy", "FixedExit", "FlexiblePatience", "GateConfidence", "Inference", "Logits", "Margin",
    "MaxConfidence", "MeanSoFar", "MultiExit", "Network", "Patience", "PatientConfidence", "Policy", "RawMargin",
    "SavedRule", "ScoreThreshold", "SoleClass", "StateSimilarity", "Surest", "Tempered", "TokenNetwork", "Voting",
    "WrongLogits", "WrongNetwork", "WrongRule", "advise", "attach", "calibrate", "calibration_error", "compare",
    "fit_temperature", "infer", "infer_stream", "load", "load_rule", "percentile_thresholds", "read", "replay", "write",
]  # fmt: skip

_PLACES = {
    "backbones.own_forward": ("CannotAttach",),
    "engine.evaluate": ("Inference", "infer", "replay"),
    "engine.multi_exit": ("MultiExit",),
    "own.advise": ("Advice", "advise"),
    "own.attach": ("attach",),
    "own.calibrate": ("CannotPromise", "calibrate"),
    "own.compare": ("Comparison", "compare"),
    "own.files": ("read", "write"),
    "own.kept": ("load",),
    "own.logits": ("Logits", "WrongLogits"),
    "own.network": ("Network",),
    "own.refusals": ("CannotExport", "WrongNetwork"),
    "own.saved": ("SavedRule", "WrongRule", "load_rule"),
    "own.stream": ("infer_stream",),
    "own.tokens": ("TokenNetwork",),
    "policies.activation": ("Activation",),
    "policies.base": ("Policy",),
    "policies.class_exclusion": ("ClassExclusion",),
    "policies.class_thresholds": ("ClassThresholds",),
    "policies.entropy": ("Entropy", "percentile_thresholds"),
    "policies.fixed_exit": ("FixedExit", "MeanSoFar"),
    "policies.flexible_patience": ("FlexiblePatience",),
    "policies.gate_confidence": ("GateConfidence",),
    "policies.margin": ("Margin",),
    "policies.max_confidence": ("MaxConfidence",),
    "policies.patience": ("Patience",),
    "policies.patient_confidence": ("PatientConfidence",),
    "policies.raw_margin": ("RawMargin",),
    "policies.score_threshold": ("ScoreThreshold",),
    "policies.sole_class": ("SoleClass",),
    "policies.state_similarity": ("StateSimilarity",),
    "policies.surest": ("Surest",),
    "policies.temperature": ("Tempered", "calibration_error", "fit_temperature"),
    "policies.voting": ("Voting",),
}
_OF_TORCH = (
    "backbones.own_forward", "engine.evaluate", "engine.multi_exit", "own.attach", "own.kept", "own.network",
    "own.stream", "own.tokens",
)  # fmt: skip
_MODULES = {name: f"{__name__}.{place}" for place, names in _PLACES.items() for name in names}
_NEEDED = ("torch", "transformers", "safetensors", "sklearn", "lightgbm")

if not TYPE_CHECKING:  # a checker of types sees the names above, and that there are no others
    _EVERY = tuple(__all__)
    del __all__  # so that whether torch is installed is not looked for before `import *` asks for the names

    def _offered() -> list[str]:
        """Return the names that can be imported: without torch not those that need it."""
        without = () if find_spec("torch") else _OF_TORCH
        return [name for name in _EVERY if not any(name in _PLACES[place] for place in without)]

    def __getattr__(name: str) -> Any:
        """Import what is asked for. Raises `ModuleNotFoundError`, which names the extra, where a package is missing."""
        if name == "__all__":
            return _offered()
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            found = getattr(import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            if error.name not in _NEEDED:
                raise
            told = f"{__name__}.{name} needs {error.name}, which is not installed: pip install 'eelit[run]'"
            raise ModuleNotFoundError(told, name=error.name) from error
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *_offered()})
