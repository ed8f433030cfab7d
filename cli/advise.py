"""`eelit advise`: whether early exit is worth it, from what a network's exits said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from eelit.cli.command import eelit_command, format_option
from eelit.cli.own import logits_options, read_logits, reading, seed_option
from eelit.cli.table import bold, json_text, paragraph, table

if TYPE_CHECKING:
    from eelit.methods.own.advise import Advice, Saving


@eelit_command(
    "eelit advise --logits example:images",
    "eelit advise --logits logits.npy --labels labels.npy --costs 1,2,3,4",
)
@logits_options(required=True)
@seed_option
@format_option("table", "json")
def command(style: str, **options: Any) -> None:
    """Tell whether early exit is worth it for your network, from its logits.

    Shows how much an oracle could save, what the best policy saves and loses on held-out samples, overthinking,
    calibration, the cost of the heads, how much of the saving batches keep, and a verdict with its reason.
    """
    from eelit.methods.own.advise import advise

    with reading() as bar:
        found = advise(read_logits(options), seed=options["seed"], settings=options["settings"], progress=bar)
    click.echo(
        json_text(asdict(found) | {"worth_it": found.worth_it}) if style == "json" else "\n\n".join(_report(found))
    )


def _report(found: Advice) -> Iterator[str]:
    from eelit.methods.own.advise import DROP
    from eelit.methods.own.given import said_not_finite

    yield f"{bold(found.verdict.upper())}\n{paragraph(f'{found.reason[:1].upper()}{found.reason[1:]}.')}"
    yield paragraph(found.as_read)
    if found.not_finite:
        yield paragraph(said_not_finite(found.not_finite))
    rows = [
        [
            str(i + 1),
            f"{e.share:.1%}",
            f"{e.quality:.4f}",
            _optional(e.calibration_error, ".3f"),
            _optional(e.head_share, ".1%"),
        ]
        for i, e in enumerate(found.exits)
    ]
    header = ["exit", f"cost ({found.unit})", found.quality_is, "calibration error", "its head"]
    yield f"{bold('EXITS')}\n{table(header, rows)}"
    best = found.small_loss or found.lossless
    lines = [
        ["samples", _samples(found)],
        ["full model", f"{found.quality_is} {found.full_quality:.4f}"],
        ["oracle: quality", f"{found.oracle_quality:.4f}"],
        ["oracle: saved without loss", f"{found.oracle_saves:.1%}"],
        ["an earlier exit right, the last wrong", _optional(found.overthinking, ".1%")],
        ["all heads but the last cost", _optional(found.heads_share, ".1%") or "not known; give --plain-costs"],
        [
            "one exit for all, as good: saved",
            f"{found.static_saves:.1%} (drop {found.static_drop:.4f} ± {found.static_error:.4f})",
        ],
        ["no loss on the choosing half: saved", _saved(found.lossless)],
        [f"loss of at most {DROP:g}, tested: saved", _saved(found.small_loss)],
        *(
            [f"  of it in batches of {batch} that wait", f"{share:.1%}"]
            for batch, share in (best.batches.items() if best else ())
        ),
    ]
    yield f"{bold('FIGURES')}\n{table(['', ''], lines)}"


def _samples(found: Advice) -> str:
    if found.groups is None:
        return f"{found.samples}, taken as independent of each other"
    return f"{found.samples} in {found.groups} groups; groups are taken as independent"


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _saved(saving: Saving | None) -> str:
    if saving is None:
        return "none"
    return f"{saving.share:.1%} by {saving.rule} (drop on the other half {saving.drop:.4f} ± {saving.drop_error:.4f})"
