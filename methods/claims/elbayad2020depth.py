"""What DAT claims: aligned training suffices, few blocks do as well as all, and confidence is costly to ask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eelit.methods.backbones.decoding import TokenCosts
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.translation import Prepared
from eelit.methods.papers.elbayad2020depth import Dat
from eelit.methods.policies.base import State, usable

SAME = 0.003
"""BLEU that may be lost where nothing is to be lost: a third of a point; the paper's figures are equal to a tenth."""
SEQUENCES = 2
"""Sequences of exits that mixed training draws here; the paper: up to 6."""
DRAWS = "exits drawn"


def claims(method: Dat, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Depth against all blocks and against the best one depth; what asking costs; and how the exits were trained."""
    found = [*fewer_blocks(prepared, curve)]
    if method.depth == "confidence":
        found.append(costly_to_ask(prepared, curve))
        found += aligned_is_better(prepared, method.replace({"sequences": SEQUENCES}).prepare(bench))
    return found


def mean_exit(point: OperatingPoint) -> float:
    """Return the mean number of blocks that tokens use, from 1."""
    return float(np.dot(point.exits, np.arange(1, len(point.exits) + 1)))


def fewer_blocks(prepared: Prepared, curve: Curve) -> list[Outcome]:
    """What the cheapest setting does that loses nothing on validation data, against all blocks and the best depth."""
    blocks, test = prepared.model.exits, [prepared.quality("test", run) for run in prepared.fixed("test")]
    held = [prepared.quality("validation", run) for run in prepared.fixed("validation")]
    ours = cheapest_within(curve.validation, curve.test, SAME)
    best = int(np.argmax(held))
    rival = cheapest_within(curve.validation, curve.test, SAME, of=held[best])
    return [
        Outcome(
            name="half of the blocks, and nothing lost",
            statement="The cheapest setting that loses at most 0.003 BLEU on validation sentences loses no more on "
            "test sentences, with half of the blocks or fewer on the mean.",
            holds=ours.quality >= curve.full_quality - SAME and mean_exit(ours) <= blocks / 2,
            measured=f"BLEU {ours.quality:.4f} with {mean_exit(ours):.2f} blocks of {blocks} at {curve.knob} "
            f"{ours.knob:g}; {curve.full_quality:.4f} with all",
        ),
        Outcome(
            name="as good as the best depth for all, with fewer blocks",
            statement="The cheapest setting that loses at most 0.003 BLEU on validation sentences against the decoder "
            "cut off where that is best loses no more on test sentences, with a fifth fewer blocks.",
            holds=rival.quality >= test[best] - SAME and mean_exit(rival) <= 0.8 * (best + 1),
            measured=f"BLEU {rival.quality:.4f} with {mean_exit(rival):.2f} blocks; {test[best]:.4f} with {best + 1}",
        ),
    ]


def costly_to_ask(prepared: Prepared, curve: Curve) -> Outcome:
    """Which share of the blocks and of the MACs confidence saves where it loses nothing."""
    ours = cheapest_within(curve.validation, curve.test, SAME)
    blocks, macs = 1 - mean_exit(ours) / prepared.model.exits, 1 - 1 / ours.speed_up
    table: TokenCosts = prepared.costs("test")
    return Outcome(
        name="confidence saves blocks rather than operations",
        statement="Where it loses at most 0.003 BLEU on validation sentences, confidence saves a share of MACs that is "
        "at least a tenth smaller than that of blocks: the output layer is asked at every block.",
        holds=blocks > 0 and macs <= 0.9 * blocks,
        measured=f"{blocks:.1%} of the blocks and {macs:.1%} of the MACs saved; the output layer takes {table.head} "
        f"MACs, a block {int(table.layer[0])}",
    )


def aligned_is_better(aligned: Prepared, mixed: Prepared) -> list[Outcome]:
    """Compare both trainings at every one depth, and with exits drawn for every token."""
    ours, theirs = ([each.quality("test", run) for run in each.fixed("test")] for each in (aligned, mixed))
    drawn = [sampled(each, "test") for each in (aligned, mixed)]
    told = ", ".join(f"{a:.4f} and {b:.4f}" for a, b in zip(ours, theirs, strict=True))
    return [
        Outcome(
            name="aligned training is better at one depth for all",
            statement="After as many steps, the decoder cut off after each of its blocks has on the mean a higher BLEU "
            "if its exits were trained aligned than if they were trained mixed.",
            holds=float(np.mean(ours)) > float(np.mean(theirs)),
            measured=f"aligned and mixed, block by block: {told}",
        ),
        Outcome(
            name="aligned training is better at drawn exits",
            statement="The same holds if every token leaves at a block drawn at random, though mixed training saw just "
            "that and aligned training never did.",
            holds=drawn[0] > drawn[1],
            measured=f"aligned {drawn[0]:.4f}, mixed {drawn[1]:.4f}",
        ),
    ]


def sampled(prepared: Prepared, split: Split) -> float:
    """Return the BLEU of translations whose tokens leave at blocks drawn uniformly, the same in every training."""
    exits = prepared.model.exits
    (run,) = prepared.run(split, {DRAWS: lambda step: Drawn(step, exits)}, "state")
    return prepared.quality(split, run)


@dataclass(frozen=True)
class Drawn:
    """Stop every token at an exit of its own that is drawn uniformly; ``seed`` is the number of the token."""

    seed: int
    exits: int

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Tensor) -> tuple[State, Tensor]:
        """Draw exits ``[n]`` at the first exit; the state is this exit and them."""
        if not state:
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randint(self.exits, (len(output),), generator=generator).to(output.device)
            state = torch.zeros_like(drawn), drawn
        here, depth = state
        return (here + 1, depth), (here >= depth) & usable(output)
