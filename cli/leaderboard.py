"""`eelit leaderboard`: how the methods of a track compare at equal cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from math import isnan
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.query import Query
from eelit.cli.command import eelit_command, format_option, nothing_found, open_catalogue
from eelit.cli.run import method_key
from eelit.cli.table import bold, json_text, paragraph, table, tsv
from eelit.methods.harness.tracks import TRACKS

if TYPE_CHECKING:
    from eelit.methods.engine.records import Unreadable
    from eelit.methods.harness.bench import Board
    from eelit.methods.harness.summary import Row, Spread

HEADER = (
    "method",
    "variant",
    "fidelity",
    "quality",
    "± sd",
    "95 % interval",
    "minus the best",
    "level",
    "full model",
    "- static exit",
    "- max-confidence",
    "seeds",
)


track_option = click.option(
    "--track", "name", type=click.Choice(list(TRACKS)), default="text", show_default=True,
    help="Task and conditions of the comparison.",
)  # fmt: skip


@eelit_command("eelit leaderboard --track text", "eelit leaderboard --track images --at 0.25")
@track_option
@click.option(
    "--at", "share", type=click.FloatRange(0, 1, min_open=True), default=0.5, show_default=True,
    help="Share of the full model's cost.",
)  # fmt: skip
@format_option("table", "json", "tsv")
def command(name: str, share: float, style: str) -> None:
    """Rank the methods of a track at equal cost.

    Every figure is a mean over seeds, from results that this code measured and that are stored with it. A row marked
    `stale` was measured by older code. A file that is not a result is left out, and stderr names it.

    Rows such as `max-confidence@KEY` are baselines: a simple exit rule on a method's network, with the same trained
    weights. The 95 % intervals cover other test samples and seeds. `level` marks rows that cannot be distinguished from
    the best row when both are compared sample by sample.
    """
    from eelit.methods.harness import bench

    if isnan(share):
        raise click.UsageError("--at takes a share between 0 and 1, not nan")
    board = bench.board(name, share)
    say_unreadable(board.unreadable, board.unpaired)
    trust, told = _trusted(board)
    if style == "json":
        rows = [{"id": row.id} | asdict(row) | told[row.id] for row in board.rows]
        lacking = [asdict(each) for each in board.not_run]
        click.echo(json_text({"track": name, "at": share, "rows": rows, "not_run": lacking}))
    elif style == "tsv":
        click.echo(tsv(HEADER, [_cells(row, share, trust) for row in board.rows]))
    elif board.rows:
        click.echo(_report(board, TRACKS[name].conditions, share, trust))
        load = f", load {board.loads[0]:.1f} to {board.loads[1]:.1f}" if board.loads else ""
        click.echo(
            f"eelit: {board.runs} runs, at most {board.hours:.1f} hours, on {'; '.join(board.machines)}{load}", err=True
        )
    if not board.rows:
        nothing_found(f"nothing was measured on the track `{name}` yet; `eelit bench --track {name}` does it")


def _trusted(board: Board) -> tuple[Trust, dict[str, dict[str, Any]]]:
    """Return the fidelity of each row, and whether it is an ablation: in words, and for programs."""
    catalogue = open_catalogue()
    fidelity = {work["key"]: work["fidelity"] for work in catalogue.find(Query()).works}
    known = set(catalogue.keys())
    entries = {row.key: catalogue.work(row.key).entry for row in board.rows if row.key in known}
    ablations = {(key, name) for key, entry in entries.items() for name in entry["implementation"]["ablations"]}
    words: Trust = {}
    told: dict[str, dict[str, Any]] = {}
    for row in board.rows:
        left_out = not row.rule and (row.key, row.variant) in ablations
        words[row.id] = "baseline" if row.rule else fidelity.get(row.key, "") + (", ablation" if left_out else "")
        told[row.id] = {"fidelity": None if row.rule else fidelity.get(row.key), "ablation": left_out}
    return words, told


def on_track(names: Iterable[str], track: str) -> list[str]:
    """Return the keys of the named methods, each once. Raises `click.UsageError` if one is not on the track."""
    from eelit.methods.harness import bench

    members = bench.members(track)
    keys = list(dict.fromkeys(method_key(name) for name in names))
    for key in keys:
        if key not in members:
            raise click.UsageError(f"{key} is not measured on the track `{track}`; its methods: {', '.join(members)}")
    return keys


def say_unreadable(faults: Iterable[Unreadable], unpaired: Iterable[Unreadable] = ()) -> None:
    """Name on stderr the files that are no results. The exit code tells only whether others are left."""
    for fault in faults:
        click.echo(f"eelit: {fault}; `eelit bench` measures again", err=True)
    for fault in unpaired:
        click.echo(f"eelit: {fault}; intervals are computed without that seed", err=True)


Trust = dict[str, str]
"""Row → fidelity of the implementation, and whether the variant is an ablation or a baseline."""


def _report(board: Board, conditions: str, share: float, trust: Trust) -> str:
    from eelit.site.generator.tested import heading, trained, uncertain

    rule = (
        f"Within {share:.0%} of the cost is what the best mixture of two knobs, chosen on validation data, reaches "
        "on test data. Gains are over two baselines with the same trained weights, seed by seed. The 95 % intervals "
        "cover other test samples and seeds; the difference from the best row is computed sample by sample. A row is "
        "level with the best if the difference is not significant (at 5 %, corrected for all comparisons by Holm)."
    )
    parts = [paragraph(conditions), paragraph(rule)]
    for _, together in groupby(board.rows, key=lambda row: row.group):
        group = list(together)
        title = bold(f"{heading(group[0]).upper()}, WITHIN {share:.0%} OF THE FULL MODEL'S COST")
        notes = _folded(
            (" ".join(filter(None, (row.key, row.variant))), f": trained with {said}")
            for row in group
            if not row.rule and (said := trained(row, board))
        )
        notes += [
            paragraph(f"{row.id}: also for {', '.join(row.shared)}, with the same trained weights", "  - ", "    ")
            for row in group
            if row.shared
        ]
        notes += [paragraph(said, "  - ", "    ") for said in uncertain(group, share)]
        parts.append("\n".join([title, table(HEADER, [_cells(row, share, trust) for row in group]), *notes]))
    if otherwise := _otherwise(board.rows):
        parts.append("\n".join([bold("TRAINED OTHERWISE"), *_folded(otherwise)]))
    if board.not_run:
        lines = _folded((each.key, f", {each}") for each in board.not_run)
        parts.append("\n".join([bold("NOT MEASURED"), *lines]))
    return "\n\n".join(parts)


def _otherwise(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return of which methods how their training differs; of which variants, where it does not do so for all alike."""
    said: dict[str, dict[str, str]] = {}
    for row in rows:
        if not row.rule:
            said.setdefault(row.key, {})[row.variant] = row.trained_otherwise
    return [
        (f"{key} {variant}".strip() if len(set(variants.values())) > 1 else key, f": {text}")
        for key, variants in said.items()
        for variant, text in (variants.items() if len(set(variants.values())) > 1 else [*variants.items()][:1])
        if text
    ]


def _folded(said: Iterable[tuple[str, str]]) -> list[str]:
    """Return one item of a list for each sentence, which first names all of which it is said."""
    named: dict[str, list[str]] = {}
    for name, sentence in said:
        named.setdefault(sentence, []).append(name)
    return [paragraph(", ".join(names) + sentence, "  - ", "    ") for sentence, names in named.items()]


def _cells(row: Row, share: float, trust: Trust) -> list[str]:
    reached = row.at[share]
    standing = row.standings.get(share)
    behind = standing.behind if standing else None
    gains = [row.against.get(name, {}).get(share) for name in ("static exit", "max-confidence")]
    return [
        row.who,
        row.variant,
        trust[row.id],
        f"{reached.mean:.4f}" if reached else "out of reach",
        _deviation(reached),
        f"{standing.quality.low:.4f} to {standing.quality.high:.4f}" if standing else "",
        f"{behind.low:+.4f} to {behind.high:+.4f}" if behind and behind.deviation else "",
        row.place(share),
        f"{row.full.mean:.4f}",
        *(f"{gain.mean:+.4f} ± {_deviation(gain)}".removesuffix(" ± ") if gain else "" for gain in gains),
        f"{len(row.seeds)}" + ("" if row.current else " stale"),
    ]


def _deviation(spread: Spread | None) -> str:
    return f"{spread.deviation:.4f}" if spread and spread.deviation is not None else ""
