"""`eelit taxonomy`: the terms of the facets."""

from __future__ import annotations

from typing import Any

import click

from eelit.catalog.query import COUNTED, FACETS, Term
from eelit.cli.command import eelit_command, format_option, open_catalogue
from eelit.cli.table import bold, json_text, table, tsv


@eelit_command("eelit taxonomy", "eelit taxonomy policy", "eelit taxonomy domain --format tsv", catalogue=True)
@click.argument("facet", required=False, type=click.Choice(COUNTED))
@format_option("table", "json", "tsv", "keys")
def command(facet: str | None, style: str) -> None:
    """Show the terms of the four facets, and how many works have each.

    FACET is placement, training, policy or domain (or role). Narrower terms are indented under their broader term; a
    search for the broader term finds them too, and the numbers include them.
    """
    terms = open_catalogue().taxonomy(facet or "")
    if not facet:
        terms = [term for term in terms if term.facet in FACETS]
    if style == "json":
        click.echo(json_text([term._asdict() for term in terms]))
    elif style == "tsv":
        click.echo(tsv(Term._fields, terms))
    elif style == "keys":
        click.echo("\n".join(term.term for term in terms))
    else:
        click.echo("\n\n".join(_facet(name, terms) for name in dict.fromkeys(term.facet for term in terms)))


def _facet(name: str, terms: list[Term]) -> str:
    own = [term for term in terms if term.facet == name]
    rows: list[list[Any]] = []

    def add(broader: str | None, depth: int) -> None:
        for term in own:
            if term.broader == broader:
                also = f" Also: {', '.join(term.synonyms)}." if term.synonyms else ""
                rows.append(["  " * depth + term.term, term.works, term.definition + also])
                add(term.term, depth + 1)

    add(None, 0)
    return f"{bold(name.upper())}\n{table(['term', 'works', 'meaning'], rows)}"
