"""`eelit cite`: references for a reference manager."""

from __future__ import annotations

import click

from eelit.bib.exports import EXPORTS
from eelit.cli.command import WorkName, eelit_command, format_option, open_catalogue


@eelit_command("eelit cite pabee deebert > refs.bib", "eelit cite zhou2020pabee --format csl-json", catalogue=True)
@click.argument("works", nargs=-1, required=True, type=WorkName(), metavar="KEY…")
@format_option(*EXPORTS)
def command(works: tuple[str, ...], style: str) -> None:
    """Print references as BibTeX, RIS or CSL-JSON.

    For the references of a search use `eelit find … --format bibtex`.
    """
    catalogue = open_catalogue()
    keys = dict.fromkeys(catalogue.resolve(name) for name in works)
    click.echo(EXPORTS[style](catalogue.record(key) for key in keys), nl=False)
