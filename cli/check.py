"""`eelit check`: everything that is wrong with the catalogue, at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eelit.catalog.faults import INVALID_DATA
from eelit.cli.command import WorkName, eelit_command, format_option
from eelit.cli.table import json_text

if TYPE_CHECKING:
    from eelit.catalog.load import Loaded


@eelit_command("eelit check", "eelit check zhou2020pabee", "eelit check --format json", extra="site")
@click.argument("works", nargs=-1, type=WorkName(), metavar="[KEY…]")
@format_option("text", "json")
@click.pass_context
def command(ctx: click.Context, works: tuple[str, ...], style: str) -> None:
    """Check the whole catalogue and report all problems.

    Each problem is one line, `file:line: what is wrong; what to do`. Exits with 3 if there are errors; warnings do not
    count. If keys are given, only the problems of these works are reported and count.
    """
    from eelit.catalog.check import about, check_loaded
    from eelit.catalog.load import load
    from eelit.catalog.sources import sources

    loaded = load(sources())
    problems = check_loaded(loaded)
    if works:
        problems = about({key_of(name, loaded) for name in works}, problems, loaded)
    errors = sum(problem.severity == "error" for problem in problems)
    if style == "json":
        click.echo(json_text([vars(problem) for problem in problems]))
    else:
        for problem in problems:
            click.echo(str(problem))
    said = (
        f"{errors} errors, {len(problems) - errors} warnings"
        if problems
        else f"nothing is wrong with {', '.join(works) or 'the catalogue'}"
    )
    click.echo(f"eelit: {said}", err=True)
    ctx.exit(INVALID_DATA if errors else 0)


def key_of(name: str, loaded: Loaded) -> str:
    """Return the key that a name stands for in the sources, which may be too broken for a database."""
    from eelit.bib.problems import did_you_mean

    keys = {key.casefold(): key for key in loaded.known()}
    names = {entry.short_name.casefold(): key for key, entry in loaded.entries.items()} | keys
    if name.casefold() not in names:
        raise click.UsageError(f"no work has the key `{name}`{did_you_mean(name, sorted(keys.values()))}")
    return names[name.casefold()]
