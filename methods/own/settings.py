"""Policies as plain words and numbers, and back: only kinds that are named here are ever made from what a file says."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

from eelit.methods.policies.activation import Activation
from eelit.methods.policies.base import Policy
from eelit.methods.policies.class_exclusion import ClassExclusion
from eelit.methods.policies.class_thresholds import ClassThresholds
from eelit.methods.policies.entropy import Entropy
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
from eelit.methods.policies.temperature import Tempered
from eelit.methods.policies.voting import Voting

KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Activation, ClassExclusion, ClassThresholds, Entropy, FixedExit, FlexiblePatience, GateConfidence, Margin,
        MaxConfidence, MeanSoFar, Patience, PatientConfidence, RawMargin, ScoreThreshold, SoleClass, StateSimilarity,
        Surest, Tempered, Voting,
    )
}  # fmt: skip


def settings_of(policy: Policy) -> dict[str, Any]:
    """Return the settings of a policy, by name; numbers that are not finite as words, since JSON has none."""
    held: Any = policy
    if not is_dataclass(held):
        raise ValueError(f"{type(policy).__name__} is no policy with settings")
    return {part.name: _plain(getattr(held, part.name)) for part in fields(held)}


def _plain(value: Any) -> Any:
    if type(value).__name__ in KINDS:
        return {"policy": type(value).__name__, "settings": settings_of(value)}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def policy_of(kind: Any, settings: Any) -> Policy:
    """Return a policy from the name of its kind and its settings. Raises `ValueError` for what there is not."""
    if kind not in KINDS:
        raise ValueError(f"there is no policy {kind!r} here; known are {', '.join(KINDS)}")
    if not isinstance(settings, dict):
        raise ValueError(f"the settings of {kind} are a dictionary, not {settings!r}")
    try:
        made: Policy = KINDS[kind](**{str(name): _made(value) for name, value in settings.items()})
    except TypeError as error:
        raise ValueError(f"{kind} has not these settings: {error}") from error
    return made


def _made(value: Any) -> Any:
    if isinstance(value, dict):
        return policy_of(value.get("policy"), value.get("settings"))
    if isinstance(value, list):
        return tuple(_made(each) for each in value)
    return float(value) if value in ("inf", "-inf", "nan") else value
