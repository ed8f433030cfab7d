"""`eelit gaps`: which combinations of placement, policy and training nobody has tried."""

from __future__ import annotations

from dataclasses import asdict

import click

from eelit.catalog.gaps import Cell, Gap, above, cells, gaps
from eelit.catalog.query import Query
from eelit.cli.command import TermName, eelit_command, format_option, open_catalogue
from eelit.cli.table import bold, json_text, paragraph, table

SHOWN = 20
NOTE = (
    "works (of which run here). A work with several terms counts in several cells; broader terms count their narrower "
    "ones. A gap in the catalogue need not be one in the literature."
)


@eelit_command("eelit gaps", "eelit gaps --training distillation", "eelit gaps --format json", catalogue=True)
@click.option(
    "--training", type=TermName("training"), default="", metavar="TERM", help="Only works with this training."
)
@format_option("table", "json")
def command(training: str, style: str) -> None:
    """Show how many works combine a placement with a policy, and which combinations no work has."""
    catalogue = open_catalogue()
    terms = catalogue.taxonomy()
    broader = {(term.facet, term.term): term.broader for term in terms}
    facets = ("placement", "policy", "training")
    ways = {facet: {name: up for (kind, name), up in broader.items() if kind == facet} for facet in facets}
    if training:
        catalogue.find(Query(terms={"training": (training,)}))  # says so if there is no such term
    works = catalogue.find(Query()).works
    carried = {work["key"]: {facet: above(work[facet], ways[facet]) for facet in facets} for work in works}
    runs = {work["key"] for work in works if work["implemented"]}
    tops = {facet: [t.term for t in terms if t.facet == facet and not t.broader and t.works] for facet in facets}
    found = cells(carried, runs, tops["placement"], tops["policy"], training)
    every = {facet: [t.term for t in terms if t.facet == facet and t.works] for facet in facets}
    untried = gaps(carried, every["placement"], every["policy"], every["training"], ways)
    if style == "json":
        listed = [{"placement": a, "policy": b, **asdict(cell)} for (a, b), cell in found.items()]
        click.echo(json_text({"training": training or None, "cells": listed, "gaps": [asdict(gap) for gap in untried]}))
    else:
        click.echo(_report(found, tops["placement"], tops["policy"], untried))


def _report(found: dict[tuple[str, str], Cell], placements: list[str], policies: list[str], untried: list[Gap]) -> str:
    rows = [[row, *(_said(found[row, column]) for column in policies)] for row in placements]
    listed = [[gap.placement, gap.policy, gap.training, *gap.pairs] for gap in untried[:SHOWN]]
    head = ["placement", "policy", "training", "1st & 2nd", "1st & 3rd", "2nd & 3rd"]
    more = f" (the first {SHOWN} of {len(untried)})" if len(untried) > SHOWN else ""
    return "\n".join(
        [
            bold("PLACEMENT AND POLICY"),
            table(["", *policies], rows),
            paragraph(NOTE[:1].upper() + NOTE[1:]),
            "",
            f"{bold('COMBINED IN PAIRS, NEVER ALL THREE')}{more}",
            table(head, listed),
        ]
    )


def _said(cell: Cell) -> str:
    if not cell.works:
        return "-"
    return f"{len(cell.works)}" + (f" ({len(cell.runs)})" if cell.runs else "")
