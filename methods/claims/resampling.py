"""The full model's lead where quality is no mean over samples: on the same resamples of test samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eelit.methods.backbones.decoding import Generation
from eelit.methods.claims.paired import Difference, of_bleu, resampled
from eelit.methods.engine.evaluate import answered, replay
from eelit.methods.engine.method import Method
from eelit.methods.engine.records import Curve
from eelit.methods.families import translation
from eelit.methods.families.pruning import PruningMethod
from eelit.methods.families.stepwise import StepwiseMethod, StepwisePrepared
from eelit.methods.families.translation import TranslationMethod


def joint_lead(method: Method, prepared: Any, curve: Curve) -> Difference | None:
    """Return the full model's quality minus that of the curve's first setting, such as BLEU or F1, on test samples.

    None where the quality of each sample is known (then see `leads.lead`), or where a family has no such way.
    """
    first = curve.test[0]
    if first.samples is None or first.samples.quality is not None:
        return None
    if isinstance(prepared, translation.Prepared):
        eager = translated(method, prepared, first.knob)
        if eager is None:
            return None
        ours, theirs = (prepared.matches("test", run) for run in (prepared.full("test"), eager))
        return of_bleu([ours], [theirs])
    if isinstance(method, StepwiseMethod) and isinstance(prepared, StepwisePrepared):
        return of_answers(method, prepared, first.knob)
    return None


def translated(method: Method, prepared: translation.Prepared, knob: float) -> Generation | None:
    """Return the test translations at a knob."""
    if isinstance(method, PruningMethod):
        return method.run(prepared, "test", method.kept_at(prepared, knob))
    if isinstance(method, TranslationMethod):
        (found,) = prepared.run("test", {knob: method.rule(knob, prepared)})
        return found
    return None


def of_answers(method: StepwiseMethod, prepared: StepwisePrepared, knob: float) -> Difference:
    """Return by how much the answers of the last exit score more than those at a knob."""
    seen, rule = prepared.split("test"), method.rule(knob, prepared)
    early = seen.read(answered(rule, seen.outputs, replay(rule, seen.outputs)))

    def apart(times: NDArray[np.int64]) -> float:
        taken = torch.as_tensor(np.repeat(np.arange(len(times)), times))
        full, eager = (method.score(each[taken], seen.targets[taken]) for each in (seen.answers[-1], early))
        return full - eager

    return resampled(apart, len(seen.targets))
