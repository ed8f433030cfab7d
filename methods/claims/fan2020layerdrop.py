"""What LayerDrop claims: a network that can be cut to any depth, which costs the whole one nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eelit.methods.claims.paired import GAINS, KEEPS, of_bleu, resampled
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.translation import Matches, Prepared
from eelit.methods.papers.fan2020layerdrop import LayerDrop

SAME = 1.7
"""BLEU that may be lost where nothing is to be lost, two standard errors of the paired difference included. With 2,000
words, as in a default run, these alone are 1.1 to 1.3 between two trainings, so a smaller bar could hardly be kept;
the paper's whole network gains a third of a point by LayerDrop."""
MORE = 1.0
"""BLEU by which one choice of blocks must be better than another in the same network."""


def claims(method: LayerDrop, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the same network trained without, and a smaller one trained for as long; at half the depth."""
    if method.keep != "every other" or not method.drop_rate:
        return []
    half = prepared.model.exits // 2
    plain = method.replace({"drop_rate": 0.0, "encoder_drop_rate": 0.0})
    beside, first = plain.prepare(bench), method.replace({"keep": "first"})
    small = plain.replace({"blocks": half}).prepare(bench)
    ours, bare, front = (
        ready.matches("test", each.run(ready, "test", each.kept_at(ready, half)))
        for each, ready in ((method, prepared), (plain, beside), (first, prepared))
    )
    full, whole, little = (each.matches("test", each.full("test")) for each in (prepared, beside, small))
    return [
        sturdy(ours, full, bare, whole, half),
        no_worse(full, whole),
        spread(ours, front, half),
        from_nothing(ours, little, half),
    ]


def sturdy(ours: Matches, full: Matches, bare: Matches, whole: Matches, half: int) -> Outcome:
    """What is left of the BLEU of the whole network when half of the decoder is cut out."""

    def share(part: Matches, all_of_it: Matches, times: NDArray[np.int64] | None = None) -> float:
        return part.score(times) / max(all_of_it.score(times), 1e-9)

    kept, rival = share(ours, full), share(bare, whole)
    more = resampled(lambda times: share(ours, full, times) - share(bare, whole, times), len(ours.counts), digits=3)
    return Outcome(
        name="half of the decoder can be cut out",
        statement="Cut to half of its blocks the decoder keeps a tenth more of the whole network's BLEU than one "
        f"trained without LayerDrop, {GAINS}.",
        holds=more.gains(0.1),
        measured=f"with {half} blocks {kept:.0%} of {full.score():.2f} are kept; without LayerDrop {rival:.0%} of "
        f"{whole.score():.2f} (a share of {more} more)",
    )


def no_worse(full: Matches, whole: Matches) -> Outcome:
    """What LayerDrop does to the whole network."""
    more = of_bleu([full], [whole])
    return Outcome(
        name="the whole network is no worse",
        statement=f"With all blocks and after as many steps, its BLEU is at most {SAME:g} below that of the same "
        f"network trained without LayerDrop, {KEEPS}; the paper finds it above.",
        holds=more.keeps(SAME),
        measured=f"{full.score():.2f} with LayerDrop, {whole.score():.2f} without ({more})",
    )


def spread(ours: Matches, front: Matches, half: int) -> Outcome:
    """Whether it matters which half is kept."""
    more = of_bleu([ours], [front])
    return Outcome(
        name="blocks at even distances are better than the first ones",
        statement=f"With every other block the BLEU is at least {MORE:g} higher than with the first half of the "
        f"blocks, {GAINS}.",
        holds=more.gains(MORE),
        measured=f"{ours.score():.2f} with every other block, {front.score():.2f} with the first {half} ({more})",
    )


def from_nothing(ours: Matches, small: Matches, half: int) -> Outcome:
    """A decoder that was never deeper."""
    more = of_bleu([ours], [small])
    return Outcome(
        name="as good as a small network of its own",
        statement=f"With every other block the BLEU is at most {SAME:g} below that of a decoder of half the depth "
        f"trained for as many steps without LayerDrop, {KEEPS}.",
        holds=more.keeps(SAME),
        measured=f"{ours.score():.2f} cut to {half} blocks, {small.score():.2f} trained with {half} ({more})",
    )
