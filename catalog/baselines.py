"""What a claim is made over, in words; standard library only, since `eelit show` must start fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REFERENCES = {
    "full-model": "the full model",
    "static-exit": "a network cut off at a fixed depth",
    "own-variant": "a variant of the same method",
    "full-training": "training all of the weights",
    "earlier-methods": "earlier methods, which the source does not name",
}
"""Baselines that are no works."""


def words(baseline: str | Mapping[str, Any]) -> str:
    """Return a baseline as one says it: words, the key of a work, or the title of one outside the catalogue."""
    if isinstance(baseline, str):
        return REFERENCES.get(baseline, baseline)
    return str(baseline["external"]["title"])


def said(claim: Mapping[str, Any]) -> str:
    """Return a claim, as JSON has it, in two sentences: what the paper says, and over what, with the source."""
    return f"{claim['says']} Over {', '.join(map(words, claim['over']))} (source: {claim['source']})."
