"""`eelit find`: works by facet, text, year, author or venue."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from eelit.catalog.query import COUNTED, FACETS, FIDELITIES, SORTS, WORK_FIELDS, Found, Query
from eelit.cli.command import TermName, Words, eelit_command, format_option, nothing_found, open_catalogue
from eelit.cli.table import bold, json_text, paragraph, table, tsv

SHOWN = ("key", "short_name", "year", "policy", "title")
NEXT_TERMS = 6  # terms named per facet below a table


def parse_years(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int | None, int | None]:
    """Return first and last year of `2020`, `2019..2021`, `..2020` or `2020..`."""
    if value is None:
        return None, None
    found = re.fullmatch(r"(\d{4})?(\.\.)?(\d{4})?", value.strip())
    if not found or not (found[1] or found[3]) or (found[3] and not found[2]):
        raise click.BadParameter(f"`{value}` is not a year or a range such as 2019..2021, ..2020 or 2020..")
    first, last = (int(year) if year else None for year in (found[1], found[3]))
    if first is not None and last is not None and first > last:
        raise click.BadParameter(f"`{value}` ends before it begins; write {last}..{first}")
    return (first, last) if found[2] else (first, first)


def parse_fields(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Return the fields named, separated by commas."""
    names = () if value is None else tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in WORK_FIELDS:
            from eelit.bib.problems import did_you_mean

            hint = did_you_mean(name, WORK_FIELDS) or f"; known are {', '.join(WORK_FIELDS)}"
            raise click.BadParameter(f"unknown field `{name}`{hint}")
    return names


def _facet_option(facet: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(f"--{facet}", multiple=True, type=TermName(facet), metavar="TERM", help=text)


@eelit_command(
    "eelit find --policy patience",
    "eelit find --policy confidence --domain language --year 2020..",
    'eelit find --text "overthinking" --format keys',
    "eelit find --runnable --format bibtex",
    catalogue=True,
)
@_facet_option("placement", "Where exits are placed. Repeat for `or`.")
@_facet_option("training", "How the exits are trained.")
@_facet_option("policy", "Which exit policy decides to stop.")
@_facet_option("domain", "Task, data or setting.")
@_facet_option("role", "early-exit, neighbour or context.")
@click.option("--text", type=Words(), metavar="WORDS", help="Words of names, title, authors, idea or notes.")
@click.option("--year", callback=parse_years, metavar="YEARS", help="2020, 2019..2021, ..2020 or 2020..")
@click.option("--author", type=Words(), metavar="NAME", help="Part of an author's name.")
@click.option("--venue", type=Words(), metavar="NAME", help="Part of the venue's name.")
@click.option("--runnable", is_flag=True, help="Only works with an implementation here.")
@click.option(
    "--fidelity", multiple=True, type=click.Choice(FIDELITIES), help="Of the implementation here. Repeat for `or`."
)
@click.option("--sort", type=click.Choice([*SORTS, "relevance"]), help="Default: relevance with --text, else year.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(0, 10**9), help="Maximum number of works; 0 for all."
)
@click.option("--fields", callback=parse_fields, metavar="A,B,…", help=f"Of {', '.join(WORK_FIELDS)}.")
@format_option("table", "json", "tsv", "keys", "bibtex")
def command(**options: Any) -> None:
    """Find works by facet, text, year, author or venue.

    A facet that is given several times matches any of its terms; several facets must all match. A term also finds its
    narrower terms. Below the table are terms that narrow the result further, with the number of works each would leave.
    """
    fields, style = options["fields"], options["style"]
    terms = {facet: tuple(dict.fromkeys(options[facet])) for facet in COUNTED if options[facet]}
    if options["sort"] == "relevance" and not options["text"]:
        raise click.UsageError("--sort relevance needs --text")
    query = Query(
        terms=terms,
        text=options["text"] or "",
        first_year=options["year"][0],
        last_year=options["year"][1],
        author=options["author"] or "",
        venue=options["venue"] or "",
        runnable=options["runnable"],
        fidelity=tuple(dict.fromkeys(options["fidelity"])),
        sort=options["sort"] or "",
        limit=options["limit"],
    )
    catalogue = open_catalogue()
    found = catalogue.find(query)
    if style == "bibtex":
        from eelit.bib.exports import to_bibtex

        click.echo(to_bibtex(catalogue.record(work["key"]) for work in found.works), nl=False)
    else:
        _print(found, query, fields, style)
    if not found.total:
        nothing_found("no work matches; leave out a condition")
    if len(found.works) < found.total:
        click.echo(f"eelit: {len(found.works)} of {found.total} works are shown; --limit 0 shows all", err=True)


def _print(found: Found, query: Query, fields: tuple[str, ...], style: str) -> None:
    names = fields or (SHOWN if style == "table" else WORK_FIELDS)
    rows = [[work[name] for name in names] for work in found.works]
    if style == "json":
        works = [dict(zip(names, row, strict=True)) for row in rows]
        counts = {facet: dict(terms) for facet, terms in found.counts.items()}
        click.echo(json_text({"total": found.total, "works": works, "counts": counts}))
    elif style == "tsv":
        click.echo(tsv(names, rows))
    elif style == "keys" and found.works:
        click.echo("\n".join(work["key"] for work in found.works))
    elif style == "table" and found.works:
        click.echo(table([name.replace("_", " ") for name in names], rows))
        click.echo(f"\n{found.total} work{'s' if found.total != 1 else ''}{_next_step(found, query)}")


def _next_step(found: Found, query: Query) -> str:
    """Return the terms that would narrow the result, with what they would leave."""
    lines = []
    for facet in (*FACETS, "role"):
        if facet in query.terms:
            continue  # a further term of the same facet is an alternative: it would widen the result
        narrowing = [(term, works) for term, works in found.counts[facet] if works < found.total]
        if narrowing:
            named = ", ".join(f"{term}\u00a0{works}" for term, works in narrowing[:NEXT_TERMS])
            more = f", … {len(narrowing) - NEXT_TERMS} more" if len(narrowing) > NEXT_TERMS else ""
            lines.append(paragraph(f"{named}{more}", bold(f"  --{facet}".ljust(14)), " " * 14))
    return "\n".join([". To narrow further:", *lines]) if lines else ""
