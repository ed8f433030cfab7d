"""What DAT claims: aligned training suffices, few blocks do as well as all, and confidence is costly to ask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eelit.methods.backbones.decoding import Generation, TokenCosts
from eelit.methods.claims.paired import BEYOND, KEEPS, Difference, of_bleu
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.translation import Matches, Prepared
from eelit.methods.papers.elbayad2020depth import Dat
from eelit.methods.policies.base import State, usable

CHOSEN = 0.3
"""BLEU that a setting may lose on validation sentences to be chosen; the paper's figures are equal to a tenth."""
SAME = 1.0
"""BLEU that may be lost on test sentences where nothing is to be lost, two standard errors of the paired difference
included: half a point is about what 2,000 words can tell of two settings."""
SEQUENCES = 2
"""Sequences of exits that mixed training draws here; the paper: up to 6."""
DRAWS = "exits drawn"


def claims(method: Dat, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Depth against all blocks and against the best one depth; what asking costs; and how the exits were trained."""
    found = [*fewer_blocks(method, prepared, curve)]
    if method.depth == "confidence":
        found.append(costly_to_ask(prepared, curve))
        found += aligned_is_better(prepared, method.replace({"sequences": SEQUENCES}).prepare(bench))
    return found


def mean_exit(point: OperatingPoint) -> float:
    """Return the mean number of blocks that tokens use, from 1."""
    return float(np.dot(point.exits, np.arange(1, len(point.exits) + 1)))


def fewer_blocks(method: Dat, prepared: Prepared, curve: Curve) -> list[Outcome]:
    """What the cheapest setting does that loses nothing on validation data, against all blocks and the best depth."""
    blocks, runs = prepared.model.exits, prepared.fixed("test")
    test = [prepared.quality("test", run) for run in runs]
    held = [prepared.quality("validation", run) for run in prepared.fixed("validation")]
    ours = cheapest_within(curve.validation, curve.test, CHOSEN)
    best = int(np.argmax(held))
    rival = cheapest_within(curve.validation, curve.test, CHOSEN, of=held[best])
    whole = behind(method, prepared, ours, prepared.full("test"))
    cut = behind(method, prepared, rival, runs[best])
    return [
        Outcome(
            name="half of the blocks, and nothing lost",
            statement=f"The cheapest setting that loses at most {CHOSEN:g} BLEU on validation sentences loses at most "
            f"{SAME:g} on test sentences, {KEEPS}, with half of the blocks or fewer on the mean.",
            holds=whole.keeps(SAME) and mean_exit(ours) <= blocks / 2,
            measured=f"BLEU {ours.quality:.2f} with {mean_exit(ours):.2f} blocks of {blocks} at {curve.knob} "
            f"{ours.knob:g}; {curve.full_quality:.2f} with all ({whole})",
        ),
        Outcome(
            name="as good as the best depth for all, with fewer blocks",
            statement=f"The cheapest setting that loses at most {CHOSEN:g} BLEU on validation sentences against the "
            f"decoder cut off where that is best loses at most {SAME:g} on test sentences, {KEEPS}, with a fifth fewer "
            "blocks.",
            holds=cut.keeps(SAME) and mean_exit(rival) <= 0.8 * (best + 1),
            measured=f"BLEU {rival.quality:.2f} with {mean_exit(rival):.2f} blocks; {test[best]:.2f} with {best + 1} "
            f"({cut})",
        ),
    ]


def behind(method: Dat, prepared: Prepared, point: OperatingPoint, other: Generation) -> Difference:
    """Return the difference in BLEU of test translations at a point of the curve and others."""
    (run,) = prepared.run("test", {point.knob: method.rule(point.knob, prepared)})
    return of_bleu([prepared.matches("test", run)], [prepared.matches("test", other)])


def costly_to_ask(prepared: Prepared, curve: Curve) -> Outcome:
    """Which share of the blocks and of the MACs confidence saves where it loses nothing."""
    ours = cheapest_within(curve.validation, curve.test, CHOSEN)
    blocks, macs = 1 - mean_exit(ours) / prepared.model.exits, 1 - 1 / ours.speed_up
    table: TokenCosts = prepared.costs("test")
    none = "" if blocks > 0 else f"No setting but the whole decoder loses at most {CHOSEN:g} BLEU on validation data."
    return Outcome(
        name="confidence saves blocks rather than operations",
        statement=f"Where it loses at most {CHOSEN:g} BLEU on validation sentences, confidence saves a share of MACs "
        "that is at least a tenth smaller than that of blocks: the output layer is asked at every block.",
        holds=blocks > 0 and macs <= 0.9 * blocks,
        measured=f"{blocks:.1%} of the blocks and {macs:.1%} of the MACs saved; the output layer takes {table.head} "
        f"MACs, a block {int(table.layer[0])}",
        not_comparable=none,
    )


def aligned_is_better(aligned: Prepared, mixed: Prepared) -> list[Outcome]:
    """Compare both trainings at every one depth, and with exits drawn for every token."""
    ours, theirs = ([each.matches("test", run) for run in each.fixed("test")] for each in (aligned, mixed))
    drawn = [sampled(each, "test") for each in (aligned, mixed)]
    cut, left = of_bleu(ours, theirs), of_bleu(drawn[:1], drawn[1:])
    told = ", ".join(f"{a.score():.2f} and {b.score():.2f}" for a, b in zip(ours, theirs, strict=True))
    return [
        Outcome(
            name="aligned training is better at one depth for all",
            statement="After as many steps, the decoder cut off after each of its blocks has on the mean a higher BLEU "
            f"if its exits were trained aligned than if they were trained mixed, {BEYOND}.",
            holds=cut.gains(),
            measured=f"{cut}; aligned and mixed, block by block: {told}",
        ),
        Outcome(
            name="aligned training is better at drawn exits",
            statement="The same holds if every token leaves at a block drawn at random, though mixed training saw just "
            "that and aligned training never did.",
            holds=left.gains(),
            measured=f"aligned {drawn[0].score():.2f}, mixed {drawn[1].score():.2f} ({left})",
        ),
    ]


def sampled(prepared: Prepared, split: Split) -> Matches:
    """Return translations, by their BLEU, whose tokens leave at blocks drawn uniformly, as in every training."""
    exits = prepared.model.exits
    (run,) = prepared.run(split, {DRAWS: lambda step: Drawn(step, exits)}, "state")
    return prepared.matches(split, run)


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
