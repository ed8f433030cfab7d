"""`eelit check`: everything that is wrong with the catalogue, at once."""

from __future__ import annotations

import click

from eelit.catalog.faults import INVALID_DATA
from eelit.cli.command import eelit_command, format_option
from eelit.cli.table import json_text


@eelit_command("eelit check", "eelit check --format json")
@format_option("text", "json")
@click.pass_context
def command(ctx: click.Context, style: str) -> None:
    """Check the whole catalogue and report all problems.

    Each problem is one line, `file:line: what is wrong; what to do`. Leaves with 3 if there are errors; warnings alone
    do not count.
    """
    from eelit.catalog.check import check
    from eelit.catalog.sources import sources

    problems = check(sources())
    errors = sum(problem.severity == "error" for problem in problems)
    if style == "json":
        click.echo(json_text([vars(problem) for problem in problems]))
    else:
        for problem in problems:
            click.echo(str(problem))
    said = f"{errors} errors, {len(problems) - errors} warnings" if problems else "the catalogue is sound"
    click.echo(f"eelit: {said}", err=True)
    ctx.exit(INVALID_DATA if errors else 0)
