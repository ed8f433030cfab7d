"""What MetaDistil claims: a student learns more from a teacher who learns to teach, and does so before he learns.

Students answer the same sentences, so they are compared sentence by sentence: alone, a bar of half a point was within
one standard error.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from eelit.methods.claims.paired import GAINS, KEEPS, Difference, of_samples, over_samples
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.cascades import Prepared
from eelit.methods.papers.zhou2022metadistil import MetaDistil

GAIN = 0.005
"""What is worth speaking of, in accuracy."""
DRIFT = 0.02
"""By how much the teacher's accuracy may change, up or down: she learns to teach, and still knows what she teaches."""
MOVED = 0.01
"""By how much soft labels must differ for a teacher to have learnt, in probability."""


def claims(method: MetaDistil, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Students of equal networks and as many passes over as many sentences; only their teachers differ."""
    all_taught = {"teacher_rate": 0.0, "quiz": 0.0}  # nothing need be kept for a quiz that nobody learns from
    ours = alone(method, prepared)
    fixed, late, labels = (
        alone(rival, rival.prepare(bench))
        for rival in (
            method.replace(all_taught),
            method.replace({"pilot": False}),
            method.replace({**all_taught, "alpha": 0.0, "beta": 0.0}),
        )
    )
    return [
        better("better than a fixed teacher", ours, fixed, "from the same teacher who stays as she was fine-tuned, on "
               "all sentences, those of the quiz included"),
        better("the pilot update helps", ours, late, "from the teacher of before each quiz"),
        better("better than labels alone", ours, labels, "from true labels alone, on all sentences"),
        teacher_learns(prepared),
    ]  # fmt: skip


def alone(method: MetaDistil, prepared: Prepared) -> NDArray[np.float64]:
    """Return whether the student alone is right, for each test sentence ``[N]``."""
    return of_samples(method.static(prepared.split("test"))[0])


def better(name: str, ours: NDArray[np.float64], theirs: NDArray[np.float64], otherwise: str) -> Outcome:
    """Compare two students."""
    gain = over_samples(ours, theirs)
    return Outcome(
        name=name,
        statement=f"The student, used alone, is half a point more accurate than one who learned {otherwise}, {GAINS}.",
        holds=gain.gains(GAIN),
        measured=f"{ours.mean():.4f} and {theirs.mean():.4f} ({gain})",
    )


def teacher_learns(prepared: Prepared) -> Outcome:
    """Compare the teacher as she was fine-tuned with her who has learnt to teach, on validation sentences."""
    seen = prepared.split("validation").examples
    before, after = (
        probabilities(network, seen) for network in (prepared.model.members[1], prepared.model.get_submodule("tutor"))
    )
    shift = over_samples((before - after).abs().mean(dim=-1).numpy())
    right = [(p.argmax(dim=-1) == seen.targets).double().numpy() for p in (before, after)]
    change = over_samples(right[1], right[0])
    steady = change.keeps(DRIFT) and Difference(-change.mean, change.error).keeps(DRIFT)
    return Outcome(
        name="the teacher learns to teach, and still knows the answers",
        statement=f"On validation sentences her soft labels are another by a hundredth on average, {GAINS}; and her "
        f"accuracy is at most two points lower or higher than before, {KEEPS}.",
        holds=shift.gains(MOVED) and steady,
        measured=f"soft labels moved by {shift}; accuracy {right[0].mean():.4f} before, {right[1].mean():.4f} after "
        f"({change})",
    )


@torch.inference_mode()
def probabilities(network: torch.nn.Module, examples: Examples) -> torch.Tensor:
    """Return the softmax ``[N, C]`` of what a network says, in the order of the examples."""
    found = [(index, cast(torch.Tensor, network(x)).softmax(dim=-1)) for index, x in examples.batches(64)]
    order = torch.argsort(torch.cat([index for index, _ in found]))
    return torch.cat([p for _, p in found])[order]
