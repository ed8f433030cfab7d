"""`eelit calibrate`: a policy and its setting for logits of any framework, with a promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.faults import writing
from eelit.cli.command import Place, eelit_command, format_option, nothing_found
from eelit.cli.own import logits_options, read_logits, reading, seed_option
from eelit.cli.run import ELSEWHERE
from eelit.cli.table import bold, paragraph, table

if TYPE_CHECKING:
    from eelit.methods.own.saved import SavedRule

GOALS = ("budget", "max_drop", "risk", "mean_risk", "reject")
HEADER = ("", "policy", "cost", "saved", "quality", "drop", "± s.e.")
TESTED = {"tested_loss": "tested loss", "p_value": "p-value", "bound": "bound", "proved": "proved"}
"""What a line of the table may tell of a test, and how the column is headed."""


def _number(name: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(f"--{name}", type=float, metavar="SHARE", help=text)


@eelit_command(
    "eelit calibrate --logits example:images --budget 0.5",
    "eelit calibrate --logits example:text --policy patience --max-drop 0.03 --confidence 0.9",
    "eelit calibrate --logits example:images --risk 0.05 --delta 0.1 --out rule.json",
)
@logits_options(required=True)
@click.option(
    "--policy",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="One of those that `eelit compare --logits` shows.",
)
@_number("budget", "Mean cost, as a share of the full model's; the best quality within it.")
@_number("max-drop", "Loss of quality that is allowed; the least cost within it.")
@_number("confidence", "With --max-drop: the probability with which it must hold.")
@_number("risk", "Expected loss, with --delta: Learn then Test.")
@_number("delta", "Probability with which --risk may be missed.")
@_number("mean-risk", "Expected loss, on average: conformal risk control.")
@_number("reject", "Share of samples that may get no answer.")
@click.option(
    "--loss",
    type=click.Choice(["drop", "error"]),
    default="drop",
    show_default=True,
    help="What counts as a loss: an answer that only the full model gets right, or any wrong answer.",
)
@click.option(
    "--correction",
    type=click.Choice(["fixed-sequence", "bonferroni"]),
    default="fixed-sequence",
    show_default=True,
    help="How several settings are tested at once.",
)
@click.option("--anyway", is_flag=True, help="Write the rule also if it misses its goal on the other half.")
@seed_option
@click.option("--out", type=Place(), default="rule.json", show_default=True, metavar="FILE", help="File for the rule.")
@format_option("table", "json")
def command(style: str, out: Path, anyway: bool, **options: Any) -> None:
    """Choose an exit policy and its setting for your logits, with a guarantee.

    Give the goal as exactly one of --budget, --max-drop, --risk, --mean-risk and --reject. Settings are chosen on one
    half of the samples; the guarantee is tested, and figures are reported, on the other. The rule is written as JSON,
    which `eelit.methods.own.saved.load_rule` reads and applies. If the goal cannot be guaranteed, or is missed there
    by more than two standard errors, nothing is written, stderr says what could be, and the exit code is 1; --anyway
    accepts a goal that is missed by chance. Whether a goal is met as measured there, or only within two standard
    errors, is shown.
    """
    given = [name for name in GOALS if options[name] is not None]
    if len(given) != 1:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in GOALS)
        raise click.UsageError(f"give exactly one of {names}")
    found = _calibrated(options)
    if found is None:
        return
    if not found.budget_met_ and not anyway:
        nothing_found(_missed(found))
    with writing(out, ELSEWHERE):
        found.save(out)
    click.echo(found.to_json() if style == "json" else _report(found))
    click.echo(f"eelit: wrote {out}", err=True)


def _calibrated(options: dict[str, Any]) -> SavedRule | None:
    from eelit.methods.own.calibrate import CannotPromise, calibrate
    from eelit.methods.own.logits import WrongLogits

    names = (*GOALS, "confidence", "delta", "loss", "correction", "seed", "settings")
    try:
        with reading() as bar:
            data = read_logits(options)
            return calibrate(data, options["policy"], progress=bar, **{name: options[name] for name in names})
    except CannotPromise as error:
        nothing_found(str(error))
    except WrongLogits:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return None


def _report(found: SavedRule) -> str:
    from eelit.methods.own.report import short
    from eelit.methods.own.settings import settings_of

    promise = found.promise
    lines = [bold(f"{found.rule}: {promise['text']}")]
    for weight, policy in found.parts:
        share = "" if len(found.parts) == 1 else f"{weight:.1%} of samples: "
        lines.append(paragraph(f"{share}{type(policy).__name__}, {short(settings_of(policy))}", "  "))
    lines.append(f"  exits in use: {', '.join(str(e + 1) for e in found.enabled)} of {found.exits}")
    lines += [paragraph(text) for text in _measured(found)]
    lines.append(paragraph(_standing(found)))
    tests = [name for name in TESTED if any(name in row for row in found.table_)]
    rows = [
        [
            "chosen" if row["chosen"] else "",
            row["rule"],
            *(f"{row[name]:.1%}" for name in ("share", "saved")),
            *(f"{row[name]:.4f}" for name in ("quality", "drop", "drop_error")),
            *(_tested(row.get(name)) for name in tests),
            _mixed(row["mixture"]),
        ]
        for row in found.table_
    ]
    header = [*HEADER, *(TESTED[name] for name in tests), "settings"]
    return "\n".join([*lines, "", bold("ALTERNATIVES"), table(header, rows)])


def _standing(found: SavedRule) -> str:
    """Return in a sentence what is proved, or how the goal fares where nothing was chosen."""
    promise, what = found.promise, "Not proved; "
    if promise["goal"] == "reject":
        proof = "Promised with proof is" if promise["proved"] else "Not proved is"
        what = f"{proof} the share that is refused. That of the others no fewer are right is not proved; "
    elif promise["proved"]:
        return "Promised with proof."
    if not found.budget_met_:
        return f"{what}MISSED there by more than two standard errors."
    return (
        f"{what}met there {'as measured' if promise['as_measured'] else 'within two standard errors, not as measured'}."
    )


def _missed(found: SavedRule) -> str:
    """Return in a sentence by how much a goal is missed, and which would be kept."""
    from eelit.methods.own.curves import ROOM

    promise, m = found.promise, found.promise["measured"]
    if promise["goal"] == "reject":
        fewer = f"{m['drop_of_answered']:.4f} ± {m['drop_of_answered_error']:.4f}"
        reached = f"of those that get an answer {fewer} fewer are right"
        could = "Ask for another share"
    elif promise["goal"] == "budget":
        reached, most = (
            f"the mean cost is {m['share']:.1%} ± {m['share_error']:.1%}",
            m["share"] + ROOM * m["share_error"],
        )
        could = f"With two standard errors it keeps --budget {most:.3f}; ask for less"
    else:
        reached, most = f"the drop is {m['drop']:.4f} ± {m['drop_error']:.4f}", m["drop"] + ROOM * m["drop_error"]
        could = f"With two standard errors it keeps --max-drop {most:.4f}; ask for less"
    return (
        f"`{found.rule}`, the best on the half to choose on, misses the goal on the other by more than two standard "
        f"errors: {reached} there. {could}, or take it by --anyway. Nothing was written"
    )


def _tested(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no"
    return f"{value:.4f}"


def _mixed(parts: list[dict[str, Any]]) -> str:
    """Return settings as a line, each of two with its share of the samples."""
    from eelit.methods.own.report import short

    if len(parts) == 1:
        return short(parts[0]["settings"])
    return "; ".join(f"{part['weight']:.0%}: {short(part['settings'])}" for part in parts)


def _measured(found: SavedRule) -> Iterator[str]:
    """Yield in sentences what the rule comes to on the half where it was tested, or where nothing was chosen."""
    from eelit.methods.own.given import said_not_finite

    m = found.promise["measured"]
    where = "on which the setting was tested and accepted" if found.promise["proved"] else "not used for choosing"
    yield found.data["as_read"]
    yield (
        f"On {found.data['told_on']} samples {where}: {m['share']:.1%} ± {m['share_error']:.1%} of "
        f"the full model's cost, {found.promise['quality_is']} {m['quality']:.4f} beside {m['full_quality']:.4f} (drop "
        f"{m['drop']:.4f} ± {m['drop_error']:.4f}, standard errors)."
    )
    if found.data["not_finite"]:
        yield said_not_finite(found.data["not_finite"])
    if "refused" in m:
        yield (
            f"{m['refused']:.1%} get no answer (confidence at the last exit below {found.reject_below:.4g}); of the "
            f"others {m['quality_of_answered']:.4f} are right, beside {m['full_quality_of_answered']:.4f} by the full "
            f"model that refuses as many ({m['drop_of_answered']:.4f} ± {m['drop_of_answered_error']:.4f} fewer)."
        )
