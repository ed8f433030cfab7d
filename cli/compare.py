"""`eelit compare`: methods of a track side by side, or all policies on logits of your own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.baselines import said
from eelit.catalog.extras import demand
from eelit.catalog.faults import writing
from eelit.cli.command import MethodName, Place, eelit_command, format_option, nothing_found, open_catalogue
from eelit.cli.leaderboard import on_track, say_unreadable
from eelit.cli.own import SOURCE, logits_options, read_logits, reading, seed_option
from eelit.cli.run import ELSEWHERE, method_key
from eelit.cli.table import GAP, bold, json_text, paragraph, table, width
from eelit.methods.harness.tracks import TRACKS

if TYPE_CHECKING:
    from eelit.catalog.query import Catalogue
    from eelit.methods.engine.records import Result
    from eelit.methods.harness.bench import Stored
    from eelit.methods.harness.summary import Row, Spread, Verdict, Wall
    from eelit.methods.own.compare import Comparison, Line
    from eelit.site.generator.claims import Trial


@eelit_command(
    "eelit compare pabee deebert",
    "eelit compare pabee deebert --track text --out comparison.svg",
    "eelit compare deebert max-confidence@deebert static-exit@deebert",
    "eelit compare --logits example:images --out report.html",
)
@click.argument("methods", nargs=-1, type=MethodName(), metavar="METHOD METHOD…")
@click.option(
    "--track", "name", type=click.Choice(list(TRACKS)), help="Task and conditions of the comparison.  [default: text]"
)
@logits_options(required=False)
@click.option(
    "--policy", "policies", multiple=True, metavar="NAME", help="With --logits: only this policy. Repeat for more."
)
@seed_option
@click.option(
    "--out", type=Place(), metavar="FILE", help="Draw the curves (.svg, .png); with --logits also a report (.html)."
)
@format_option("table", "json")
def command(methods: tuple[str, ...], name: str | None, out: Path | None, style: str, **options: Any) -> None:
    """Compare methods of a track: curves, costs, claims; or policies on your logits.

    For methods, figures are means over seeds, with the standard deviation, from results that this code measured. A
    baseline can be chosen like a method, on the network of a method: `max-confidence@METHOD` stops at the largest
    probability, `static-exit@METHOD` at a fixed exit. With --logits, every policy is compared that needs only the
    outputs of your network's exits: knobs are chosen on one half of the samples, and figures are reported on the other.
    """
    if options["logits"] is None:
        _methods(methods, name or "text", out, style, options)
    elif methods:
        raise click.UsageError("methods are compared on a track; with --logits name policies by --policy, if any")
    elif name is not None:
        raise click.UsageError("give either --track or --logits")
    else:
        _policies(out, style, options)


def _methods(methods: tuple[str, ...], name: str, out: Path | None, style: str, options: dict[str, Any]) -> None:
    """Compare methods of a track."""
    from eelit.methods.harness import bench

    if not methods:
        raise click.UsageError("name the methods to compare, or give --logits")
    for option in (*SOURCE, "policies"):
        if options[option]:
            raise click.UsageError(
                f"--{'policy' if option == 'policies' else option.replace('_', '-')} goes with --logits"
            )
    choices = list(dict.fromkeys((rule, method_key(own)) for rule, own in chosen(methods)))
    keys = on_track((key for _, key in choices), name)
    if out and out.suffix not in (".svg", ".png"):
        raise click.UsageError(f"{out} cannot be drawn; choose a file ending in .svg or .png")
    known = {key: bench.stored(name, key) for key in keys}
    stored = known.values()
    say_unreadable(
        (fault for found in stored for fault in found.unreadable),
        (fault for found in stored for fault in found.unpaired),
    )
    missing = [key for key in keys if not known[key].results]
    for key in missing:
        click.echo(f"eelit: {key} was not measured on the track `{name}`; `eelit bench {key}` does it", err=True)
    rows = _rows(choices, known)
    trials = _trials(_themselves(choices, known), open_catalogue())
    for rule, key in choices:
        if rule and known[key].results and not any((row.rule, row.key) == (rule, key) for row in rows):
            click.echo(f"eelit: {key} was not measured with the baseline {rule}", err=True)
    if style == "json":
        click.echo(json_text(_as_json(name, rows, trials)))
    elif rows:
        click.echo("\n\n".join([*_side_by_side(rows), *_rules(rows), *_claims(trials)]))
    if not rows:
        nothing_found("none of these methods was measured")
    if out and rows:
        _draw(list(_results(rows, known)), out)


Choice = tuple[str, str]
"""A baseline (empty: the method itself), and the name or key of the method whose network it uses."""


def chosen(names: Iterable[str]) -> list[Choice]:
    """Split names such as `max-confidence@pabee`. Raises `click.UsageError` for an unknown baseline."""
    from eelit.methods.harness.summary import BASELINE_KNOBS, slug

    rules, found = {slug(rule): rule for rule in BASELINE_KNOBS}, []
    for name in names:
        rule, sign, own = name.partition("@")
        if sign and rule.lower() not in rules:
            raise click.UsageError(
                f"there is no baseline {rule!r}; there are {', '.join(f'{each}@METHOD' for each in rules)}"
            )
        found.append((rules[rule.lower()], own) if sign else ("", name))
    return list(dict.fromkeys(found))


def measured(
    choices: list[Choice], name: str, catalogue: Catalogue
) -> tuple[list[Row], dict[str, list[dict[str, Any]]]]:
    """Return rows of methods on a track, and claims as JSON types; of those that were not measured there are none."""
    from eelit.methods.harness import bench

    known = {key: bench.stored(name, key) for _, key in choices}
    return _rows(choices, known), _claims_as_json(_trials(_themselves(choices, known), catalogue))


def _themselves(choices: list[Choice], known: dict[str, Stored]) -> dict[str, Stored]:
    """Return the results of methods that were chosen themselves and were measured."""
    keys = dict.fromkeys(key for rule, key in choices if not rule)
    return {key: known[key] for key in keys if known[key].results}


def _rows(choices: list[Choice], known: dict[str, Stored]) -> list[Row]:
    """Return a row for each curve of each method or baseline that was measured, compared with each other."""
    from eelit.methods.harness import bench, summary

    rows: list[Row] = []
    for rule, key in choices:
        found = known[key]
        if rule:
            rows += bench.rules({key: found}, [rule])
        else:
            curves = found.results[0].curves if found.results else []
            rows += [summary.row(found.results, curve.variant, current=found.current) for curve in curves]
    return bench.stand(rows, known, summary.SHARES)


def _results(rows: list[Row], known: dict[str, Stored]) -> Iterator[Result]:
    """Yield the results of each row, each with the row's curve only."""
    from eelit.methods.harness.summary import curve_of

    for row in rows:
        for result in known[row.key].results:
            curve = curve_of(result, row.variant, row.rule)
            yield result.model_copy(update={"key": row.who, "curves": [curve]})


def _as_json(name: str, rows: list[Row], trials: dict[str, list[Trial]]) -> dict[str, Any]:
    claims = _claims_as_json(trials)
    return {"track": name, "rows": [{"id": row.id} | asdict(row) for row in rows], "claims": claims}


def _claims_as_json(trials: dict[str, list[Trial]]) -> dict[str, list[dict[str, Any]]]:
    from eelit.site.generator.claims import as_json

    return {key: [as_json(trial) for trial in found] for key, found in trials.items()}


def _trials(known: dict[str, Stored], catalogue: Catalogue) -> dict[str, list[Trial]]:
    """Return the claims of each method's paper beside what the seeds say; a method from outside may have no entry."""
    from eelit.catalog.schema import Claim
    from eelit.methods.harness.summary import verdicts
    from eelit.site.generator.claims import beside

    entries = {key: catalogue.work(key).entry for key in set(catalogue.keys()).intersection(known)}
    claims = {key: [Claim.model_validate(claim) for claim in entry["claims"]] for key, entry in entries.items()}
    return {
        key: beside(claims.get(key, []), verdicts(found.results, current=found.current)) for key, found in known.items()
    }


def _claims(trials: dict[str, list[Trial]]) -> Iterator[str]:
    """Yield one section per method: each claim of the paper, and below it the outcomes that try it."""
    for key, found in trials.items():
        if found:
            lines = [line for trial in found for line in _trial(trial)]
            yield "\n".join([bold(f"WHAT THE PAPER CLAIMS, AND WHAT HOLDS HERE: {key}"), *lines])


def _trial(trial: Trial) -> Iterator[str]:
    yield paragraph(
        said(trial.claim.model_dump()) if trial.claim else "A consequence of the paper that no claim names:",
        "  - ",
        "    ",
    )
    for verdict in trial.verdicts:
        yield paragraph(
            f"{_judged(verdict)}: `{verdict.name}`. {verdict.statement} {verdict.reason}".rstrip(), "      "
        )
        yield paragraph(f"measured, seed by seed: {'; '.join(verdict.measured)}", "        ")
    for name in trial.waiting:
        yield paragraph(f"not measured: `{name}`", "      ")
    if trial.claim and trial.claim.untried:
        yield paragraph(f"not tested here: {trial.claim.untried}", "      ")


def _side_by_side(rows: list[Row]) -> Iterator[str]:
    """Yield tables, each of as many methods as the terminal has room for."""
    names, lines = [f"{row.who} {row.variant}".strip() for row in rows], _figures(rows)
    first = max(len(line[0]) for line in lines)
    sizes = [max(len(text) for text in column) for column in zip(names, *(line[1:] for line in lines), strict=True)]
    start, room = 0, width() or sys.maxsize
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and first + sum(len(GAP) + size for size in sizes[start : stop + 1]) <= room:
            stop += 1
        yield table(["", *names[start:stop]], [[line[0], *line[1 + start : 1 + stop]] for line in lines])
        start = stop


def _rules(rows: list[Row]) -> Iterator[str]:
    """Say what intervals cover, and when a row is level with the best of those that are compared."""
    if any(row.standings for row in rows):
        yield paragraph(
            "The 95 % intervals cover other test samples and seeds; the difference from the best of these rows is "
            "computed sample by sample. A row is level with the best if the difference is not significant (at 5 %, "
            "corrected for all comparisons by Holm)."
        )


def _figures(rows: list[Row]) -> list[list[str]]:
    """Return one line per figure, one column per row of the leaderboard."""
    lines = {
        "quality is": [row.quality for row in rows],
        "data": [row.data for row in rows],
        "train / validation / test": [row.sizes for row in rows],
        "seeds": [f"{', '.join(map(str, row.seeds))}{'' if row.current else ' (stale)'}" for row in rows],
        "full model": [str(row.full) for row in rows],
    }
    for share in rows[0].at:
        lines[f"within {share:.0%} of the cost"] = [_said(row.at[share], _beyond(row)) for row in rows]
        if any(row.standings for row in rows):
            lines[f"95 % interval, at {share:.0%}"] = [_between(row, share) for row in rows]
            lines[f"minus the best of these, at {share:.0%}"] = [_behind(row, share) for row in rows]
    lines["area under the curve"] = [_said(row.area, _beyond(row)) for row in rows]
    for name in dict.fromkeys(name for row in rows for name in row.against):
        lines[f"gain over {name}, at 50%"] = [_said(row.against.get(name, {}).get(0.5)) for row in rows]
    lines["share leaving at each exit, %"] = [
        " ".join(f"{100 * share:.0f}" for share in row.exits) or "number of exits differs by seed" for row in rows
    ]
    lines["calibration error of each exit"] = [
        " ".join(f"{error.mean:.3f}" for error in row.calibration if error) for row in rows
    ]
    lines["overthinking"] = [_said(row.overthinking) for row in rows]
    lines["load per core; above 1: seconds vague"] = [_said(row.load, digits=1) for row in rows]
    lines["training, processor seconds"] = [_said(row.training_seconds, digits=0) for row in rows]
    lines["training, steps"] = [_said(row.training_steps, digits=0) for row in rows]
    for batch in rows[0].efficiency:
        lines[f"time saved ÷ cost saved, batch {batch}"] = [_said(row.efficiency[batch], digits=2) for row in rows]
        lines[f"ms / ms of full, near 75 50 25%, batch {batch}"] = [_waited(row.walls[batch]) for row in rows]
    return [[name, *cells] for name, cells in lines.items()]


def _between(row: Row, share: float) -> str:
    """Return the 95 % interval of a row's quality."""
    standing = row.standings.get(share)
    return f"{standing.quality.low:.4f} to {standing.quality.high:.4f}" if standing else ""


def _behind(row: Row, share: float) -> str:
    """Return the 95 % interval of the difference from the best of the rows, and whether it is level with that."""
    standing, how = row.standings.get(share), row.place(share)
    if how == "best" or standing is None or standing.behind is None:
        return how
    return f"{standing.behind.low:+.4f} to {standing.behind.high:+.4f}" + f" {how}".rstrip()


def _beyond(row: Row) -> str:
    return f"out of reach: least is {row.least:.1%}"


def _waited(walls: list[Wall]) -> str:
    """Return milliseconds at the timed knobs, each over those that the full model took in turn with it."""
    return " ".join(f"{wall.milliseconds.mean:.1f}/{wall.full.mean:.1f}" for wall in walls)


def _said(spread: Spread | None, otherwise: str = "", digits: int = 4) -> str:
    if spread is None:
        return otherwise
    return f"{spread.mean:.{digits}f}" + (f" ± {spread.deviation:.{digits}f}" if spread.deviation is not None else "")


def _judged(verdict: Verdict) -> str:
    from eelit.methods.harness.summary import SEEDS

    seeds = "seed" if verdict.n == 1 else "seeds"
    needed = f"; {SEEDS} are needed" if verdict.judgement == "too few seeds" else ""
    stale = "" if verdict.current else ", stale"
    return f"{verdict.judgement}, held with {verdict.held} of {verdict.n} {seeds}{needed}{stale}"


def _draw(results: list[Result], out: Path) -> None:
    from eelit.methods.harness.plot import compare

    with writing(out, ELSEWHERE):
        compare(results, out)
    click.echo(f"eelit: wrote {out}", err=True)


def _policies(out: Path | None, style: str, options: dict[str, Any]) -> None:
    """Compare policies on logits."""
    from eelit.methods.own import picture, report
    from eelit.methods.own.compare import compare

    if out and out.suffix not in (".svg", ".png", ".html"):
        raise click.UsageError(f"{out} cannot be made; choose a file ending in .svg, .png or .html")
    if out:
        demand("plot")
    with reading() as bar:
        data = read_logits(options)
        try:
            found = compare(data, options["policies"], seed=options["seed"], settings=options["settings"], progress=bar)
        except ValueError as error:
            if type(error) is ValueError:
                raise click.UsageError(str(error)) from error
            raise
    click.echo(json_text(asdict(found)) if style == "json" else "\n\n".join(_on_logits(found)))
    if out:
        with writing(out, ELSEWHERE):
            (report.write if out.suffix == ".html" else picture.draw)(found, out)
        click.echo(f"eelit: wrote {out}", err=True)


def _on_logits(found: Comparison) -> Iterator[str]:
    from eelit.methods.own.compare import SHARES
    from eelit.methods.own.report import bounds_at, facts

    yield paragraph(" ".join(facts(found)))
    header = ["policy", *(f"within {share:.0%}" for share in SHARES), "area", "saved", "lost there", ""]
    bounds = [
        [f"({name})", *(_reached(bounds_at(getattr(found, name), share)) for share in SHARES), "", "", "", "bound"]
        for name in ("oracle", "static", "random")
    ]
    rows = [*map(_policy, found.lines), *bounds]
    yield f"{bold('POLICIES AT EQUAL COST')}\n{table(header, rows)}"
    yield paragraph(
        f"Within a share of the full model's cost stands the {found.quality_is} of the best mixture of two "
        "settings; the area "
        "is its mean over all budgets. Saved is what the cheapest setting saves that lost nothing on the "
        "choosing half, "
        "beside what it loses on the other (± standard error). Struck out is whose equal or better stands beside it at "
        "every budget."
    )


def _policy(line: Line) -> list[str]:
    reached = [_reached(None if each is None else each.quality) for each in line.at.values()]
    lost = f"{line.loses:.4f} ± {line.loses_error:.4f}"
    struck = f"struck out: {line.dominated_by}" if line.dominated_by else ""
    return [line.name, *reached, f"{line.area:.4f}", f"{line.saves:.1%}", lost, struck]


def _reached(quality: float | None) -> str:
    return "out of reach" if quality is None else f"{quality:.4f}"
