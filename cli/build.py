"""`eelit build`: make the catalogue database."""

from __future__ import annotations

from pathlib import Path

import click

from eelit.cli.command import chosen_database, eelit_command


@eelit_command("eelit build", "eelit build --db catalogue.sqlite", catalogue=True, extra="site")
def command() -> None:
    """Build the catalogue database.

    In a checkout this happens automatically whenever the sources change. The new file replaces the old one in a single
    step, so an existing database survives any failure.
    """
    from eelit.catalog.database import build
    from eelit.catalog.faults import Unavailable
    from eelit.catalog.fresh import SHIPPED, database_path
    from eelit.catalog.sources import sources

    path = database_path(chosen_database())
    if path == SHIPPED:
        raise Unavailable("an installed eelit includes its database; to build one elsewhere name it with --db")
    report = build(Path(path), sources())
    click.echo(f"built {report.path} ({report.works} works, {report.seconds:.1f} s)")
    errors = sum(problem.severity == "error" for problem in report.problems)
    if errors:
        click.echo(f"eelit: the sources have {errors} errors; `eelit check` lists them", err=True)
