"""What may be given to `compare`, `calibrate` and `advise`, and what nothing can be told from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eelit.methods.own.files import read
from eelit.methods.own.logits import Logits, WrongLogits
from eelit.methods.own.scores import Scores

Given = Logits | Scores | str | Path
"""Outputs, their scores, or the file in which they lie."""
FEW_AT_THE_END = 0.01
"""Share of samples of which the last exit may say what is not finite: what it says is the measure of all else."""
FEW = 0.1
"""The same of any exit."""


def scores_of(data: Any) -> Scores:
    """Return the scores of what is given. Raises `WrongLogits` for what are no outputs, and for those of one exit."""
    if isinstance(data, str | Path):
        data = read(data)
    if not isinstance(data, Logits | Scores):
        raise WrongLogits(
            f"outputs are given as Logits(z, labels, costs=[…]), or as the name of a file, not as a "
            f"{type(data).__name__}"
        )
    scores = data if isinstance(data, Scores) else Scores(data)
    if scores.logits.exits < 2:
        raise WrongLogits("there is only one exit, so that nobody can leave early")
    return scores


def unfit(scores: Scores) -> str:
    """Return why nothing can be told of outputs that are not finite; empty if enough of them are."""
    samples, last = scores.logits.samples, int((~scores.usable[-1]).sum())
    if last > FEW_AT_THE_END * samples:
        return f"the last exit, by which all else is measured, is not finite for {last} of {samples} samples"
    if scores.not_finite > FEW * samples:
        return f"some exit is not finite for {scores.not_finite} of {samples} samples"
    return ""


def said_not_finite(count: int) -> str:
    """Return in a sentence of how many samples some exit says what is not finite."""
    return f"Of {count} samples some exit says what is not finite; nobody stops by it."
