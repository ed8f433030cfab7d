"""What LayerDrop claims: a network that can be cut to any depth, which costs the whole one nothing."""

from __future__ import annotations

from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.translation import Prepared
from eelit.methods.papers.fan2020layerdrop import LayerDrop

SAME = 0.003
"""BLEU that counts as no difference, a third of a point: what the paper's whole network gains by LayerDrop."""


def claims(method: LayerDrop, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the same network trained without, and a smaller one trained for as long; at half the depth."""
    if method.keep != "every other" or not method.drop_rate:
        return []
    half = prepared.model.exits // 2
    plain = method.replace({"drop_rate": 0.0, "encoder_drop_rate": 0.0})
    beside, first = plain.prepare(bench), method.replace({"keep": "first"})
    small = plain.replace({"blocks": half}).prepare(bench)
    ours, bare, front = (
        each.of_blocks(ready, "test", half, each.kept_at(ready, half)).quality
        for each, ready in ((method, prepared), (plain, beside), (first, prepared))
    )
    whole = beside.quality("test", beside.full("test"))
    return [
        sturdy(ours, curve.full_quality, bare, whole, half),
        no_worse(curve.full_quality, whole),
        spread(ours, front, half),
        from_nothing(ours, small.quality("test", small.full("test")), half),
    ]


def sturdy(ours: float, full: float, bare: float, whole: float, half: int) -> Outcome:
    """What is left of the BLEU of the whole network when half of the decoder is cut out."""
    kept, rival = (part / max(all_of_it, 1e-9) for part, all_of_it in ((ours, full), (bare, whole)))
    return Outcome(
        name="half of the decoder can be cut out",
        statement="Cut to half of its blocks the decoder keeps a tenth more of the whole network's BLEU than one "
        "trained without LayerDrop.",
        holds=kept >= rival + 0.1,
        measured=f"with {half} blocks {kept:.0%} of {full:.4f} are kept; without LayerDrop {rival:.0%} of {whole:.4f}",
    )


def no_worse(full: float, whole: float) -> Outcome:
    """What LayerDrop does to the whole network."""
    return Outcome(
        name="the whole network is no worse",
        statement="With all blocks and after as many steps, its BLEU is at most 0.003 below that of the same network "
        "trained without LayerDrop; the paper finds it above.",
        holds=full >= whole - SAME,
        measured=f"{full:.4f} with LayerDrop, {whole:.4f} without",
    )


def spread(ours: float, front: float, half: int) -> Outcome:
    """Whether it matters which half is kept."""
    return Outcome(
        name="blocks at even distances are better than the first ones",
        statement="With every other block the BLEU is at least 0.003 higher than with the first half of the blocks.",
        holds=ours >= front + SAME,
        measured=f"{ours:.4f} with every other block, {front:.4f} with the first {half}",
    )


def from_nothing(ours: float, small: float, half: int) -> Outcome:
    """A decoder that was never deeper."""
    return Outcome(
        name="as good as a small network of its own",
        statement="With every other block the BLEU is at most 0.003 below that of a decoder of half the depth trained "
        "for as many steps without LayerDrop.",
        holds=ours >= small - SAME,
        measured=f"{ours:.4f} cut to {half} blocks, {small:.4f} trained with {half}",
    )
